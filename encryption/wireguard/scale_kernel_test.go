package wireguard

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/encryption"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/model"
)

// TestScale: 5,000 peers from empty, one more change, and what looking costs.
func TestScale(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w)
		h := hosts[0]
		n := testkit.Count(5000)
		p := h.plan(model.IPv4)
		p.Peers = manyPeers(n)
		ctx := context.Background()
		h.apply(t, h.plan(model.IPv4))
		cpu := func() time.Duration {
			if w == Kernel {
				return processTime(t, os.Getpid())
			}
			return processTime(t, os.Getpid()) + processTime(t, pidOf(t, h))
		}
		before := cpu()
		start := time.Now()
		res, err := h.driver.Apply(ctx, p)
		all, used := time.Since(start), cpu()-before
		if err != nil || res.Added != n {
			t.Fatalf("%v, %v", res, err)
		}
		var times, same []time.Duration
		const rounds = 40
		for i := range rounds {
			q := encryption.Plan{Devices: p.Devices, Peers: slices.Clone(p.Peers)}
			k := (i*97 + 1) % n
			q.Peers[k].AllowedIPs = append(slices.Clone(q.Peers[k].AllowedIPs), netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
			p = q
			start := time.Now()
			res, err := h.driver.Apply(ctx, p)
			times = append(times, time.Since(start))
			if err != nil || res.Changed != 1 || res.Added+res.Removed != 0 {
				t.Fatalf("change %d: %v, %v", i, res, err)
			}
			start = time.Now()
			if res, err := h.driver.Apply(ctx, p); err != nil || !res.Zero() {
				t.Fatalf("the same: %v, %v", res, err)
			}
			same = append(same, time.Since(start))
		}
		slices.Sort(times)
		slices.Sort(same)
		var looks, reads []time.Duration
		for range 10 {
			cost, err := processorTime(func() error { _, err := h.driver.control.read(ctx, wg); return err })
			if err != nil {
				t.Fatal(err)
			}
			reads = append(reads, cost)
			dev := h.driver.devices[wg]
			dev.lookNext = time.Time{}
			start := time.Now()
			if !h.driver.look(ctx) {
				t.Fatal("somebody changed it")
			}
			looks = append(looks, time.Since(start))
		}
		slices.Sort(looks)
		slices.Sort(reads)
		t.Logf("%d peers: from empty %v (%v of processor time, the process's with it); one changed %v (median of %d), %v (longest); nothing changed %v", n, all.Round(time.Millisecond), used.Round(time.Millisecond), times[rounds/2].Round(10*time.Microsecond), rounds, times[rounds-1].Round(10*time.Microsecond), same[rounds/2].Round(10*time.Microsecond))
		t.Logf("a look takes %v, reading all costs %v of the driver's processor time (medians of 10)", looks[5].Round(10*time.Microsecond), reads[5].Round(10*time.Microsecond))
		if w == Userspace {
			t.Logf("the process: %s", memory(t, pidOf(t, h)))
		}
		if testkit.Emulated() {
			return
		}
		setting := fmt.Sprintf("%d peers, %s", n, w)
		figures.Write(t, "wireguard", append(figures.Seconds("configured", setting, all), figures.Seconds("peer_changed", setting, times...)...)...)
		// By the clock where the machine is idle, else what it would be.
		if min(all, used) > 3*time.Second {
			t.Errorf("from empty: %v, %v of processor time, want 3 s", all, used)
		}
		if times[rounds/2] > 10*time.Millisecond {
			t.Errorf("one changed: %v, want 10 ms", times[rounds/2])
		}
	})
}

// processTime is how much processor time a process has used.
func processTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system int
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func memory(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if strings.HasPrefix(l, "VmRSS") {
			return strings.Join(strings.Fields(l), " ")
		}
	}
	return "?"
}

// TestThroughput compares with a device that wireguard-go's own main would have, between the same
// namespaces.
func TestThroughput(t *testing.T) {
	require(t, Userspace)
	testkit.Require(t, testkit.Iperf3)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Userspace, Userspace)
	a, b := hosts[0], hosts[1]
	join(t, model.IPv4, a, b)
	const device = "bare0"
	pids := []int{pidOf(t, a), pidOf(t, b)}
	for _, pair := range [][2]*host{{a, b}, {b, a}} {
		h, o := pair[0], pair[1]
		key, port := testKey(200+h.i), 51830
		cfg := encode(change{key: &key, port: &port, peers: []peerChange{{
			key: public(testKey(200 + o.i)), endpoint: netip.AddrPortFrom(o.under(model.IPv4), 51830), add: []netip.Prefix{o.block4()},
		}}})
		pids = append(pids, startReady(t, h.NS, []string{bareCommand, device}, strings.TrimPrefix(cfg, "set=1\n")).Process.Pid)
		testkit.Run(t, h.NS, "ip", "link", "set", device, "up")
	}
	dest := b.ip4()
	// Of the devices' processes only, which what else this machine does changes little.
	used, running, last := map[string]time.Duration{}, "", time.Duration(0)
	account := func(next string) {
		now := time.Duration(0)
		for _, pid := range pids {
			now += processTime(t, pid)
		}
		used[running] += now - last
		running, last = next, now
	}
	via := func(name string) testkit.Way {
		return testkit.Way{Name: name, Ready: func() {
			account(name)
			for _, pair := range [][2]*host{{a, b}, {b, a}} {
				// One address, by the one device or the other.
				testkit.Run(t, pair[0].NS, "ip", "route", "replace", pair[1].block4().String(), "dev", map[string]string{"weft": wg, "wireguard-go": device}[name], "src", pair[0].ip4().String())
			}
			testkit.Eventually(t, 20*time.Second, "there is a way by "+name, func() bool { return a.ping(t, dest) })
		}}
	}
	rounds := 6
	if testkit.Emulated() {
		rounds = 1
	}
	s := testkit.CompareStreams(t, a.NS, b.NS, dest, rounds, via("weft"), via("wireguard-go"))
	account("")
	byProcess := used["wireguard-go"].Seconds() / used["weft"].Seconds()
	t.Logf("weft to wireguard-go: %.3f, by the processor time of the devices' processes, %v and %v", byProcess, used["weft"], used["wireguard-go"])
	figures.Write(t, "wireguard", append(figures.Ratios("of_bare", "", s.Ratios("weft", "wireguard-go")...),
		figures.Ratios("of_bare_by_processor", "", byProcess)...)...)
	if r := s.Ratio(t, "weft", "wireguard-go"); r.High < 0.95 || byProcess < 0.9 {
		t.Errorf("%.3f of a bare device at most, %.3f by its processor time, want 0.95", r.High, byProcess)
	}
}
