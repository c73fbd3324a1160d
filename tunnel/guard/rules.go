package guard

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
)

// Offsets into a VXLAN packet over UDP, in bytes from the UDP header (RFC 7348 section 5): UDP 8,
// VXLAN 8, inner Ethernet 14, inner IP. In IPIP the inner header is the transport header. The protocol
// stands at its offset in the IPv4 header.
const (
	offsetProtocol  = 9
	offsetVNI       = 8 + 4
	offsetEtherType = 8 + 8 + 12
	offsetInnerIP   = 8 + 8 + 14
)

// chains returns the chains with their rules. They come first at their hooks, so that nothing later,
// tracking of connections included, sees what is refused here. Every packet to an endpoint's port or
// protocol ends in accept or drop.
//
// Each packet that the host receives or forwards walks them, with cold caches: so what most packets fail
// comes first in each rule, and there are no jumps, which cost more than repeating two comparisons.
func (p *program) chains() []nft.Chain {
	base := func(hook *nftables.ChainHook) *nft.Base {
		return &nft.Base{Type: nftables.ChainTypeFilter, Hook: hook, Priority: *nftables.ChainPriorityRaw}
	}
	input := nft.Chain{Name: p.names.input, Base: base(nftables.ChainHookInput)}
	forward := nft.Chain{Name: p.names.forward, Base: base(nftables.ChainHookForward)}
	var ports []Endpoint // one of each
	for i, e := range p.endpoints {
		if i == 0 || p.endpoints[i-1].Port != e.Port {
			ports = append(ports, e)
		}
	}
	for _, e := range ports {
		// A pod is never a VTEP. Its packets may carry a node's address after masquerading, so
		// that only the node it runs on can tell. Tunnels in tunnels to a node end here too.
		refuse := nft.Rule(e.packets(), fromWeftLink(), nft.Count(p.names.pods), nft.Drop())
		input.Rules = append(input.Rules, refuse)
		forward.Rules = append(forward.Rules, refuse)
	}
	for _, e := range p.endpoints {
		for _, s := range p.shapes {
			if m, ok := s.match(e); ok {
				input.Rules = append(input.Rules, nft.Rule(e.packets(), m, s.lookup(e, p.names), nft.Accept()))
			}
		}
	}
	for _, e := range ports {
		input.Rules = append(input.Rules, nft.Rule(e.packets(), nft.Count(p.names.unknown), nft.Drop()))
	}
	return []nft.Chain{input, forward}
}

// packets matches packets to the endpoint's port or protocol. A fragment that is not the first has no
// port; the first one is judged here, and without it the others come to nothing.
func (e Endpoint) packets() []expr.Any {
	if e.Protocol == unix.IPPROTO_UDP {
		return slices.Concat(nft.L4Proto().Is(unix.IPPROTO_UDP), nft.DestPort().Is(nft.Port(e.Port)...))
	}
	// In this order, and not by L4Proto: nft(8) 1.0.6 aborts when it lists a rule that it knows to be
	// about IP in IP and that then looks into the transport header.
	return slices.Concat(nft.Payload(expr.PayloadBaseNetworkHeader, offsetProtocol, 1).Is(byte(e.Protocol)), nft.Family(model.IPv4))
}

// fromWeftLink matches what comes in by a pod's link or by one of our tunnels.
func fromWeftLink() []expr.Any { return nft.InputInterface().Is([]byte(kernel.PodLinkPrefix)...) }

// match matches, among the endpoint's packets, those of its VNI whose addresses are of the shape; ok
// is false when there are none.
func (s shape) match(e Endpoint) (m []expr.Any, ok bool) {
	if e.Protocol == unix.IPPROTO_IPIP {
		return nil, s.outer == model.IPv4 && s.inner == model.IPv4
	}
	// With the reserved byte behind the VNI, which every sender sets to zero, it is four bytes, which
	// the kernel loads and compares in place.
	return slices.Concat(nft.Family(s.outer),
		nft.Payload(expr.PayloadBaseTransportHeader, offsetEtherType, 2).Is(etherType(s.inner)...),
		nft.Payload(expr.PayloadBaseTransportHeader, offsetVNI, 4).Is(byte(e.VNI>>16), byte(e.VNI>>8), byte(e.VNI), 0)), true
}

// lookup matches when outer and inner source together are an element.
func (s shape) lookup(e Endpoint, n names) []expr.Any {
	offset, length := nft.SourceAt(s.inner)
	if e.Protocol == unix.IPPROTO_UDP {
		offset += offsetInnerIP
	}
	inner := nft.Payload(expr.PayloadBaseTransportHeader, offset, length).Masked(nft.PrefixMask(s.inner, s.bits))
	return nft.In(s.spec(n).Name, nft.SourceAddr(s.outer), inner)
}

func etherType(f model.Family) []byte {
	if f == model.IPv4 {
		return []byte{0x08, 0x00}
	}
	return []byte{0x86, 0xdd}
}

// spec is the set of a shape.
func (s shape) spec(n names) nftables.Set {
	return nftables.Set{Name: n.prefix + s.set(), KeyByteOrder: binaryutil.BigEndian,
		KeyType: nftables.MustConcatSetType(nft.AddrType(s.outer), nft.AddrType(s.inner))}
}
