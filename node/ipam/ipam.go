// Package ipam gives out addresses: it picks pool and block, keeps a node's affinity blocks, and
// changes blocks in the store by compare-and-swap only, so that no two owners ever get the same
// address. It also tells what is in use (Show) and what does not fit together (Check).
//
// It does not configure anything: a caller (the CNI server, the tunnel address keeper) puts the
// address to use. Which addresses within a block are free is package block's business, pure and
// without I/O.
//
// Order of writes, so that a crash between any two of them leaves nothing that the next attempt or
// a release does not find: an owner's IPAMHandle names a block before the block names the owner,
// and goes after it; a BlockAffinity is pending before the block exists, and confirmed after.
package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/model"
)

// The purposes an address is asked for, IPPool.spec.allowedUses.
const (
	UseWorkload = string(v3.UseWorkload)
	UseTunnel   = string(v3.UseTunnel)
)

// Keys of what is stored with an allocation, for people and for Check.
const (
	AttrNamespace = "namespace"
	AttrPod       = "pod"
	AttrPodUID    = "podUID"
	AttrNode      = "node"
	AttrTime      = "timestamp" // RFC 3339
	AttrType      = "type"      // of a tunnel address: "vxlanTunnelAddress", ...
)

// Request asks for the addresses of one owner.
type Request struct {
	// HandleID names the owner: one attachment of one container, or one tunnel device of a node.
	HandleID string
	// Namespace, Pod and PodUID are stored with the addresses; empty for a tunnel.
	Namespace, Pod, PodUID string
	// NamespaceLabels are what IPPool.spec.namespaceSelector is matched against.
	NamespaceLabels map[string]string
	// Families wanted, one address each. None: every family that has a pool for this owner, and those that
	// Pools names.
	Families []model.Family
	// Pools restricts a family to these pools (names or CIDRs); the caller has chosen between the
	// annotations of pod and namespace and its own configuration. Blocks that the node has already
	// come first, then new ones in the order of the pools. A pool whose assignmentMode is Manual is
	// used only when it is asked for in this way.
	Pools map[model.Family][]string
	// Addresses are fixed addresses, at most one a family; they stand for their families.
	Addresses []netip.Addr
	// Use is UseWorkload (also when empty) or UseTunnel.
	Use string
	// Attributes are stored as well.
	Attributes map[string]string
}

// Assignment is what one owner got: one address a family, IPv4 first.
type Assignment struct {
	Addresses []AssignedAddress
}

// AssignedAddress is one address that is now in use.
type AssignedAddress struct {
	Addr     netip.Addr
	Block    netip.Prefix
	Pool     string // name of the pool
	Sequence uint64 // of this allocation of the address, see AddressRef
}

// AddressRef names one allocation: a release of it does nothing if the address went to another
// owner since, or to the same again.
type AddressRef struct {
	Addr     netip.Addr
	HandleID string
	Sequence uint64 // 0 does not check it
}

// Cluster is what the allocator has to know beside blocks. It is not modified.
type Cluster struct {
	Pools        []*v3.IPPool
	Reservations []*v3.IPReservation
	Config       *v3.IPAMConfiguration // nil: the defaults
	NodeLabels   map[string]string     // of the allocator's own node
}

// View returns the current Cluster: from a watch, or as StoreView from the store.
type View func(ctx context.Context) (*Cluster, error)

// Options of an Allocator. The zero value works.
type Options struct {
	// View is where pools and settings come from; StoreView(store, node) when nil.
	View View
	// Fresh, optional, is View with the pools that the store has at this moment. It is asked before a workload's request is
	// refused: a pool that was made just now may not have come to View yet.
	Fresh View
	// InUse tells that something on this host uses the address although its block may say that it
	// is free (after the store lost its last writes, say). Such an address is skipped and logged.
	InUse func(netip.Addr) bool
	// Log receives changes of this node's blocks and skipped addresses; discarded when nil.
	Log *slog.Logger
	// Timeout bounds one store call of a block update, which serves several callers; 5 s when 0.
	Timeout time.Duration
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// PoolReason says why a pool gave no address.
type PoolReason struct {
	Pool   string `json:"pool"`
	CIDR   string `json:"cidr,omitempty"`
	Reason string `json:"reason"`
}

// ExhaustedError tells that no pool has an address for a request, and of each pool why.
type ExhaustedError struct {
	Family model.Family
	Owner  string
	Node   string
	Pools  []PoolReason
}

// Error lists every pool with its reason.
func (e *ExhaustedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "assign %v address to %s on node %s: ", e.Family, e.Owner, e.Node)
	if len(e.Pools) == 0 {
		fmt.Fprintf(&b, "there is no %v pool: create an IPPool", e.Family)
		return b.String()
	}
	b.WriteString("no usable pool has a free address: ")
	for i, p := range e.Pools {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.Pool)
		if p.CIDR != "" {
			b.WriteString(" (" + p.CIDR + ")")
		}
		b.WriteString(": " + p.Reason)
	}
	return b.String()
}

// owner names who asks, for people.
func (r *Request) owner() string {
	if r.Pod != "" {
		return r.Namespace + "/" + r.Pod
	}
	return r.HandleID
}

func (r *Request) use() string {
	if r.Use == "" {
		return UseWorkload
	}
	return r.Use
}

// validate returns the families wanted; none means all that have a pool.
func (r *Request) validate() ([]model.Family, error) {
	if r.HandleID == "" {
		return nil, fmt.Errorf("assign addresses to %s: the request names no handle", r.owner())
	}
	if u := r.use(); u != UseWorkload && u != UseTunnel {
		return nil, fmt.Errorf("assign addresses to %s: use %q, want %s or %s", r.owner(), u, UseWorkload, UseTunnel)
	}
	families := slices.Clone(r.Families)
	fixed := map[model.Family]netip.Addr{}
	for _, a := range r.Addresses {
		f := model.FamilyOf(a)
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return nil, fmt.Errorf("assign address %v to %s: want a plain IPv4 or IPv6 address", a, r.owner())
		}
		if other, twice := fixed[f]; twice {
			return nil, fmt.Errorf("assign addresses %v and %v to %s: want at most one %v address", other, a, r.owner(), f)
		}
		fixed[f] = a
		families = append(families, f)
	}
	for _, f := range families {
		if f != model.IPv4 && f != model.IPv6 {
			return nil, fmt.Errorf("assign addresses to %s: family %d, want 4 or 6", r.owner(), int(f))
		}
	}
	slices.Sort(families)
	return slices.Compact(families), nil
}

// fixed returns the address of family f that was asked for, if any.
func (r *Request) fixed(f model.Family) (netip.Addr, bool) {
	for _, a := range r.Addresses {
		if model.FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}
