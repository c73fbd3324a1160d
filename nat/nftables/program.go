package nftables

import (
	"net/netip"
	"slices"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
	"weft/nat"
)

// Names of what the driver owns in the table.
const (
	chainPost      = prefix + "postrouting" // base chain, hook postrouting, type nat
	chainForward   = prefix + "forward"     // base chain, hook forward: what cannot be translated
	counterInvalid = prefix + "invalid"     // packets dropped there
)

// priority is behind the one that others use for source NAT (100): a translation that this host was
// given for some pods goes before the general one.
const priority = 110

// program returns the rules and sets of a plan. held says that the hook into the kernel's NAT is there:
// without it, packets of connections that were translated would leave as they are.
func program(p nat.Plan, held bool) nft.Program {
	if len(p.Outgoing)+len(p.Tunnels) == 0 && !(p.Hold && held) {
		return nft.Program{}
	}
	post := nft.Chain{Name: chainPost, Base: &nft.Base{Type: lib.ChainTypeNAT, Hook: lib.ChainHookPostrouting, Priority: priority}}
	pods, podSets := podRanges(p)
	for _, t := range p.Tunnels {
		if _, any := pods[model.FamilyOf(t.Address)]; any || !t.Pods {
			post.Rules = append(post.Rules, tunnelRules(t)...)
		}
	}
	if len(p.Outgoing) == 0 {
		// The kernel tracks connections, without which it translates nothing, for as long as a rule
		// somewhere asks about them.
		post.Rules = append(post.Rules, nft.Rule(connState(expr.CtStateBitNEW), nft.Accept()))
		return nft.Program{Chains: []nft.Chain{post}, Sets: podSets}
	}
	out := nft.Program{Counters: []string{counterInvalid}, Sets: podSets}
	forward := nft.Chain{Name: chainForward, Base: &nft.Base{Type: lib.ChainTypeFilter, Hook: lib.ChainHookForward, Priority: *lib.ChainPriorityFilter}}
	var translate []nft.Chain
	for i := range p.Outgoing {
		o := &p.Outgoing[i]
		out.Sets = append(out.Sets, sets(o)...)
		post.Rules = append(post.Rules, nft.Rule(leaves(o), nft.GoTo(chainOf(o.Family))))
		// What conntrack cannot place, such as a late packet of a connection that it has closed, is
		// not translated: it would leave with the pod's address, and its answer would not come back.
		forward.Rules = append(forward.Rules, nft.Rule(connState(expr.CtStateBitINVALID), leaves(o), nft.Count(counterInvalid), nft.Drop()))
		translate = append(translate, nft.Chain{Name: chainOf(o.Family), Rules: translations(o)})
	}
	out.Chains = append(translate, post, forward)
	return out
}

func suffix(f model.Family) string {
	if f == model.IPv4 {
		return "4"
	}
	return "6"
}

func chainOf(f model.Family) string   { return prefix + "outgoing" + suffix(f) }
func setFrom(f model.Family) string   { return prefix + "from" + suffix(f) }
func setSpared(f model.Family) string { return prefix + "pools" + suffix(f) }
func setPods(f model.Family) string   { return prefix + "pods" + suffix(f) }
func setHosts(f model.Family) string  { return prefix + "hosts" + suffix(f) }

// leaves matches the packets of which o speaks.
func leaves(o *nat.Outgoing) []expr.Any {
	f := o.Family
	e := nft.Rule(
		nft.OutputInterface().IsNot([]byte(kernel.PodLinkPrefix)...), // pods' links and tunnels
		nft.OutputInterface().IsNot([]byte("lo\x00")...),
		nft.Family(f),
		nft.In(setFrom(f), nft.SourceAddr(f)),
		nft.NotIn(setSpared(f), nft.DestAddr(f)))
	if len(o.Hosts) > 0 {
		e = nft.Rule(e, nft.NotIn(setHosts(f), nft.DestAddr(f)))
	}
	if o.Interface != "" {
		name, open := strings.CutSuffix(o.Interface, "+")
		if !open {
			name += "\x00"
		}
		e = nft.Rule(e, nft.OutputInterface().Is([]byte(name)...))
	}
	return e
}

// connState matches packets in a state of connection tracking.
func connState(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: native(bit), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: native(0)},
	}
}

// native is a number as the kernel keeps it in a register.
func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// interval is a set of ranges.
func interval(name string, f model.Family, ranges []nat.Range) nft.Set {
	return nft.Set{Spec: lib.Set{Name: name, KeyType: nft.AddrType(f), KeyByteOrder: binaryutil.BigEndian, Interval: true},
		Elements: func() []lib.SetElement {
			e := make([]lib.SetElement, 0, len(ranges))
			for _, r := range ranges {
				e = append(e, lib.SetElement{Key: r.First.AsSlice(), KeyEnd: r.Last.AsSlice()})
			}
			return e
		}}
}

