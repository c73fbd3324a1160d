package vxlan

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/tunnel"
)

// keep runs the driver as the node service does. It counts the runs, and those that changed something.
func keep(t *testing.T, h *host, p *atomic.Pointer[tunnel.Plan]) *testkit.Kept {
	t.Helper()
	return testkit.Keep(t, h.NS, h.driver, func(ctx context.Context) (bool, error) {
		res, err := h.driver.Apply(ctx, *p.Load())
		return !res.Zero(), err
	})
}

// state prints all that the driver keeps, without what differs from run to run.
func state(t *testing.T, h *host) string {
	t.Helper()
	link, err := testkit.Try(t, h.NS, "ip", "-d", "link", "show", kernel.VXLANDevice)
	if err != nil {
		return "no device"
	}
	var lines []string
	for _, l := range strings.Split(link, "\n") {
		_, l, _ = strings.Cut(" "+strings.Join(strings.Fields(l), " "), " ")
		if i := strings.Index(l, ": "); i > 0 && i < 6 {
			l = l[i+2:] // the index
		}
		lines = append(lines, l)
	}
	for _, c := range [][]string{{"ip", "-o", "addr", "show", "dev", kernel.VXLANDevice}, {"nft", "list", "ruleset"}} {
		out, err := testkit.Try(t, h.NS, c...)
		if err != nil {
			return err.Error()
		}
		for _, l := range strings.Split(out, "\n") {
			switch {
			case strings.Contains(l, "packets"):
				continue
			case strings.Contains(l, "inet "):
				_, l, _ = strings.Cut(l, kernel.VXLANDevice)
			}
			lines = append(lines, l)
		}
	}
	neigh, err1 := testkit.Try(t, h.NS, "ip", "neigh", "show", "dev", kernel.VXLANDevice)
	fdb, err2 := testkit.Try(t, h.NS, "bridge", "fdb", "show", "dev", kernel.VXLANDevice)
	if err := errors.Join(err1, err2); err != nil {
		return err.Error()
	}
	return sortLines(strings.Join(lines, "\n")) + sortLines(neigh) + sortLines(fdb)
}

