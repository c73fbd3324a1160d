package flows

import (
	"encoding/binary"
	"testing"

	"weft/model"
)

func ip4(protocol byte, offset uint16, options int, payload ...byte) []byte {
	b := make([]byte, 20+options)
	b[0], b[9] = 0x40|byte(len(b)/4), protocol
	binary.BigEndian.PutUint16(b[6:], offset)
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return append(b, payload...)
}

func ip6(next byte, payload ...byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[8], b[23], b[24], b[39] = 0x60, next, 0xfd, 1, 0xfd, 2
	return append(b, payload...)
}

// extension is a header of 8 bytes.
func extension(next byte) []byte { return []byte{next, 0, 0, 0, 0, 0, 0, 0} }

func chain(n int, last byte, rest ...byte) []byte {
	var b []byte
	for i := range n {
		next := byte(destinations)
		if i == n-1 {
			next = last
		}
		b = append(b, extension(next)...)
	}
	return append(b, rest...)
}

var ports = []byte{0x30, 0x39, 0, 80, 0, 0, 0, 0}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name     string
		b        []byte
		protocol model.Protocol
		ports    bool
		icmp     bool
	}{
		{"tcp", ip4(6, 0, 0, ports...), model.TCP, true, false},
		{"with options", ip4(17, 0, 12, ports...), model.UDP, true, false},
		{"options longer than what is there", ip4(17, 0, 40)[:20], model.UDP, false, false},
		{"first fragment", ip4(17, 0x2000, 0, ports...), model.UDP, true, false},
		{"later fragment", ip4(17, 0x2001, 0, ports...), model.UDP, false, false},
		{"cut in the ports", ip4(6, 0, 0, ports[:3]...), model.TCP, false, false},
		{"icmp", ip4(1, 0, 0, 8, 0), model.ICMP, false, true},
		{"icmp in ipv6", ip6(1, 8, 0), model.ICMP, false, false},
		{"icmpv6", ip6(58, 128, 0), model.ICMPv6, false, true},
		{"tcp over ipv6", ip6(6, ports...), model.TCP, true, false},
		{"extensions", ip6(0, chain(3, 6, ports...)...), model.TCP, true, false},
		{"as many extensions as are followed", ip6(0, chain(mostHeaders-1, 6, ports...)...), model.TCP, true, false},
		{"one more", ip6(0, chain(mostHeaders, 6, ports...)...), noNext, false, false},
		{"unknown next header", ip6(253, ports...), 253, false, false},
		{"no next header", ip6(59, ports...), noNext, false, false},
		{"extension that is cut short", ip6(0, 6, 0), 0, false, false},
		{"extension longer than the packet", ip6(0, append([]byte{6, 255, 0, 0, 0, 0, 0, 0}, ports...)...), 0, false, false},
		{"authentication header", ip6(51, append([]byte{6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, ports...)...), model.TCP, true, false},
		{"first fragment of ipv6", ip6(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, ports...)...), model.UDP, true, false},
		{"later fragment of ipv6", ip6(44, append([]byte{17, 0, 0, 8, 0, 0, 0, 1}, ports...)...), model.UDP, false, false},
	} {
		p, ok := parse(tc.b)
		if !ok || p.Protocol != tc.protocol || p.HasPorts != tc.ports || p.HasICMP != tc.icmp {
			t.Errorf("%s: got %+v, %v", tc.name, p, ok)
		}
		if p.HasPorts && (p.SrcPort != 12345 || p.DstPort != 80) {
			t.Errorf("%s: got ports %d and %d", tc.name, p.SrcPort, p.DstPort)
		}
	}
	for _, b := range [][]byte{nil, {0x45}, make([]byte, 60), ip4(6, 0, 0)[:19], ip6(6)[:39], {0x41, 19: 0}} {
		if p, ok := parse(b); ok {
			t.Errorf("%x passes for a packet: %+v", b, p)
		}
	}
}

// FuzzParse: no packet makes the parser panic, name ports where there are none, or take for TCP or UDP
// what another header may precede.
func FuzzParse(f *testing.F) {
	f.Add(ip4(6, 0, 0, ports...))
	f.Add(ip6(0, chain(3, 6, ports...)...))
	f.Add(ip6(44, append([]byte{17, 0, 0, 8, 0, 0, 0, 1}, ports...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		switch {
		case !ok:
		case !p.Src.IsValid() || !p.Dst.IsValid() || p.Src.Is4() != p.Dst.Is4():
			t.Errorf("%x: addresses %v and %v", b, p.Src, p.Dst)
		case p.HasPorts && (!p.Protocol.HasPorts() || p.Fragment || len(b) < 24):
			t.Errorf("%x: ports in %+v", b, p)
		case p.HasICMP && (p.Protocol == model.ICMP) != p.Src.Is4():
			t.Errorf("%x: icmp in %+v", b, p)
		}
		flow := flowOf(&p)
		_ = flow.Packet() + flow.Source.String()
	})
}