// podRanges returns, by family, what Tunnels with Pods are for, and the sets that hold it.
func podRanges(p nat.Plan) (of map[model.Family][]nat.Range, all []nft.Set) {
	of = map[model.Family][]nat.Range{}
	for _, r := range p.Pods {
		f := model.FamilyOf(r.First)
		of[f] = append(of[f], r)
	}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if len(of[f]) > 0 && slices.ContainsFunc(p.Tunnels, func(t nat.Tunnel) bool { return t.Pods && model.FamilyOf(t.Address) == f }) {
			all = append(all, interval(setPods(f), f, of[f]))
		}
	}
	return of, all
}

// sets returns the sets that leaves looks into.
func sets(o *nat.Outgoing) []nft.Set {
	out := []nft.Set{interval(setFrom(o.Family), o.Family, o.From), interval(setSpared(o.Family), o.Family, o.Spared)}
	if len(o.Hosts) == 0 {
		return out
	}
	return append(out, nft.Set{Spec: hostsSpec(o.Family), Elements: func() []lib.SetElement { return elements(o.Hosts) }})
}

func hostsSpec(f model.Family) lib.Set {
	return lib.Set{Name: setHosts(f), KeyType: nft.AddrType(f), KeyByteOrder: binaryutil.BigEndian}
}

// translations returns the rules that give a packet of o its new source. Only the first packet of a
// connection comes here.
func translations(o *nat.Outgoing) [][]expr.Any {
	var rules [][]expr.Any
	for _, p := range []struct {
		protocol byte
		ports    model.PortRange
	}{{unix.IPPROTO_TCP, o.Ports}, {unix.IPPROTO_SCTP, o.Ports}, {unix.IPPROTO_UDP, o.UDPPorts}} {
		if !p.ports.IsZero() {
			rules = append(rules, nft.Rule(nft.L4Proto().Is(p.protocol), translate(o.Family, o.To, p.ports)))
		}
	}
	return append(rules, translate(o.Family, o.To, model.PortRange{}))
}

// Registers for source NAT, 16 bytes each.
const (
	regAddr  = unix.NFT_REG_1
	regFirst = unix.NFT_REG_2
	regLast  = unix.NFT_REG_3
)

// translate gives the packet the source address to, or the one of the interface that it leaves by, and
// a port of the range. Ports are chosen at random, so that two CPUs seldom choose the same one at the
// same time, of which one packet would be lost.
func translate(f model.Family, to netip.Addr, ports model.PortRange) []expr.Any {
	switch {
	case !to.IsValid() && ports.IsZero():
		return []expr.Any{&expr.Masq{FullyRandom: true}}
	case !to.IsValid():
		return nft.MasqueradeTo(int(ports.First), int(ports.Last))
	}
	e := []expr.Any{&expr.Immediate{Register: regAddr, Data: to.AsSlice()}}
	n := snat(f)
	n.FullyRandom = true
	if !ports.IsZero() {
		e = append(e, &expr.Immediate{Register: regFirst, Data: nft.Port(int(ports.First))}, &expr.Immediate{Register: regLast, Data: nft.Port(int(ports.Last))})
		n.RegProtoMin, n.RegProtoMax, n.Specified = regFirst, regLast, true
	}
	return append(e, n)
}

// snat is source NAT to the address in regAddr.
func snat(f model.Family) *expr.NAT {
	n := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regAddr}
	if f == model.IPv6 {
		n.Family = unix.NFPROTO_IPV6
	}
	return n
}

// tunnelRules give packets of this host's own processes the tunnel's address. A TCP connection that
// conntrack meets in its midst stays as it is.
func tunnelRules(t nat.Tunnel) [][]expr.Any {
	f := model.FamilyOf(t.Address)
	own := nft.Rule(
		nft.OutputInterface().Is([]byte(t.Device+"\x00")...),
		nft.Family(f),
		nft.SourceAddr(f).IsNot(t.Address.AsSlice()...),
		[]expr.Any{
			&expr.Fib{Register: unix.NFT_REG_1, FlagSADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: native(unix.RTN_LOCAL)},
		})
	if t.Pods {
		own = nft.Rule(own, nft.In(setPods(f), nft.DestAddr(f)))
	}
	to := []expr.Any{&expr.Immediate{Register: regAddr, Data: t.Address.AsSlice()}, snat(f)}
	const tcpFlags, synAck, syn = 13, 0x12, 0x02 // RFC 9293: offset of the flags, bits
	opening := nft.Payload(expr.PayloadBaseTransportHeader, tcpFlags, 1).Masked([]byte{synAck}).Is(syn)
	return [][]expr.Any{
		nft.Rule(own, nft.L4Proto().IsNot(unix.IPPROTO_TCP), to),
		nft.Rule(own, nft.L4Proto().Is(unix.IPPROTO_TCP), opening, to),
	}
}
