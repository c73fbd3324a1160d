package traffic

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
)

// rig is n namespaces on one switch, each with an address of both families.
func rig(t *testing.T, n int) ([]Host, []testkit.NS) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.IPRoute2, testkit.Bridge, testkit.IPv6)
	sw := testkit.NewNetns(t)
	testkit.Run(t, sw, "ip", "link", "add", "br0", "type", "bridge")
	testkit.Run(t, sw, "ip", "link", "set", "br0", "up")
	var hosts []Host
	var all []testkit.NS
	for i := range n {
		ns := testkit.NewNetns(t)
		testkit.Wire(t, sw, fmt.Sprintf("p%d", i), ns, "eth0")
		testkit.Run(t, sw, "ip", "link", "set", fmt.Sprintf("p%d", i), "master", "br0")
		v4, v6 := fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("2001:db8::%d", i+1)
		ns.AddAddress(t, "eth0", v4+"/24", v6+"/64")
		for _, a := range []string{v4, v6} {
			hosts = append(hosts, Host{Name: fmt.Sprintf("h%d", i+1), Netns: ns.Path, Addr: netip.MustParseAddr(a)})
		}
		all = append(all, ns)
	}
	return hosts, all
}

func run(t *testing.T, c Config, d time.Duration) Report {
	t.Helper()
	r, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	return r.Stop()
}

// Nothing is lost where nothing is in the way; the six pods of the mode tests are 30 pairs.
func TestNothingLost(t *testing.T) {
	hosts, _ := rig(t, 6)
	rep := run(t, Config{Hosts: hosts[:6], Interval: time.Millisecond, TCP: true}, 2*time.Second)
	t.Log(rep)
	if n := len(rep.Pairs); n != 12 {
		t.Errorf("%d pairs of three hosts with two families, want 12", n)
	}
	var four []Host
	for i := 0; i < len(hosts); i += 2 {
		four = append(four, hosts[i])
	}
	rep = run(t, Config{Hosts: four, Interval: time.Millisecond, TCP: true}, 3*time.Second)
	t.Log(rep)
	total := rep.Total()
	if len(rep.Pairs) != 30 || total.Lost != 0 || total.Duplicated != 0 || total.Refused != 0 {
		t.Errorf("%d pairs, want 30; nothing may be lost, doubled or refused", len(rep.Pairs))
	}
	if all, broken, _ := rep.Streams(); all != 30 || broken != 0 {
		t.Errorf("%d of %d TCP streams broke: %v", broken, all, rep.Errs())
	}
	for _, p := range rep.Pairs {
		if p.TCP.Sent == 0 || p.TCP.Sent != p.TCP.Received {
			t.Errorf("%s to %s: %d of %d bytes", p.From, p.To, p.TCP.Received, p.TCP.Sent)
		}
	}
}

