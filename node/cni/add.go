package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/model"
	"weft/node/cni/rpc"
)

// The steps of ADD and DEL, as Config.Step sees them: each is called before the step begins.
const (
	stepJournal   = "journal"   // write the intent
	stepAssign    = "assign"    // addresses, beside link
	stepLink      = "link"      // the veth pair, both sides down
	stepConfigure = "configure" // host side up
	stepShow      = "show"      // the endpoint is among Registry.Endpoints
	stepApply     = "apply"     // the node programs it, beside record
	stepRecord    = "record"    // the WorkloadEndpoint
	stepPolicy    = "policy"    // policy is in the kernel, beside apply and record
	stepActivate  = "activate"  // pod side up
	stepCommit    = "commit"    // the journal says ready
	stepAnswer    = "answer"    // all is done, the runtime does not know yet

	stepUnlink  = "unlink"  // DEL: remove the link
	stepUnname  = "unname"  // DEL: remove the record
	stepRelease = "release" // DEL: give the addresses back
	stepForget  = "forget"  // DEL: remove the journal entry
)

// adding is one ADD under way.
type adding struct {
	*Server
	conf  *netConf
	netns *os.File
	a     attachment
	want  AddressRequest
	steps *stepTimes
}

// add attaches a container: all of it, or nothing is left behind.
func (s *Server) add(ctx context.Context, r *rpc.Request, from caller, steps *stepTimes) ([]byte, error) {
	op, err := s.prepare(ctx, r, from.netns, steps)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, &op.a)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// A runtime that has given up DELs, and where that was done already nobody would DEL again.
	if from.gone() {
		return nil, rpc.Errorf(rpc.CodeTryAgain, "the plugin was ended before pod %s was attached", op.a.id())
	}
	if err := s.makeRoom(ctx, &op.a); err != nil {
		return nil, err
	}
	if err := op.attach(ctx); err != nil {
		return nil, s.undo(ctx, &op.a, err)
	}
	return op.conf.result(&op.a)
}

// prepare checks the request, waits for a node that is about to be ready, and decides everything that
// needs no I/O but the namespace's check.
func (s *Server) prepare(ctx context.Context, r *rpc.Request, netns *os.File, steps *stepTimes) (*adding, error) {
	conf, rerr := parseConf(r, s.cfg.Node)
	if rerr != nil {
		return nil, rerr
	}
	pod, rerr := parseArgs(r)
	if rerr != nil {
		return nil, rerr
	}
	if netns == nil {
		return nil, rpc.Errorf(rpc.CodeInvalidNetns, "no network namespace came with the request (CNI_NETNS is %q)", r.Netns)
	}
	if err := s.cfg.Links.CheckNamespace(netns); err != nil {
		return nil, rpc.Errorf(rpc.CodeInvalidNetns, "CNI_NETNS is %s: %v", r.Netns, err)
	}
	if err := s.awaitReady(ctx, conf.MTU == 0); err != nil {
		return nil, rpc.Errorf(rpc.CodeTryAgain, "node %s cannot attach pods yet: %v", s.cfg.Node, err)
	}
	var heard sync.WaitGroup
	if s.cfg.Hear != nil {
		heard.Go(func() { defer steps.begin("hear")(); s.cfg.Hear(ctx) })
	}
	described := steps.begin("describe")
	err := s.describe(ctx, &pod, conf)
	described()
	heard.Wait()
	if err != nil {
		return nil, rpc.Errorf(rpc.CodeTryAgain, "learn what pod %s/%s is: %v", pod.Namespace, pod.Pod, err)
	}
	op := &adding{Server: s, conf: conf, netns: netns, a: s.newAttachment(r, conf.Name, pod), steps: steps}
	op.a.Told = tell(pod, conf)
	return op, op.decide()
}