func TestSabotageIsRepaired(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 3)
	join(t, hosts)
	n1 := hosts[0]
	var p atomic.Pointer[tunnel.Plan]
	pl := plan(t, n1, hosts)
	p.Store(&pl)
	k := keep(t, n1, &p)
	testkit.Eventually(t, 10*time.Second, "the first look at the guard", func() bool { return k.Changes.Load() > 0 })
	want := state(t, n1)
	mac := tunnel.VTEPMAC("n2").String()
	// A flush by ip(8) goes on until nothing is left, and gives up against a repair: no failure here.
	for _, c := range []struct{ name, command string }{
		{"device deleted", "ip link del weft-vxlan"},
		{"device renamed", ""},
		{"device set down", "ip link set weft-vxlan down"},
		{"MTU changed", "ip link set weft-vxlan mtu 1300"},
		{"MAC changed", "ip link set weft-vxlan address 66:00:00:00:00:01"},
		{"learning turned on", "ip link set weft-vxlan type vxlan learning"},
		{"local address changed", "ip link set weft-vxlan type vxlan local 172.31.1.77"},
		{"put into a bridge", "ip link add br9 type bridge && ip link set weft-vxlan master br9"},
		{"address removed", "ip addr flush dev weft-vxlan || true"},
		{"address added", "ip addr add 10.99.0.1/32 dev weft-vxlan"},
		{"neighbours flushed", "ip neigh flush dev weft-vxlan nud permanent || true"},
		{"one neighbour deleted", "ip neigh del 172.31.1.2 dev weft-vxlan"},
		{"neighbour changed", "ip neigh replace 172.31.1.2 lladdr 66:00:00:00:00:09 dev weft-vxlan nud permanent"},
		{"neighbour made dynamic", "ip neigh replace 172.31.1.2 lladdr " + mac + " dev weft-vxlan nud stale"},
		{"neighbour added", "ip neigh add 172.31.1.99 lladdr 66:00:00:00:00:09 dev weft-vxlan nud permanent"},
		{"FDB entry deleted", "bridge fdb del " + mac + " dev weft-vxlan"},
		{"FDB entry changed", "bridge fdb replace " + mac + " dev weft-vxlan dst 172.31.1.9"},
		{"FDB foreign entry", "bridge fdb add 66:00:00:00:00:09 dev weft-vxlan dst 172.31.1.9"},
		{"FDB default route added", "bridge fdb append 00:00:00:00:00:00 dev weft-vxlan dst 172.31.1.9; bridge fdb append 00:00:00:00:00:00 dev weft-vxlan dst 172.31.1.8"},
		{"ruleset flushed", "nft flush ruleset"},
		{"guard's rule removed", "nft flush chain inet weft tunnel-vxlan-input"},
		{"guard's element added", "nft add element inet weft tunnel-vxlan-ip4-in-ip4-26 '{ 172.31.1.66 . 10.244.6.0 }'"},
		{"guard's element removed", "nft delete element inet weft tunnel-vxlan-ip4-in-ip4-26 '{ 172.31.1.2 . 10.244.2.0 }'"},
		{"guard's table put to sleep", "nft 'add table inet weft { flags dormant ; }'"},
		{"guard replaced by accept", "nft 'flush chain inet weft tunnel-vxlan-input; add rule inet weft tunnel-vxlan-input accept'"},
		{"guard's chain moved", "nft 'flush chain inet weft tunnel-vxlan-input; delete chain inet weft tunnel-vxlan-input; add chain inet weft tunnel-vxlan-input { type filter hook output priority 0 ; }'"},
	} {
		start, before := time.Now(), k.Changes.Load()
		if c.command == "" {
			testkit.Rename(t, n1.NS, kernel.VXLANDevice, "stolen0")
		} else {
			testkit.Run(t, n1.NS, "sh", "-c", c.command)
		}
		done := time.Now()
		for {
			if got := state(t, n1); got == want && k.Changes.Load() > before {
				break
			} else if time.Since(start) > testkit.Patient(5*time.Second) {
				t.Fatalf("%s: not repaired\n got: %s\nwant: %s", c.name, got, want)
			}
		}
		took := time.Since(done)
		if limit := testkit.Patient(time.Second); took > limit {
			t.Errorf("%s: repaired after %v, want at most %v", c.name, took, limit)
		}
		t.Logf("%-28s healed within %v (the looking included)", c.name, took.Round(time.Millisecond))
		n1.routes(t, hosts, kernel.VXLANDevice)
	}
	if !ping(t, hosts[1], n1) || !ping(t, n1, hosts[2]) {
		t.Errorf("pods do not reach each other after all that")
	}
	// It comes to rest: what it writes itself does not keep it busy.
	k.Rests(t)
	// The slow full run finds all in order.
	h := n1.driver
	h.Invalidate()
	if res, err := h.Apply(context.Background(), pl); err != nil || !res.Zero() {
		t.Errorf("full run over what is in order: %v, %v", res, err)
	}
	t.Logf("%d runs in all, %d of them changed something; 0 in the last second, in which nothing happened", k.Applies.Load(), k.Changes.Load())
}

