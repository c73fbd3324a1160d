package street

import (
	"testing"
	"time"

	"weft/internal/testkit"
)

// What arrives is counted, and a hundred policies cost the first packet something by either driver, the packets after it not
// much.
func TestRulesCost(t *testing.T) {
	testkit.RequireRoot(t)
	for _, backend := range []string{NFTables, IPTables} {
		var none, many [2]time.Duration
		streets := map[string]*Street{}
		for name, spec := range map[string]Spec{"none": {}, "many": {Policies: 300}} {
			s, err := New(t.Context(), backend, spec)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			streets[name] = s
		}
		for range 5 {
			for name, into := range map[string]*[2]time.Duration{"none": &none, "many": &many} {
				for i, answered := range []bool{false, true} {
					got, err := streets[name].Packets(answered, 20*time.Millisecond)
					if err != nil || got.N == 0 {
						t.Fatalf("%s: %+v, %v", backend, got, err)
					}
					into[i] += got.Each()
				}
			}
		}
		if c, err := streets["many"].Connections(20 * time.Millisecond); err != nil || c.N == 0 {
			t.Errorf("%s: %+v, %v", backend, c, err)
		}
		first, later := float64(many[0])/float64(none[0]), float64(many[1])/float64(none[1])
		t.Logf("%s: with 300 policies a first packet costs %.2f times as much, a later one %.2f", backend, first, later)
		if first < 2 || later > first/1.5 {
			t.Errorf("%s: with 300 policies a first packet costs %.2f of none, a later one %.2f: want 2 or more, and much less", backend, first, later)
		}
	}
}