// describe lets Kubernetes say what a pod is, where it can be asked. Without an answer the pod is not attached: policy
// would be that of a pod without labels.
func (s *Server) describe(ctx context.Context, p *podIdentity, c *netConf) error {
	if s.cfg.Describe == nil || p.Orchestrator != "k8s" {
		return nil
	}
	w, err := s.cfg.Describe(ctx, p.Namespace, p.Pod)
	switch {
	case err != nil:
		return err
	case p.UID != "" && string(w.UID) != p.UID:
		return fmt.Errorf("it is another pod of that name by now, of UID %s and not %s", w.UID, p.UID)
	case w.Spec.Node != s.cfg.Node:
		return fmt.Errorf("it is bound to node %q, and this is %s", w.Spec.Node, s.cfg.Node)
	}
	p.UID = string(w.UID)
	c.Args.CNI.Labels = nil
	for k, v := range w.Labels {
		c.Args.CNI.Labels = append(c.Args.CNI.Labels, struct{ Key, Value string }{k, v})
	}
	c.Args.Weft = podArgs{Annotations: w.Annotations, ServiceAccount: w.Spec.ServiceAccountName}
	for _, port := range w.Spec.Ports {
		if port.Name != "" {
			c.Args.Weft.Ports = append(c.Args.Weft.Ports, podPort{port.Name, port.Protocol.String(), port.Port})
		}
	}
	return nil
}

// awaitReady returns nil as soon as the node can attach pods, and knows their MTU where that is
// asked for; else, in the end, why not. A runtime would only come again a little later, and a node
// that has just started, or whose store is back, needs less than that.
func (s *Server) awaitReady(ctx context.Context, mtu bool) error {
	for start := time.Now(); ; {
		err := s.cfg.Ready()
		if err == nil && mtu {
			_, err = s.cfg.MTU()
		}
		if err == nil || time.Since(start) > readyTimeout {
			return err
		}
		select {
		case <-time.After(readyPause):
		case <-ctx.Done():
			return err
		}
	}
}

// newAttachment returns the attachment that a request is about.
func (s *Server) newAttachment(r *rpc.Request, network string, p podIdentity) attachment {
	a := attachment{
		Network: network, ContainerID: r.ContainerID, IfName: r.IfName, Netns: r.Netns,
		Namespace: p.Namespace, Pod: p.Pod, State: stateAdding, Boot: s.boot, Created: time.Now().UTC(),
	}
	a.Device = kernel.PodDeviceName(a.id())
	a.Handle = handleOf(network, a.key())
	a.Record = recordName(s.cfg.Node, p.Orchestrator, p.Pod, r.IfName)
	return a
}

// decide fills in MTU, MAC and what is asked of address management.
func (op *adding) decide() error {
	op.a.Forwarding = op.conf.Container.AllowIPForwarding
	op.a.FixedMTU = op.conf.MTU != 0
	if op.a.MTU = op.conf.MTU; !op.a.FixedMTU {
		mtu, err := op.cfg.MTU()
		if err != nil {
			return rpc.Errorf(rpc.CodeTryAgain, "the MTU of pods is not known yet: %v", err)
		}
		op.a.MTU = mtu
	}
	bad := func(err error) error { return rpc.Errorf(rpc.CodeInvalidConfig, "pod %s: %v", op.a.id(), err) }
	var nsLabels, nsAnnotations map[string]string
	if op.cfg.Namespace != nil {
		nsLabels, nsAnnotations = op.cfg.Namespace(op.a.Namespace)
	}
	families, err := op.conf.IPAM.families()
	if err != nil {
		return bad(err)
	}
	pools, err := op.conf.pools(op.conf.Args.Weft.Annotations, nsAnnotations)
	if err != nil {
		return bad(err)
	}
	fixed, mac, err := op.conf.Args.Weft.fixed()
	if err != nil {
		return bad(err)
	}
	if !mac.IsZero() {
		op.a.MAC = mac.String()
	}
	op.want = AddressRequest{Handle: op.a.Handle, IPv4Pools: pools[model.IPv4], IPv6Pools: pools[model.IPv6],
		Addresses: fixed, NamespaceLabels: nsLabels, Attributes: op.a.attributes()}
	if families != nil {
		v4, v6 := slices.Contains(families, model.IPv4), slices.Contains(families, model.IPv6)
		op.want.IPv4, op.want.IPv6 = &v4, &v6
	}
	return nil
}