// TestRenamedDeviceIsKept has a device that lives on under another name sabotaged: events about it are
// recognised by the new name.
func TestRenamedDeviceIsKept(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 3)
	join(t, hosts)
	n1 := hosts[0]
	var p atomic.Pointer[tunnel.Plan]
	pl := plan(t, n1, hosts)
	p.Store(&pl)
	k := keep(t, n1, &p)
	testkit.Eventually(t, 10*time.Second, "the first look at the guard", func() bool { return k.Changes.Load() > 0 })
	both := planEnds(t, n1, hosts, map[string]end{kernel.VXLANDevice: {77, 8472}, oldDevice: {4096, 4789}})
	p.Store(&both)
	kept := func() string {
		var b strings.Builder
		for _, dev := range []string{kernel.VXLANDevice, oldDevice} {
			for _, c := range [][]string{{"ip", "-br", "link", "show", dev}, {"ip", "-br", "addr", "show", "dev", dev}, {"ip", "neigh", "show", "dev", dev}, {"bridge", "fdb", "show", "dev", dev}} {
				out, _ := testkit.Try(t, n1.NS, c...)
				b.WriteString(sortLines(out))
			}
		}
		return b.String()
	}
	mac := tunnel.VTEPMAC("n2").String()
	testkit.Run(t, n1.NS, "ip", "neigh", "flush", "dev", kernel.VXLANDevice, "nud", "permanent") // a reason to run
	testkit.Eventually(t, 10*time.Second, "both devices", func() bool {
		return strings.Count(testkit.Links(t, n1.NS), " vxlan mtu 1450 up") == 2 && strings.Count(kept(), "172.31.1.2") == 4
	})
	want := kept()
	shell := func(command string) func() {
		return func() { testkit.Run(t, n1.NS, "sh", "-c", command) }
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"forwarding entry deleted", shell("bridge fdb del " + mac + " dev weft-vxlan-old")},
		{"neighbour deleted", shell("ip neigh del 172.31.1.2 dev weft-vxlan-old")},
		{"address removed", shell("ip addr flush dev weft-vxlan-old || true")},
		{"device set down", shell("ip link set weft-vxlan-old down")},
		{"device renamed", func() { testkit.Rename(t, n1.NS, oldDevice, "stolen0") }},
		{"device deleted", shell("ip link del weft-vxlan-old")},
		// Where an interface that is up cannot be renamed, these two end half way.
		{"names changed", shell("ip link set weft-vxlan name x0 && ip link set weft-vxlan-old name weft-vxlan && ip link set x0 name weft-vxlan-old || true")},
		{"name taken", shell("ip link del weft-vxlan; ip link set weft-vxlan-old name weft-vxlan || true")},
	} {
		c.do()
		start := time.Now()
		for kept() != want {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s: not repaired\n got: %s\nwant: %s", c.name, kept(), want)
			}
		}
		t.Logf("%-28s healed within %v", c.name, time.Since(start).Round(time.Millisecond))
	}
	k.Rests(t)
}

