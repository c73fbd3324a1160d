// Package cni is the node's side of the Container Network Interface: it answers what weft-cni asks
// over the root-only Unix socket (package rpc), gives one pod its link, addresses and
// WorkloadEndpoint record, and takes them away again. It owns the Registry, the journal of the
// pods attached on this host.
//
// It does not decide which address a pod gets (IPAM does) and writes no route: whoever runs the
// node compiles routes from Registry.Endpoints and tells by Config.Apply when they are in place.
package cni

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"time"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
)

// Config is what a Server needs. All fields are required except where said.
type Config struct {
	// Node is this node's name: WorkloadEndpoint.spec.node.
	Node string
	// Socket is the path of the Unix socket; its directory is created root-only if absent.
	Socket string
	// Registry holds what is attached here; see OpenRegistry.
	Registry *Registry
	// Links makes the pods' links: *kernel.PodLinks.
	Links LinkMaker
	IPAM  IPAM
	// Namespace, optional, returns what is known of a Kubernetes namespace: its labels and
	// annotations decide which pools its pods may use.
	Namespace func(name string) (labels, annotations map[string]string)
	// Hear, optional, returns when the node knows what was written into the store before the call, or cannot for now. An ADD
	// asks it beside Describe.
	Hear func(ctx context.Context)
	// Describe, optional, asks Kubernetes what a pod is: its WorkloadEndpoint but for the addresses. What it says stands
	// in place of the runtime's arguments.
	Describe func(ctx context.Context, namespace, pod string) (*v3.WorkloadEndpoint, error)
	// WriteRecord, optional, writes the record of a pod that Describe has described, whatever the store has of it; its UID
	// is the pod's.
	WriteRecord func(ctx context.Context, w *v3.WorkloadEndpoint) error
	// Store receives all other WorkloadEndpoint records.
	Store datastore.Store
	// MTU returns the MTU of pod links in bytes, or an error that says why it is not known yet.
	MTU func() (int, error)
	// Ready returns nil when the node can attach pods, else why not (a sentence). STATUS and ADD
	// report it.
	Ready func() error
	// Apply returns when everything that Registry.Endpoints held at the call is programmed (routes,
	// policy), or with the reason why it is not. ADD waits for it before the pod can send.
	Apply func(ctx context.Context) error
	// Policy, optional, enforces policy on the pods. An ADD waits for it before the pod can send.
	Policy Enforcer
	// Observe, optional, is told of every call: operation (ADD...), result ("ok" or "error") and
	// how long it took.
	Observe func(op, result string, d time.Duration)
	// Log is optional.
	Log *slog.Logger
	// Step, optional, is called with a name before every step of ADD and DEL; an error fails the
	// step. Tests use it to fail or die there.
	Step func(step string) error
}

// Enforcer has policy in the kernel for the pods of this host.
type Enforcer interface {
	// Attach tells of a pod that is attached or about to be, and of its record, which is about to be
	// written; nil: it is in the store.
	Attach(pod policies.Attachment, record *v3.WorkloadEndpoint)
	// Detach tells of a pod that is about to lose its link, or has lost it.
	Detach(id model.EndpointID)
	// Enforced returns when the policy of all pods that were attached before is in the kernel, or when
	// it is certain that nothing passes to and from those for which it is not. An error means that
	// packets may pass by policy.
	Enforced(ctx context.Context) error
}

// LinkMaker makes and removes the link of one pod. ns is an open network namespace.
// *kernel.PodLinks implements it.
type LinkMaker interface {
	// CheckNamespace refuses what is no network namespace, or is this host's own.
	CheckNamespace(ns *os.File) error
	// Create makes the veth pair, both sides down, the peer directly in ns, and returns the MAC of
	// the pod side.
	Create(ctx context.Context, ns *os.File, l kernel.PodLink) (model.MAC, error)
	// Configure sets the host side up, so that routes can point to it. The pod side stays down:
	// nothing can be sent yet.
	Configure(ctx context.Context, l kernel.PodLink) error
	// Routed tells whether the host's routes to the addresses lead into the link.
	Routed(ctx context.Context, l kernel.PodLink) error
	// Activate sets the pod side up with its addresses and routes.
	Activate(ctx context.Context, ns *os.File, l kernel.PodLink) error
	// Check tells what is not as Create, Configure and Activate left it.
	Check(ctx context.Context, ns *os.File, l kernel.PodLink) error
	// Delete removes the pair by its host side; an absent one is not an error.
	Delete(ctx context.Context, device string) error
	// Devices lists the host sides that exist.
	Devices(ctx context.Context) (map[string]kernel.Link, error)
}

// IPAM hands out addresses. A handle names their owner: one attachment of one container. See
// FromAllocator.
type IPAM interface {
	// Assign gives the handle its addresses: one a family asked for, all or none. Asked again for
	// the same handle it gives the same ones.
	Assign(ctx context.Context, r AddressRequest) ([]netip.Addr, error)
	// Keep makes the store say that the handle holds the request's addresses, which it was given before, and returns
	// those of which it did not. Where another owner has one the error is an *ipam.TakenError.
	Keep(ctx context.Context, r AddressRequest) ([]netip.Addr, error)
	// Release gives back whatever the handle holds; holding nothing is not an error.
	Release(ctx context.Context, handle string) error
}

// AddressRequest is what one attachment asks of IPAM.
type AddressRequest struct {
	Handle string
	// IPv4, IPv6 tell the wanted families. Both nil: every family that has a pool for this pod;
	// otherwise both are set.
	IPv4, IPv6 *bool
	// IPv4Pools, IPv6Pools are names or CIDRs of pools; empty: any.
	IPv4Pools, IPv6Pools []string
	// Addresses are fixed addresses that the pod asks for, at most one a family.
	Addresses []netip.Addr
	// NamespaceLabels are those of Config.Namespace.
	NamespaceLabels map[string]string
	// Attributes are stored with the addresses: namespace and pod, and the pod's UID where known
	// (keys ipam.AttrNamespace, ipam.AttrPod, ipam.AttrPodUID).
	Attributes map[string]string
}
