package router

import (
	"bufio"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/testkit"
)

// Events are the changes of routes in a namespace, as the kernel tells them; not of those that come with
// addresses.
type Events struct {
	ns    testkit.NS
	mu    sync.Mutex
	lines []string
}

// WatchRoutes notes every change of a route until the test ends.
func WatchRoutes(t testing.TB, ns testkit.NS) *Events {
	t.Helper()
	e := &Events{ns: ns}
	cmd := exec.Command("stdbuf", "-oL", "ip", "-o", "monitor", "route")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, cmd.Start)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			e.mu.Lock()
			e.lines = append(e.lines, s.Text())
			e.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	e.Settle(t)
	return e
}

// Settle returns what was seen so far, when it is sure that all that happened was seen: a route of its own
// comes and goes for that.
func (e *Events) Settle(t testing.TB) []string {
	t.Helper()
	const probe = "198.51.100.199"
	seen := func() (n int) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, l := range e.lines {
			if strings.Contains(l, probe) {
				n++
			}
		}
		return n
	}
	before := seen()
	testkit.Eventually(t, 10*time.Second, "the monitor tells of a route", func() bool {
		testkit.Run(t, e.ns, "ip", "route", "add", "blackhole", probe)
		testkit.Run(t, e.ns, "ip", "route", "del", "blackhole", probe)
		return seen() > before
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, l := range e.lines {
		if !strings.Contains(l, probe) && !strings.Contains(l, " proto kernel ") { // which are addresses that become usable
			out = append(out, l)
		}
	}
	return out
}
