package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// otherInterface is the version of a speaker of another release.
const otherInterface = speaker.Interface + 1000

// startOther runs a speaker of another release for a host, and tells it the plan of the tests.
func startOther(t *testing.T, h *host) *exec.Cmd {
	t.Helper()
	p := speaker.Process{Dir: h.dir, Interface: otherInterface}
	cmd := exec.Command("/proc/self/exe", p.Args()...)
	cmd.Env = append(os.Environ(), options(h.dir).Env...)
	h.Do(t, cmd.Start)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var c net.Conn
	eventually(t, "the other release's speaker listens", func() (ok bool) {
		var err error
		c, err = net.Dial("unix", p.Socket())
		return err == nil
	})
	defer c.Close()
	request, err := json.Marshal(speaker.Request{Configure: ptr(speaker.Seal(plan()))})
	if err != nil {
		t.Fatal(err)
	}
	var reply speaker.Reply
	if _, err = c.Write(append(request, '\n')); err == nil {
		err = json.NewDecoder(c).Decode(&reply)
	}
	if err != nil || len(reply.Errors) > 0 {
		t.Fatalf("configure the other release's speaker: %v, %+v", err, reply)
	}
	return cmd
}

// TestUpgrade: a speaker of another release is replaced by this one's, and neighbours with graceful restart keep
// their routes.
func TestUpgrade(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64512}.start(t, ns[0])
	old := startOther(t, h)
	eventually(t, "BIRD has the routes", func() bool { return b.Route(t, "10.65.1.0/26") != "" && b.Route(t, "fd65:1::/122") != "" })
	if pid := h.speakerPID(t); pid != old.Process.Pid {
		t.Fatalf("process %d speaks, want %d", pid, old.Process.Pid)
	}
	events := router.WatchRoutes(t, ns[0])
	before, start := len(events.Settle(t)), time.Now()
	reaped := make(chan struct{})
	go func() { _ = old.Wait(); close(reaped) }()
	h.keep(t, plan())
	if pid := h.speakerPID(t); pid == old.Process.Pid {
		t.Error("the process of another release was adopted")
	}
	select {
	case <-reaped:
	case <-time.After(10 * time.Second):
		t.Error("the process of another release goes on")
	}
	eventually(t, "all is told", func() bool {
		_, settled := h.driver.Learned()
		return settled && h.peer(t, "10.77.0.2").Since.After(start) && h.peer(t, "fd77::2").Since.After(start)
	})
	h.learns(t, "10.65.2.0/26 via 10.77.0.2", "fd65:2::/122 via fd77::2")
	after := events.Settle(t)
	t.Logf("1 speaker replaced, 2 sessions: %d route events at the neighbour", len(after)-before)
	if len(after) != before {
		t.Errorf("route events: %q", after[before:])
	}
}

// TestEndOther: a speaker of another release, where none is wanted any more, withdraws everything before it ends:
// neighbours forget it at once, and not when their time of graceful restart is over.
func TestEndOther(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64512}.start(t, ns[0])
	old := startOther(t, h)
	eventually(t, "BIRD has the routes", func() bool { return b.Route(t, "10.65.1.0/26") != "" && b.Route(t, "fd65:1::/122") != "" })
	reaped := make(chan struct{})
	go func() { _ = old.Wait(); close(reaped) }()
	h.apply(t, routing.Speaker{})
	select {
	case <-reaped:
	case <-time.After(10 * time.Second):
		t.Error("the process of another release goes on")
	}
	took := eventually(t, "BIRD has forgotten the routes", func() bool { return b.Route(t, "10.65.1.0/26") == "" && b.Route(t, "fd65:1::/122") == "" })
	t.Logf("forgotten %v after the end", took.Round(time.Millisecond))
}

