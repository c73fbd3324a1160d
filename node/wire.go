package node

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"weft/encryption"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model/topology"
	"weft/nat/nftables"
	"weft/node/cni"
	"weft/node/cni/rpc"
	"weft/routing/fib"
	"weft/tunnel"
	"weft/tunnel/vxlan"
)

// tunnelDriver is what a folder under tunnel/ brings.
type tunnelDriver interface {
	Apply(context.Context, tunnel.Plan) (reconcile.Result, error)
	Observe(kernel.Event) bool
	Invalidate()
	Watch(ctx context.Context, kick func()) error
}

// tunnelDrivers is the list of the tunnel drivers: a new one is one line here.
func (s *service) tunnelDrivers(ctx context.Context) map[string]tunnelDriver {
	all := map[string]tunnelDriver{
		tunnel.VXLAN: vxlan.New(s.handle, s.log),
		tunnel.IPIP:  s.ipipDriver(ctx),
	}
	maps.DeleteFunc(all, func(_ string, d tunnelDriver) bool { return d == nil })
	return all
}

// served returns the rows of the driver table that this node can serve: those that have a driver,
// and those that need none.
func (s *service) served(have map[string]tunnelDriver) []topology.Driver {
	return slices.DeleteFunc(tunnel.Drivers(), func(d topology.Driver) bool {
		return d.Device != "" && have[d.Name] == nil && (d.Name != tunnel.WireGuard || s.wireguard == nil)
	})
}

// tunnelPart is the name of the part that applies a tunnel driver.
func tunnelPart(driver string) string { return "tunnel/" + driver }

// removal ends the name of a part that only removes.
const removal = "/remove"