// makeRoom deals with what an earlier ADD left: an unfinished attachment of the same container is
// removed, and an older sandbox of the same pod loses device and record to the new one.
func (s *Server) makeRoom(ctx context.Context, a *attachment) error {
	if old, there := s.cfg.Registry.get(a.key()); there {
		if old.State == stateReady {
			return rpc.Errorf(rpc.CodeAlreadyAttached, "container %s has %s already: the runtime must DEL it first", a.ContainerID, a.IfName)
		}
		if err := s.detach(ctx, *old); err != nil {
			return rpc.Errorf(rpc.CodeTryAgain, "an earlier attachment of container %s is not cleaned yet: %v", a.ContainerID, err)
		}
	}
	old, there := s.cfg.Registry.holder(a.Device)
	if !there {
		return nil
	}
	taken := *old
	taken.Superseded = true
	s.cfg.Registry.hide(old.key())
	if err := s.cfg.Registry.save(taken); err != nil {
		return err
	}
	s.log.Info("a new sandbox takes over the pod", "pod", a.id().String(), "old", old.ContainerID, "new", a.ContainerID)
	if err := s.cfg.Links.Delete(ctx, a.Device); err != nil {
		return fmt.Errorf("remove the link of the pod's earlier sandbox %s: %w", old.ContainerID, err)
	}
	return nil
}

