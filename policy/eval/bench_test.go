package eval

import (
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
)

func packets(s *scene) []*model.Packet {
	var out []*model.Packet
	for range 1000 {
		out = append(out, s.world.Packet())
	}
	return out
}

func BenchmarkAllowed(b *testing.B) {
	s := newScene(b, 7)
	all := packets(s)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		Allowed(s.program, all[i%len(all)])
		i++
	}
}

// Who asks for nothing but the verdict makes no reasons: 1,000 packets.
func TestAllocs(t *testing.T) {
	s := newScene(t, 7)
	all := packets(s)
	allocs.Most(t, 68, func() {
		for _, p := range all {
			Allowed(s.program, p)
		}
	})
}