// What a filter takes away is counted to the packet, and found between the marks where it was.
func TestLossIsCounted(t *testing.T) {
	hosts, ns := rig(t, 2)
	testkit.Require(t, testkit.NFTables)
	r, err := Start(t.Context(), Config{Hosts: []Host{hosts[0], hosts[2]}, Interval: time.Millisecond, TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	before := r.Mark()
	testkit.Run(t, ns[1], "nft", `add table inet t; add chain inet t c { type filter hook input priority 0; }; `+
		`add rule inet t c meta l4proto udp numgen inc mod 10 == 0 counter drop`)
	time.Sleep(500 * time.Millisecond)
	out := testkit.Run(t, ns[1], "nft", "list", "ruleset")
	testkit.Run(t, ns[1], "nft", "delete", "table", "inet", "t")
	time.Sleep(100 * time.Millisecond)
	after := r.Mark()
	time.Sleep(200 * time.Millisecond)
	rep := r.Stop()
	t.Log(rep)
	var packets, bytes int
	_, rest, _ := strings.Cut(out, "counter ")
	if _, err := fmt.Sscanf(rest, "packets %d bytes %d", &packets, &bytes); err != nil {
		t.Fatalf("read the counter in %q: %v", out, err)
	}
	lost := int(rep.Total().Lost)
	// A few more are dropped between listing the counter and deleting the rule.
	if packets < 20 || lost < packets || lost > packets+packets/5+10 {
		t.Errorf("%d lost; the filter dropped %d", lost, packets)
	}
	if _, l := rep.Between(before, after); int(l) != lost {
		t.Errorf("%d of %d lost packets are between the marks", l, lost)
	}
	if sent, l := rep.Between(0, before); sent == 0 || l != 0 {
		t.Errorf("%d of %d lost before the filter was there", l, sent)
	}
	if _, broken, _ := rep.Streams(); broken != 0 {
		t.Errorf("TCP was not filtered, but %v", rep.Errs())
	}
}

// A pair that never talks is an error with its name, and a TCP stream that is cut is seen.
func TestSilence(t *testing.T) {
	hosts, ns := rig(t, 2)
	four := []Host{hosts[0], hosts[2]}
	testkit.Run(t, ns[1], "ip", "link", "set", "eth0", "down")
	if _, err := Start(t.Context(), Config{Hosts: four, Interval: time.Millisecond, Warm: 200 * time.Millisecond}); err == nil ||
		!strings.Contains(err.Error(), "2 of 2 pairs were not heard") || !strings.Contains(err.Error(), "h1 to h2") {
		t.Errorf("got %v", err)
	}
	testkit.Run(t, ns[1], "ip", "link", "set", "eth0", "up")
	r, err := Start(t.Context(), Config{Hosts: four, Interval: 2 * time.Millisecond, TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	testkit.Run(t, ns[1], "ip", "link", "set", "eth0", "down")
	time.Sleep(500 * time.Millisecond)
	testkit.Run(t, ns[1], "ip", "link", "set", "eth0", "up")
	time.Sleep(500 * time.Millisecond)
	rep := r.Stop()
	t.Log(rep)
	if _, _, longest := rep.Streams(); rep.Total().Lost == 0 || rep.Total().LongestGap < 400*time.Millisecond || longest < 400*time.Millisecond {
		t.Error("the link was down for half a second")
	}
}

// A shaped link gives its rate, whatever the machine could do.
func TestThroughput(t *testing.T) {
	hosts, ns := rig(t, 2)
	free, err := Throughput(t.Context(), hosts[0], hosts[2], 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testkit.Try(t, ns[0], "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "50mbit", "burst", "64kb", "latency", "50ms"); err != nil {
		t.Skipf("this kernel does not shape: %v", err)
	}
	shaped, err := Throughput(t.Context(), hosts[0], hosts[2], time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("free %.0f Mbit/s, shaped to 50: %.1f Mbit/s", free/1e6, shaped/1e6)
	if shaped < 40e6 || shaped > 55e6 || free < 2*shaped {
		t.Errorf("free %.0f bit/s, shaped to 50 Mbit/s %.0f bit/s", free, shaped)
	}
	testkit.Run(t, ns[1], "ip", "link", "set", "eth0", "down")
	if _, err := Throughput(t.Context(), hosts[0], hosts[2], time.Second); err == nil || !strings.Contains(err.Error(), "h1 to h2") {
		t.Errorf("without a link: %v", err)
	}
}

// A tap reads all that has passed when it is stopped, and does not wait for an end of what goes on.
func TestTapStopsUnderTraffic(t *testing.T) {
	hosts, _ := rig(t, 2)
	tap, err := OpenTap(hosts[0].Netns, "eth0", Cookie)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Start(t.Context(), Config{Hosts: []Host{hosts[0], hosts[2]}, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	testkit.Eventually(t, 10*time.Second, "1,000 packets", func() bool { return r.Mark() >= 1000 })
	passed, begin := r.Mark()-1, time.Now()
	stopped := make(chan Seen, 1)
	go func() {
		seen, err := tap.Stop()
		if err != nil {
			t.Error(err)
		}
		stopped <- seen
	}()
	select {
	case seen := <-stopped:
		t.Logf("stopped after %v", time.Since(begin))
		if uint64(seen.Clear) < 2*passed {
			t.Errorf("%d of %d packets were read, want %d at least in clear", seen.Clear, seen.Packets, 2*passed)
		}
	case <-time.After(5 * time.Second):
		t.Error("a tap that is stopped goes on as long as there is traffic")
	}
}