// attach does the work, in order; the caller undoes it on error.
func (op *adding) attach(ctx context.Context) error {
	if err := op.step(stepJournal, func() error { return op.cfg.Registry.save(op.a) }); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	var addrs []netip.Addr
	var mac model.MAC
	g.Go(func() error {
		return op.step(stepAssign, func() (err error) {
			addrs, err = op.cfg.IPAM.Assign(gctx, op.want)
			return err
		})
	})
	g.Go(func() error {
		return op.step(stepLink, func() (err error) {
			mac, err = op.createLink(gctx)
			return err
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	op.a.Addresses, op.a.MAC = addrs, mac.String()
	if err := op.checkAddresses(); err != nil {
		return err
	}
	if err := op.step(stepConfigure, func() error { return op.cfg.Links.Configure(ctx, op.a.link()) }); err != nil {
		return err
	}
	return op.finish(ctx)
}

// finish makes the configured link part of the cluster, and only then lets the pod send.
func (op *adding) finish(ctx context.Context) error {
	w := record(op.cfg.Node, &op.a)
	if err := op.step(stepShow, func() error {
		op.cfg.Registry.show(op.a)
		if op.cfg.Policy != nil {
			op.cfg.Policy.Attach(op.a.forPolicy(), w.DeepCopy()) // the store's client has w for itself
		}
		return nil
	}); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return op.step(stepApply, func() error { return op.program(gctx) })
	})
	g.Go(func() error {
		return op.step(stepRecord, func() error { return op.putRecord(gctx, w, uidOf(&op.a)) })
	})
	if op.cfg.Policy != nil {
		g.Go(func() error {
			return op.step(stepPolicy, func() error {
				if err := op.cfg.Policy.Enforced(gctx); err != nil {
					return fmt.Errorf("program the policy of pod %s: %w", op.a.id(), err)
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := op.step(stepActivate, func() error { return op.cfg.Links.Activate(ctx, op.netns, op.a.link()) }); err != nil {
		return err
	}
	ready := op.a
	ready.State = stateReady
	if err := op.step(stepCommit, func() error { return op.cfg.Registry.save(ready) }); err != nil {
		return err
	}
	if now, there := op.cfg.Registry.get(op.a.key()); there { // the node's MTU may have changed meanwhile
		ready.MTU = now.MTU
	}
	op.a = ready
	return op.step(stepAnswer, func() error { return nil })
}

// program waits until the kernel's routes lead to the pod. Apply alone does not tell: where an
// earlier pod had the same device name and address, the node may not have heard yet that the kernel
// dropped that one's route with its link.
func (op *adding) program(ctx context.Context) error {
	for start := time.Now(); ; {
		err := op.cfg.Apply(ctx)
		if err == nil {
			if err = op.cfg.Links.Routed(ctx, op.a.link()); err == nil {
				return nil
			}
		} else {
			op.hideGone(ctx)
		}
		if time.Since(start) > programTimeout || ctx.Err() != nil {
			return fmt.Errorf("program the routes of pod %s: %w", op.a.id(), err)
		}
		select {
		case <-time.After(programPause):
		case <-ctx.Done():
		}
	}
}

// hideGone takes pods whose link somebody removed from Registry.Endpoints: the node cannot program
// them, and that must not keep it from programming others.
func (s *Server) hideGone(ctx context.Context) {
	before := s.cfg.Registry.visible()
	devices, err := s.cfg.Links.Devices(ctx)
	if err != nil {
		return // the next attempt meets the same trouble and reports it
	}
	for _, a := range before {
		if _, there := devices[a.Device]; !there {
			s.cfg.Registry.hide(a.key())
			s.log.Warn("cni: the link of a pod was removed by somebody else; the pod is cut off until it is deleted",
				"pod", a.id().String(), "device", a.Device)
		}
	}
}

// createLink makes the veth pair. A device of that name which nobody in the journal holds is a
// leftover (the journal was lost) and is replaced: the pod's identity is in its name.
func (op *adding) createLink(ctx context.Context) (model.MAC, error) {
	mac, err := op.cfg.Links.Create(ctx, op.netns, op.a.link())
	if errors.Is(err, unix.EEXIST) {
		if err := op.cfg.Links.Delete(ctx, op.a.Device); err != nil {
			return mac, err
		}
		mac, err = op.cfg.Links.Create(ctx, op.netns, op.a.link())
	}
	if errors.Is(err, kernel.ErrPodInterfaceExists) {
		return mac, rpc.Errorf(rpc.CodeInterfaceExists, "the container already has an interface %s; remove it, or choose another CNI_IFNAME", op.a.IfName)
	}
	return mac, err
}

// checkAddresses refuses an address that a link of this host already has, whatever the store
// says: after a rollback of the store it may offer addresses that are in use.
func (op *adding) checkAddresses() error {
	if len(op.a.Addresses) == 0 {
		return fmt.Errorf("address management gave pod %s no address", op.a.id())
	}
	for _, ip := range op.a.Addresses {
		if other, used := op.cfg.Registry.user(ip, op.a.key()); used {
			return rpc.Errorf(rpc.CodeTryAgain, "address %s was assigned to pod %s, but container %s has it: see `weft ipam check`", ip, op.a.id(), other.container)
		}
		if model.FamilyOf(ip) == model.IPv6 && op.a.MTU < 1280 { // RFC 8200, section 5
			return rpc.Errorf(rpc.CodeInvalidConfig, "the MTU of pod %s is %d: IPv6 needs 1280", op.a.id(), op.a.MTU)
		}
	}
	return nil
}

// undo removes all that attach made. What the store does not take back now stays in the journal.
func (s *Server) undo(ctx context.Context, a *attachment, why error) error {
	if errors.Is(why, errDead) {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := s.detach(ctx, *a); err != nil {
		s.log.Error("cni: a failed ADD left something behind; DEL, GC or a restart of the node cleans it",
			"container", a.ContainerID, "pod", a.id().String(), "err", err)
	}
	return why
}

// lock serialises with everything else that is done to the container, then to the pod.
func (s *Server) lock(ctx context.Context, a *attachment) (func(), error) {
	unlockContainer, err := s.locks.take(ctx, "container "+a.ContainerID)
	if err != nil {
		return nil, rpc.Errorf(rpc.CodeTryAgain, "another call for container %s is under way: %v", a.ContainerID, err)
	}
	unlockPod, err := s.locks.take(ctx, "pod "+a.Device)
	if err != nil {
		unlockContainer()
		return nil, rpc.Errorf(rpc.CodeTryAgain, "another call for pod %s is under way: %v", a.id(), err)
	}
	return func() { unlockPod(); unlockContainer() }, nil
}

// step runs f as the named step of this ADD.
func (op *adding) step(name string, f func() error) error {
	defer op.steps.begin(name)()
	return op.Server.step(name, f)
}

// step runs f as the named step.
func (s *Server) step(name string, f func() error) error {
	if s.cfg.Step != nil {
		if err := s.cfg.Step(name); err != nil {
			return fmt.Errorf("step %s: %w", name, err)
		}
	}
	return f()
}

// asRPC turns any error into the CNI error object that is the answer.
func asRPC(command string, err error) *rpc.Error {
	var e *rpc.Error
	if errors.As(err, &e) {
		return e
	}
	code := uint(rpc.CodeInternal)
	if isTemporary(err) {
		code = rpc.CodeTryAgain
	}
	return rpc.Errorf(code, "%s: %s", command, strings.ReplaceAll(err.Error(), "\n", "; "))
}
