package bgp

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// keep applies a plan whenever the driver asks for it, until the test ends.
func (h *host) keep(t testing.TB, s routing.Speaker) {
	t.Helper()
	h.apply(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	kick := make(chan struct{}, 1)
	d := h.driver
	var done sync.WaitGroup
	done.Go(func() { _ = d.Watch(ctx, func() { poke(kick) }) })
	done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-kick:
			}
			if _, err := d.Apply(ctx, s); err != nil && ctx.Err() == nil {
				poke(d.again)
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// TestAgentKilled: neighbours notice nothing when the process is killed that configures the speaker, and the
// next one adopts it and knows what it learned.
func TestAgentKilled(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64512}.start(t, ns[0])
	rounds := testkit.Count(20)
	want := "10.65.2.0/26 via 10.77.0.2\nfd65:2::/122 via fd77::2"
	var events *router.Events
	before, pid := 0, 0
	for i := range rounds {
		a := startAgent(t, h)
		if i == 0 {
			eventually(t, "BIRD has the routes", func() bool { return b.Route(t, "10.65.1.0/26") != "" && b.Route(t, "fd65:1::/122") != "" })
			events = router.WatchRoutes(t, ns[0])
			before, pid = len(events.Settle(t)), h.speakerPID(t)
		}
		if err := a.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = a.Wait()
		if now := h.speakerPID(t); now != pid {
			t.Fatalf("round %d: process %d speaks, was %d", i, now, pid)
		}
	}
	h.apply(t, plan())
	eventually(t, "the next driver knows what was learned", func() bool { _, settled := h.driver.Learned(); return settled && h.learned() == want })
	if p := h.peer(t, "10.77.0.2"); p.State != speaker.Established || p.Flaps != 0 {
		t.Errorf("the session: %+v", p)
	}
	after := events.Settle(t)
	t.Logf("%d agents killed: %d route events at the neighbour", rounds, len(after)-before)
	figures.Write(t, "neighbour", figures.Share("", "route_events", int64(len(after)-before), "agents_killed", int64(rounds))...)
	if len(after) != before {
		t.Errorf("route events: %q", after[before:])
	}
}

// TestSpeakerKilled: with graceful restart, neighbours keep their routes while a killed speaker comes back,
// and what was learned stays; without, they do not.
func TestSpeakerKilled(t *testing.T) {
	for name, c := range map[string]struct {
		restart uint16
		signal  unix.Signal
	}{
		"graceful restart": {120, unix.SIGKILL}, "control without": {0, unix.SIGKILL},
		// The runtime ends a process on it as it does on a panic that nobody recovers: with all stacks in the log.
		"a crash": {120, unix.SIGSEGV},
	} {
		t.Run(name, func(t *testing.T) {
			restart := c.restart
			h, ns := lab(t, 1)
			config := birdConfig{i: 2, asn: 64512}
			if restart == 0 {
				config.sessions = "graceful restart off;"
			}
			b := config.start(t, ns[0])
			h.keep(t, plan(each(func(s *routing.Session) { s.RestartSeconds = restart })))
			h.learns(t, "10.65.2.0/26 via 10.77.0.2", "fd65:2::/122 via fd77::2")
			eventually(t, "BIRD has the routes", func() bool { return b.Route(t, "10.65.1.0/26") != "" && b.Route(t, "fd65:1::/122") != "" })
			eventually(t, "all is told", func() bool { _, settled := h.driver.Learned(); return settled })
			events := router.WatchRoutes(t, ns[0])
			before, want, changes := len(events.Settle(t)), h.learned(), 0
			rounds := testkit.Count(3)
			for range rounds {
				pid := h.speakerPID(t)
				if err := unix.Kill(pid, c.signal); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				eventually(t, "another speaks, and all is told", func() bool {
					if h.learned() != want {
						changes++
					}
					_, settled := h.driver.Learned()
					p := h.peer(t, "10.77.0.2")
					return settled && p.State == speaker.Established && p.Since.After(start) && h.peer(t, "fd77::2").State == speaker.Established && h.learned() == want
				})
				t.Logf("back after %v", time.Since(start).Round(time.Millisecond))
				eventually(t, "BIRD has the routes", func() bool { return b.Route(t, "10.65.1.0/26") != "" && b.Route(t, "fd65:1::/122") != "" })
				// A speaker that ends soon after its start is not started at once again and again.
				time.Sleep(1100 * time.Millisecond)
			}
			if text, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log")); err != nil || strings.Contains(string(text), "goroutine ") != (c.signal == unix.SIGSEGV) {
				t.Errorf("stacks in the log: %v", err)
			}
			after := events.Settle(t)
			if restart == 0 {
				figures.Write(t, "neighbour", figures.Share("control: speakers killed, without graceful restart", "route_events", int64(len(after)-before), "agents_killed", int64(rounds))...)
			}
			t.Logf("%d speakers killed: %d route events at the neighbour, %d looks at what is learned found a change", rounds, len(after)-before, changes)
			if restart == 0 {
				if len(after) == before || changes == 0 {
					t.Error("nobody noticed: this test would not see it either")
				}
			} else if len(after) != before || changes > 0 {
				t.Errorf("route events: %q", after[before:])
			}
		})
	}
}

// TestNeighbourKilled: the routes of a neighbour with graceful restart stay while it comes back, and go when it does not in its
// time.
func TestNeighbourKilled(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64513, sessions: "graceful restart time 15;"}.start(t, ns[0])
	h.apply(t, plan(sessions(session("10.77.0.2", 64513), session("fd77::2", 64513))))
	want := "10.65.2.0/26 via 10.77.0.2\nfd65:2::/122 via fd77::2"
	h.learns(t, strings.Split(want, "\n")...)
	b.Kill(t)
	changes, looks := 0, 0
	look := func() {
		looks++
		if h.learned() != want {
			changes++
		}
	}
	eventually(t, "the session is down", func() bool { look(); return h.peer(t, "10.77.0.2").State != speaker.Established })
	b.Start(t)
	eventually(t, "the session is up", func() bool {
		look()
		p, q := h.peer(t, "10.77.0.2"), h.peer(t, "fd77::2")
		return p.State == speaker.Established && p.EndOfRIB && q.State == speaker.Established && q.EndOfRIB
	})
	look()
	t.Logf("%d looks while BIRD was killed and came back: %d changes", looks, changes)
	if changes > 0 {
		t.Error("routes went away")
	}
	p := h.peer(t, "10.77.0.2")
	if p.Flaps != 1 || !strings.Contains(p.LastError, "ended without a NOTIFICATION") {
		t.Errorf("the session: %+v", p)
	}
	b.Kill(t)
	eventually(t, "its time is over", func() bool { return h.learned() == "" })
}
