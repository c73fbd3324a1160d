package bgp

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/model"
	"weft/routing"
)

// TestNeighbour: routes of both families go both ways, over iBGP and eBGP, and go away again.
func TestNeighbour(t *testing.T) {
	for name, asn := range map[string]int{"iBGP": 64512, "eBGP": 64513} {
		t.Run(name, func(t *testing.T) {
			h, ns := lab(t, 1)
			b := birdConfig{i: 2, asn: asn}.start(t, ns[0])
			p := plan(sessions(session("10.77.0.2", uint32(asn)), session("fd77::2", uint32(asn))))
			h.apply(t, p)
			h.established(t, "10.77.0.2", "fd77::2")
			h.learns(t, "10.65.2.0/26 via 10.77.0.2", "fd65:2::/122 via fd77::2")
			eventually(t, "BIRD has the routes", func() bool {
				return strings.Contains(b.Route(t, "10.65.1.0/26"), "via 10.77.0.1 ") && strings.Contains(b.Route(t, "fd65:1::/122"), "via fd77::1 ")
			})
			eventually(t, "all is told", func() bool { _, settled := h.driver.Learned(); return settled })
			peers, err := h.driver.Peers(context.Background())
			if err != nil || len(peers) != 2 {
				t.Fatalf("%v, %v", peers, err)
			}
			for _, x := range peers {
				if x.Received != 1 || x.Accepted != 1 || x.Sent != 1 || x.Flaps != 0 || !x.EndOfRIB || x.LastError != "" {
					t.Errorf("peer %+v", x)
				}
			}
			if r, err := h.driver.Apply(context.Background(), p); err != nil || !r.Zero() {
				t.Errorf("the same again: %+v, %v", r, err)
			}
			h.apply(t, plan(sessions(p.Sessions...), func(s *routing.Speaker) {
				s.Advertisements = []routing.Advertisement{{Prefix: prefix("10.65.9.0/26")}, {Prefix: prefix("fd65:1::/122")}}
			}))
			eventually(t, "BIRD has another route", func() bool { return b.Route(t, "10.65.1.0/26") == "" && b.Route(t, "10.65.9.0/26") != "" })
			h.apply(t, routing.Speaker{})
			eventually(t, "BIRD has none", func() bool { return b.Route(t, "10.65.9.0/26") == "" && b.Route(t, "fd65:1::/122") == "" })
			if l := h.learned(); l != "" {
				t.Errorf("still learned: %s", l)
			}
		})
	}
}

// TestLogLevel: the log says what its level asks for, from one plan to the next, and why a session is down is known at
// every level.
func TestLogLevel(t *testing.T) {
	h, _ := lab(t, 1)
	lines := func(level string) int {
		text, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "level="+level)
	}
	at := func(l model.LogLevel, peer string) {
		h.apply(t, plan(sessions(session(peer, 64513)), func(s *routing.Speaker) { s.LogLevel = l }))
		eventually(t, "at "+l.String()+" the error is said", func() bool { return strings.Contains(h.peer(t, peer).LastError, "refused") })
	}
	at(model.LogFatal, "10.77.0.2")
	if n := lines("DEBUG"); n > 0 {
		t.Errorf("%d lines of debugging in a log that is to say nothing", n)
	}
	info := lines("INFO")
	at(model.LogDebug, "fd77::2")
	eventually(t, "the log says more", func() bool { return lines("DEBUG") > 0 && lines("INFO") > info })
	at(model.LogFatal, "10.77.0.2")
	debug, info := lines("DEBUG"), lines("INFO")
	at(model.LogFatal, "fd77::2")
	if lines("DEBUG") != debug || lines("INFO") != info {
		t.Errorf("the log goes on: %d lines of debugging, were %d; %d of information, were %d", lines("DEBUG"), debug, lines("INFO"), info)
	}
}
