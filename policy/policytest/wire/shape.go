package wire

import (
	"encoding/binary"
	"testing"

	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// IPv6's next headers.
const (
	extFragment    = 44
	extDestination = 60
)

// shape is another way in which a packet may come. To policy it is the same packet.
type shape struct {
	name string
	pad  int
	fits func(*model.Packet) bool
	cut  func(p *model.Packet, id uint32, ip []byte) [][]byte // what is sent in its place
}

var shapes = []shape{
	{"fragments", 40, entered, fragments},
	{"fragments, the last one first", 40, entered, func(p *model.Packet, id uint32, ip []byte) [][]byte {
		f := fragments(p, id, ip)
		return [][]byte{f[1], f[0]}
	}},
	{"an extension header", 0, entered6, func(_ *model.Packet, _ uint32, ip []byte) [][]byte { return [][]byte{extended(ip)} }},
}

func entered(p *model.Packet) bool  { return p.In != "" }
func entered6(p *model.Packet) bool { return entered(p) && p.Src.Is6() }

// fragments cuts an IP packet behind its number.
func fragments(p *model.Packet, id uint32, ip []byte) [][]byte {
	at := (len(header(p.Protocol)) + idSize + 7) &^ 7
	put := binary.BigEndian
	one := func(from, to int, more uint16) []byte {
		if p.Src.Is4() {
			b := append(append([]byte{}, ip[:20]...), ip[20+from:20+to]...)
			put.PutUint16(b[2:], uint16(len(b)))
			put.PutUint16(b[4:], uint16(id))
			put.PutUint16(b[6:], uint16(from/8)|more<<13)
			b[10], b[11] = 0, 0
			put.PutUint16(b[10:], checksum(&model.Packet{Protocol: model.ICMP}, b[:20]))
			return b
		}
		h := []byte{ip[6], 0, 0, 0, 0, 0, 0, 0}
		put.PutUint16(h[2:], uint16(from)|more)
		put.PutUint32(h[4:], id)
		return behind(ip, extFragment, h, ip[40+from:40+to])
	}
	size := len(ip) - 40
	if p.Src.Is4() {
		size = len(ip) - 20
	}
	return [][]byte{one(0, at, 1), one(at, size, 0)}
}

// extended puts destination options, of which there is padding only, before what an IPv6 packet carries.
func extended(ip []byte) []byte {
	return behind(ip, extDestination, []byte{ip[6], 0, 1, 4, 0, 0, 0, 0}, ip[40:])
}

// behind makes an IPv6 packet with one more header.
func behind(ip []byte, kind byte, header, rest []byte) []byte {
	b := append(append(append([]byte{}, ip[:40]...), header...), rest...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	b[6] = kind
	return b
}

// CheckShapes sends random packets of random worlds in each shape, and compares as Check does.
func (r *Rig) CheckShapes(t *testing.T, worlds, packets int, apply func(policy.Update)) {
	t.Helper()
	defer func() { r.shape = shape{} }()
	for _, s := range shapes {
		var all Tally
		for seed := range uint64(worlds) {
			w := policytest.Full(300+seed, seed%2 == 0)
			c := policy.NewCompiler(policytest.Self)
			if err := c.Replace(w.Snapshot); err != nil {
				t.Fatal(err)
			}
			u := c.Flush()
			apply(u)
			var list []*model.Packet
			for len(list) < packets {
				if p := w.Packet(); s.fits(p) {
					list = append(list, p)
				}
			}
			r.shape = s
			tally, wrong := r.Check(t, u.Program, list)
			all.Add(tally)
			for i, x := range wrong {
				if i < 5 {
					t.Errorf("%s, seed %d: %s", s.name, 300+seed, x)
				}
			}
		}
		t.Logf("%s: %s", s.name, all)
		if all.Allowed < all.Verdicts/20 || all.Denied < all.Verdicts/20 {
			t.Errorf("%s: the worlds do not exercise the driver", s.name)
		}
	}
}