// TestOutOfMemory: a neighbour that fills the memory ends the process, not the host; it is back at once, and another
// neighbour keeps its routes, as this host keeps what that one announced.
func TestOutOfMemory(t *testing.T) {
	h, ns := lab(t, 2)
	b := birdConfig{i: 2, asn: 64512}.start(t, ns[0])
	flood := birdConfig{i: 3, asn: 64513}
	rogue := flood.start(t, ns[1])
	h.keep(t, plan(sessions(session("10.77.0.2", 64512, func(s *routing.Session) {
		s.Export = []routing.FilterRule{{RemotePeers: true}} // as every node has
	}), session("10.77.0.3", 64513))))
	h.established(t, "10.77.0.2", "10.77.0.3")
	eventually(t, "BIRD has the route, and all is told", func() bool {
		_, settled := h.driver.Learned()
		return settled && b.Route(t, "10.65.1.0/26") != ""
	})
	pid := h.speakerPID(t)
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, nil, &limit); err != nil || limit.Max != 8<<30 {
		t.Errorf("the process may have %d bytes, %v; want 8 GiB", limit.Max, err)
	}
	limit.Cur = data(t, pid) + 16<<20 // as if it were that much already
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &limit, nil); err != nil {
		t.Fatal(err)
	}
	events := router.WatchRoutes(t, ns[0])
	before, lost := len(events.Settle(t)), 0
	for i := range 60_000 {
		flood.static4 = append(flood.static4, fmt.Sprintf("%d.%d.%d.0/24 blackhole", 20+i/65536, i/256%256, i%256))
	}
	rogue.Reconfigure(t, flood.text())
	look := func() {
		if !strings.Contains(h.learned(), "10.65.2.0/26 via 10.77.0.2") {
			lost++
		}
	}
	testkit.Eventually(t, time.Minute, "the process ends", func() bool { look(); return unix.Kill(pid, 0) != nil })
	testkit.Eventually(t, time.Minute, "another speaks with both, and has it all", func() bool {
		look()
		_, settled := h.driver.Learned()
		return settled && h.peer(t, "10.77.0.2").State == speaker.Established && h.driver.count() == 60_002
	})
	text, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log"))
	if err != nil || !strings.Contains(string(text), "out of memory") && !strings.Contains(string(text), "cannot allocate memory") {
		t.Errorf("the log does not say that memory ran out: %v", err)
	}
	after := events.Settle(t)
	t.Logf("memory ran out once under 60000 routes: %d route events at the other neighbour, its route was lost here in %d looks", len(after)-before, lost)
	if len(after) != before || lost > 0 {
		t.Errorf("route events: %.2000q", after[before:])
	}
}

// data is what of its RLIMIT_DATA a process uses, in bytes.
func data(t *testing.T, pid int) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	kb := uint64(0)
	for l := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(l, "VmData: %d", &kb)
	}
	return kb << 10
}

// TestLinkLocal: a session between link-local addresses, with routes whose next hop is one.
func TestLinkLocal(t *testing.T) {
	h, ns := lab(t, 1)
	own, peer := linkLocal(t, h.NS), linkLocal(t, ns[0])
	config := birdConfig{i: 2, asn: 64513}
	config.more = fmt.Sprintf(`protocol bgp near {
  local %s%%eth0 as 64513; neighbor %s%%eth0 as 64512; graceful restart on; connect retry time 2; connect delay time 1;
  ipv6 { import all; export where source = RTS_STATIC; next hop self; };
}
`, peer, own)
	b := config.start(t, ns[0])
	s := session("fd77::2", 64513)
	s.Peer = addr(peer + "%eth0")
	for _, passive := range []bool{false, true} {
		s.Passive = passive
		h.apply(t, plan(sessions(s)))
		h.established(t, s.Peer.String())
		h.learns(t, "fd65:2::/122 via "+s.Peer.String())
		eventually(t, "BIRD has the route", func() bool { return strings.Contains(b.Route(t, "fd65:1::/122"), "via "+own+" on eth0") })
		h.apply(t, plan(sessions(session("10.77.0.2", 64513))))
		eventually(t, "it is gone", func() bool { return b.Route(t, "fd65:1::/122") == "" })
	}
	if _, err := h.driver.Peers(context.Background()); err != nil {
		t.Error(err)
	}
}

// linkLocal returns the address that eth0 has by itself.
func linkLocal(t *testing.T, ns testkit.NS) (a string) {
	t.Helper()
	eventually(t, "the link-local address is usable", func() bool {
		out := testkit.Run(t, ns, "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
		_, rest, _ := strings.Cut(out, "inet6 ")
		a, _, _ = strings.Cut(rest, "/")
		return a != "" && !strings.Contains(out, "tentative")
	})
	return a
}