// parts lists what is applied, in this order and for these reasons.
func (s *service) parts(tunnels map[string]tunnelDriver) []part {
	sysctls := fib.NewSysctls("", s.originals, s.log)
	routes, hosts := fib.New(s.handle, s.log), fib.NewRuled(s.handle, s.log, kernel.HostTable)
	services := fib.NewRuled(s.handle, s.log, kernel.ServiceTable)
	mtus := cni.NewMTUSyncer(s.registry, s.links, s.log)
	healer := cni.NewLinkHealer(s.registry, s.links, s.log)
	parts := []part{{
		name: "sysctl", why: "nothing is routed before forwarding is on",
		apply:   func(ctx context.Context, _ *plans) (reconcile.Result, error) { return sysctls.Apply(ctx) },
		observe: sysctls.Observe, resync: sysctls.Invalidate,
	}, {
		name: "pods/links", why: "routes lead into links that are up",
		apply:   func(ctx context.Context, _ *plans) (reconcile.Result, error) { return healer.Apply(ctx) },
		observe: healer.Observe, resync: healer.Resync,
	}, {
		name: "pods/mtu/lower", why: "pods send less before less fits",
		apply:   func(ctx context.Context, p *plans) (reconcile.Result, error) { return mtus.Lower(ctx, p.view.PodMTU) },
		observe: mtus.Observe, resync: mtus.Resync,
	}}
	names := make([]string, 0, len(tunnels))
	for name := range tunnels {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		d := tunnels[name]
		parts = append(parts, part{
			name: tunnelPart(name), why: "devices and static neighbours come before the routes through them: never a lost first packet",
			apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
				mine := p.tunnel.For(name)
				if len(mine.Links) == 0 {
					return reconcile.Result{}, nil // removed below
				}
				return d.Apply(ctx, mine)
			},
			observe: d.Observe, resync: d.Invalidate, watch: d.Watch,
		})
	}
	parts = append(parts, part{
		name: "policy/offload" + removal, why: "what the guard, or policy, has to see is no longer led past it when they rely on that",
		apply:   s.offload.stop,
		observe: s.offload.driver.Observe, resync: s.offload.driver.Invalidate, watch: s.offload.driver.Watch,
	}, part{
		name: "encryption/guard", why: "what must not go in clear is refused before there is a route that could lead it there",
		apply:   func(ctx context.Context, p *plans) (reconcile.Result, error) { return s.guard.Apply(ctx, p.view.Guard) },
		observe: s.guard.Observe, resync: s.guard.Invalidate, watch: s.guard.Watch,
	})
	if d := s.wireguard; d != nil {
		parts = append(parts, part{
			name: tunnelPart(tunnel.WireGuard), why: "devices and peers come before the routes that lead to them",
			apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
				if !encrypts(p.view) {
					return reconcile.Result{}, nil // removed below
				}
				return s.encryptor.apply(ctx, d, p)
			},
			observe: d.Observe, resync: d.Invalidate, watch: d.Watch,
		})
	}
	translation := nftables.New(s.handle, s.log)
	reverse := fib.NewReversePath("", s.originals, s.log)
	parts = append(parts, part{
		name: "nat/nftables", why: "a pod that has a route already has its translation: no packet leaves with its address",
		apply:   func(ctx context.Context, p *plans) (reconcile.Result, error) { return translation.Apply(ctx, p.nat) },
		observe: translation.Observe, resync: translation.Invalidate, watch: translation.Watch,
	}, part{
		name: "rp_filter", why: "packets may arrive by another way than the routes lead, as soon as these change",
		apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
			return reverse.Apply(ctx, loose(p.view))
		},
		observe: reverse.Observe, resync: reverse.Invalidate,
	}, part{
		name: "routing/fib", why: "routes lead to what stands by now",
		apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
			r, err := routes.Apply(ctx, p.routing)
			s.offload.rerouted(r, err)
			return r, err
		},
		observe: routes.Observe, resync: routes.Resync,
	}, part{
		name: "routing/hosts", why: "what is sent to nodes themselves is led into devices that stand, and away from them before they go",
		apply:   func(ctx context.Context, p *plans) (reconcile.Result, error) { return hosts.Apply(ctx, p.hosts) },
		observe: hosts.Observe, resync: hosts.Resync,
	}, part{
		name: "routing/services", why: "what pods need comes before what nobody serves",
		apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
			if p.services == nil {
				return reconcile.Result{}, nil // what an earlier process wrote stays until it is known what is announced
			}
			return services.Apply(ctx, *p.services)
		},
		observe: services.Observe, resync: services.Resync,
	}, part{
		name: "pods/mtu", why: "and more only when more fits everywhere",
		apply:   func(ctx context.Context, p *plans) (reconcile.Result, error) { return mtus.Apply(ctx, p.view.PodMTU) },
		observe: func(kernel.Event) bool { return false }, resync: func() {},
	})
	if d := s.wireguard; d != nil {
		parts = append(parts, part{
			name: tunnelPart(tunnel.WireGuard) + removal, why: "a device goes after the routes that pointed at it",
			apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
				if encrypts(p.view) {
					return reconcile.Result{}, nil
				}
				return d.Apply(ctx, encryption.Plan{})
			},
			observe: func(kernel.Event) bool { return false }, resync: func() {},
		})
	}
	for _, name := range names {
		d := tunnels[name]
		parts = append(parts, part{
			name: tunnelPart(name) + removal, why: "a device goes after the routes that pointed at it",
			apply: func(ctx context.Context, p *plans) (reconcile.Result, error) {
				if len(p.tunnel.For(name).Links) > 0 {
					return reconcile.Result{}, nil
				}
				return d.Apply(ctx, tunnel.Plan{})
			},
			observe: func(kernel.Event) bool { return false }, resync: func() {},
		})
	}
	return append(parts, part{
		name: "policy/offload", why: "connections are led by the devices and routes that stand by now",
		apply:   s.offload.apply,
		observe: func(kernel.Event) bool { return false }, resync: func() {},
	})
}

// loose lists the interfaces that packets of other nodes come in by.
func loose(v *topology.View) []string {
	devices := slices.Clone(v.Uplinks)
	for _, t := range v.Tunnels {
		devices = append(devices, t.Device)
	}
	return devices
}

// programmed returns when a run that began after the call has ended. What that run could not do is
// in status and is retried; whether the pod itself is routed, CNI asks the kernel. So a route that
// somebody else holds does not keep every new pod from starting.
func (s *service) programmed(ctx context.Context) error {
	if err := s.engine.runner.Await(ctx); ctx.Err() != nil || errors.Is(err, reconcile.ErrEnded) {
		return err
	}
	return nil
}

// cniServer connects CNI to this node's IPAM, store and engine.
func (s *service) cniServer() (*cni.Server, error) {
	return cni.New(cni.Config{
		Hear: s.hearOfPools, Describe: s.describePod, WriteRecord: s.writePod,
		Node: s.cfg.NodeName, Socket: filepath.Join(s.cfg.RunDir, rpc.SocketName), Registry: s.registry,
		Links: s.links, IPAM: cni.FromAllocator(s.ipam), Namespace: s.cluster.namespace, Store: s.store, MTU: s.podMTU, Ready: s.ready,
		Apply: s.programmed, Policy: s.enforcer, Observe: s.metrics.cni, Log: s.log,
	})
}