// TestSettingsChangeLive changes what the plan says of the device, one thing after the other.
func TestSettingsChangeLive(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 2)
	join(t, hosts)
	index := func(h *host) int {
		l, ok, err := h.h.LinkByName(context.Background(), kernel.VXLANDevice)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return l.Index
	}
	plans := func(change func(*tunnel.Link)) {
		for _, h := range hosts {
			p := plan(t, h, hosts)
			change(&p.Links[0])
			apply(t, h, p)
			h.routes(t, hosts, kernel.VXLANDevice)
			h.driver.mu.Lock()
			h.driver.fresh = false // read the links again
			h.driver.mu.Unlock()
			if res, err := h.driver.Apply(context.Background(), p); err != nil || !res.Zero() {
				t.Errorf("the second Apply of the same plan: %v, %v", res, err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		remade bool
		change func(*tunnel.Link)
	}{
		{"MTU 1400", false, func(l *tunnel.Link) { l.MTU = 1400 }},
		{"without parent", false, func(l *tunnel.Link) { l.Parent = "" }},
		{"VNI 77", true, func(l *tunnel.Link) { l.VNI = 77 }},
		{"port 8472", true, func(l *tunnel.Link) { l.Port = 8472 }},
		{"VNI and port", true, func(l *tunnel.Link) { l.VNI, l.Port = 5, 4790 }},
		{"as before", true, func(*tunnel.Link) {}},
		{"without addresses", false, func(l *tunnel.Link) { l.Addresses = nil }},
	} {
		before := index(hosts[0])
		start := time.Now()
		if c.name == "without addresses" {
			for _, h := range hosts {
				p := plan(t, h, hosts)
				c.change(&p.Links[0])
				apply(t, h, p)
			}
			if a := testkit.Run(t, hosts[0].NS, "ip", "addr", "show", "dev", kernel.VXLANDevice); strings.Contains(a, "inet") {
				t.Errorf("%s: still\n%s", c.name, a)
			}
			continue
		}
		plans(c.change)
		took := time.Since(start)
		if remade := index(hosts[0]) != before; remade != c.remade {
			t.Errorf("%s: device made anew: %v, want %v", c.name, remade, c.remade)
		}
		if !ping(t, hosts[0], hosts[1]) {
			t.Errorf("%s: pods do not reach each other", c.name)
		}
		t.Logf("%-16s both nodes in %v", c.name, took.Round(time.Millisecond))
		if l := testkit.Links(t, hosts[0].NS); strings.Count(l, "vxlan mtu") != 1 {
			t.Errorf("%s: more than one device:\n%s", c.name, l)
		}
	}
}

// TestForeignDevices has somebody else's interface in the way.
func TestForeignDevices(t *testing.T) {
	hosts := cluster(t, 2)
	n1 := hosts[0]
	testkit.Run(t, n1.NS, "ip", "link", "add", kernel.VXLANDevice, "type", "bridge")
	_, err := n1.driver.Apply(context.Background(), plan(t, n1, hosts))
	if err == nil || !strings.Contains(err.Error(), "ip link delete "+kernel.VXLANDevice) || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
	if l := testkit.Links(t, n1.NS); !strings.Contains(l, kernel.VXLANDevice+" bridge") {
		t.Errorf("somebody else's bridge is gone:\n%s", l)
	}
	testkit.Run(t, n1.NS, "ip", "link", "del", kernel.VXLANDevice)
	testkit.Run(t, n1.NS, "ip", "link", "add", "flannel.1", "type", "vxlan", "id", "4096", "dstport", "4789", "dev", "eth0")
	_, err = n1.driver.Apply(context.Background(), plan(t, n1, hosts))
	if err == nil || !strings.Contains(err.Error(), "flannel.1") || !strings.Contains(err.Error(), "vxlanVNI") {
		t.Errorf("got %v, want an error that names flannel.1", err)
	}
	testkit.Run(t, n1.NS, "ip", "link", "del", "flannel.1")
	// A VXLAN device under our name, as another process of ours or a person left it: it is taken over.
	testkit.Run(t, n1.NS, "ip", "link", "add", kernel.VXLANDevice, "type", "vxlan", "id", "9", "dstport", "4789")
	apply(t, n1, plan(t, n1, hosts))
	if d := testkit.Run(t, n1.NS, "ip", "-d", "link", "show", kernel.VXLANDevice); !strings.Contains(d, "vxlan id 4096") {
		t.Errorf("not taken over:\n%s", d)
	}
	// A new process finds what the old one left, changes nothing, and takes it away when asked.
	again := New(n1.h, n1.driver.log)
	defer again.Close()
	res, err := again.Apply(context.Background(), plan(t, n1, hosts))
	if err != nil || res.Removed != 0 {
		t.Errorf("a new process: %v, %v", res, err)
	}
	last := New(n1.h, n1.driver.log)
	defer last.Close()
	if _, err := last.Apply(context.Background(), tunnel.Plan{}); err != nil {
		t.Error(err)
	}
	if l := testkit.Links(t, n1.NS); strings.Contains(l, "vxlan") {
		t.Errorf("the zero plan of a new process leaves\n%s", l)
	}
	if n := testkit.Run(t, n1.NS, "nft", "list", "ruleset"); strings.TrimSpace(n) != "" {
		t.Errorf("the zero plan of a new process leaves\n%s", n)
	}
}

func sortLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	slices.Sort(lines)
	return "\n" + strings.Join(lines, "\n")
}
