package conntrack

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"

	"weft/internal/kernel"
	"weft/model"
	"weft/policy"
	"weft/policy/eval"
)

// outside stands for any interface but those of pods, when nothing is asked at them.
const outside = "outside"

// judge answers whether policy, as it is now, would let a connection begin.
type judge struct {
	program *policy.Program
	owners  map[netip.Addr][]string // devices of the pods that have an address
	ranges  []sources               // what pods may send from besides
	local   map[netip.Addr]struct{} // this host's own addresses
	host    []string                // what ends returns of them
	foreign []string                // and of all others, when the interface does not matter

	// With host endpoints the interface matters: the one that the kernel would send to an address by.
	device  func(netip.Addr) string
	devices map[netip.Addr]string
	preDNAT *policy.Program // asks at that hook only, nil when nobody does
	rest    *policy.Program // and at all others
}

type sources struct {
	net    netip.Prefix
	device string
}

// newJudge returns a judge by p. What the one before found out about routes it takes over.
func newJudge(ctx context.Context, h *kernel.Handle, p *policy.Program, local map[netip.Addr]struct{}, before *judge) *judge {
	j := &judge{program: p, owners: map[netip.Addr][]string{}, local: local, devices: map[netip.Addr]string{},
		host: []string{""}, foreign: []string{outside}}
	if before != nil {
		j.devices = before.devices
	}
	for device, e := range p.Endpoints {
		for _, n := range e.Sources {
			if n.IsSingleIP() {
				j.owners[n.Addr()] = append(j.owners[n.Addr()], device)
			} else {
				j.ranges = append(j.ranges, sources{n, device})
			}
		}
	}
	if len(p.Hosts) > 0 {
		j.splitHosts()
		j.device = func(a netip.Addr) string {
			if r, err := h.RouteTo(ctx, a); err == nil && r.Device != "" {
				return r.Device
			}
			return "*"
		}
	}
	return j
}

// resolve finds the routes that judging these entries will ask for.
func (j *judge) resolve(entries []entry) {
	if j.device == nil {
		return
	}
	for i := range entries {
		j.ends(entries[i].src, true)
		j.ends(entries[i].to, false)
	}
}

func localAddresses(h *kernel.Handle) (map[netip.Addr]struct{}, error) {
	local := map[netip.Addr]struct{}{}
	err := h.Do(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				local[ip.Unmap()] = struct{}{}
			}
		}
		return err
	})
	return local, err
}

// splitHosts separates the pre-DNAT hooks, which see another destination than the others do.
func (j *judge) splitHosts() {
	for _, h := range j.program.Hosts {
		if len(h.PreDNAT.Tiers) == 0 {
			continue
		}
		if j.preDNAT == nil {
			before, after := *j.program, *j.program
			before.Hosts, after.Hosts = map[string]*policy.Host{}, map[string]*policy.Host{}
			j.preDNAT, j.rest = &before, &after
		}
	}
	if j.preDNAT == nil {
		return
	}
	for iface, h := range j.program.Hosts {
		j.preDNAT.Hosts[iface] = &policy.Host{Interface: iface, Name: h.Name, PreDNAT: h.PreDNAT}
		rest := *h
		rest.PreDNAT = policy.Hook{}
		j.rest.Hosts[iface] = &rest
	}
}

// ends returns by what interface a connection may have come in, or gone out; empty is this host.
func (j *judge) ends(a netip.Addr, from bool) []string {
	if own := j.owners[a]; len(own) > 0 {
		return own
	}
	if _, ok := j.local[a]; ok || a.IsLoopback() {
		return j.host
	}
	if from {
		var found []string
		for _, s := range j.ranges {
			if s.net.Contains(a) {
				found = append(found, s.device)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	if j.device == nil {
		return j.foreign
	}
	d, ok := j.devices[a]
	if !ok {
		d = j.device(a)
		j.devices[a] = d
	}
	return []string{d}
}

// asked tells whether policy has anything to say about a connection between these ends.
func (j *judge) asked(in, out []string) bool {
	pod := func(device string) bool { return j.program.Endpoints[device] != nil }
	return len(j.program.Hosts) > 0 || slices.ContainsFunc(in, pod) || slices.ContainsFunc(out, pod)
}

// allows judges an entry. Where two pods may have sent it, it is allowed if one of them may.
func (j *judge) allows(e *entry) (allowed, asked bool) {
	ins, outs := j.ends(e.src, true), j.ends(e.to, false)
	if !j.asked(ins, outs) {
		return true, false
	}
	for _, in := range ins {
		for _, out := range outs {
			if j.packet(e, in, out) {
				return true, true
			}
		}
	}
	return false, true
}

func (j *judge) packet(e *entry, in, out string) bool {
	p := &model.Packet{In: in, Out: out, Src: e.src, Dst: e.to, Protocol: e.protocol, SrcPort: e.srcPort, DstPort: e.toPort,
		ICMPType: e.icmpType, ICMPCode: e.icmpCode}
	if j.preDNAT == nil || in == "" || j.program.Endpoints[in] != nil || e.dst == e.to && e.dstPort == e.toPort {
		return eval.Allowed(j.program, p)
	}
	before := *p
	before.Out, before.Dst, before.DstPort = "onward", e.dst, e.dstPort
	v := eval.Explain(j.preDNAT, &before)
	if !v.Allowed {
		return false
	}
	byRule := func(r eval.Reason) bool { return r.Rule >= 0 && r.Action == model.Allow }
	if !slices.ContainsFunc(v.Reasons, byRule) {
		return eval.Allowed(j.rest, p)
	}
	if out == "" {
		return true
	}
	// It was let in by this interface for good; what it goes to is asked as ever.
	rest := *j.rest
	rest.Hosts = maps.Clone(j.rest.Hosts)
	rest.Hosts[in] = &policy.Host{Interface: in}
	return eval.Allowed(&rest, p)
}
