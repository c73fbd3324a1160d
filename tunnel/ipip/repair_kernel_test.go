package ipip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

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
	link, err := testkit.Try(t, h.NS, "ip", "-d", "link", "show", kernel.IPIPDevice)
	if err != nil {
		return "no device"
	}
	_, link, _ = strings.Cut(link, ": ")
	if _, ether, ok := strings.Cut(link, "link/ether "); ok && len(ether) > 17 {
		link = strings.Replace(link, ether[:17], "MAC", 1) // any does
	}
	lines := []string{link}
	for _, c := range [][]string{{"ip", "-o", "addr", "show", "dev", kernel.IPIPDevice}, {"nft", "list", "ruleset"}} {
		out, err := testkit.Try(t, h.NS, c...)
		if err != nil {
			return err.Error()
		}
		for _, l := range strings.Split(out, "\n") {
			if _, after, ok := strings.Cut(l, kernel.IPIPDevice+" "); ok {
				l = after // without the index before it
			}
			if !strings.Contains(l, "packets") {
				lines = append(lines, l)
			}
		}
	}
	return strings.Join(lines, "\n") + "\n" + programState(t, h)
}

// programState prints where our programs run, and what they know.
func programState(t *testing.T, h *host) string {
	t.Helper()
	d := h.driver
	if d.way != EBPF {
		return ""
	}
	d.running.Lock()
	defer d.running.Unlock()
	ctx := context.Background()
	links, err := h.h.TunnelLinks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names, macs := map[int]string{}, map[string]string{}
	for _, l := range links {
		names[l.Index], macs[l.Name] = l.Name, l.MAC.String()
	}
	running, err := d.bpf.everywhere(ctx, links)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(running)
	var lines []string
	for _, f := range running {
		lines = append(lines, fmt.Sprintf("%s at the %s of %s", f.info.Name, f.at.hook, names[f.at.index]))
	}
	if !d.bpf.loaded() {
		return strings.Join(lines, "\n")
	}
	var c config
	if err := d.bpf.objs.WeftConfig.Lookup(uint32(0), &c); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, fmt.Sprintf("%v by %s on %s, MAC right: %v", c.Local, names[int(c.Parent)], names[int(c.Device)],
		macs[kernel.IPIPDevice] == fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", c.MAC[0], c.MAC[1], c.MAC[2], c.MAC[3], c.MAC[4], c.MAC[5])))
	targets, err1 := mapTable[targetKey, [4]byte]{"", func() *ebpf.Map { return d.bpf.objs.WeftTargets }}.List(ctx)
	sources, err2 := mapTable[sourceKey, uint32]{"", func() *ebpf.Map { return d.bpf.objs.WeftSources }}.List(ctx)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for k, v := range targets {
		lines = append(lines, fmt.Sprint("target ", k, " ", v))
	}
	for k := range maps.Keys(sources) {
		lines = append(lines, fmt.Sprint("source ", k))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// programIDs returns which programs of ours run where.
func programIDs(t *testing.T, h *host) map[place]ebpf.ProgramID {
	t.Helper()
	out := map[place]ebpf.ProgramID{}
	links, err := h.h.TunnelLinks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	running, err := h.driver.runningPrograms(context.Background(), links)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(running)
	for _, f := range running {
		out[f.at], _ = f.info.ID()
	}
	return out
}

type sabotage struct {
	name    string
	command string
	do      func() error
}

// anySabotage is what ip(8) and nft(8) can do to either way.
func anySabotage(t *testing.T, n1 *host) []sabotage {
	return []sabotage{
		{name: "device deleted", command: "ip link del weft-ipip"},
		{name: "device renamed", do: func() error { testkit.Rename(t, n1.NS, kernel.IPIPDevice, "stolen0"); return nil }},
		{name: "device set down", command: "ip link set weft-ipip down"},
		{name: "device replaced", command: "ip link del weft-ipip; ip link add weft-ipip type ifb || ip link add weft-ipip type dummy || true"},
		{name: "MTU changed", command: "ip link set weft-ipip mtu 1300"},
		{name: "address removed", command: "ip addr flush dev weft-ipip || true"},
		{name: "address added", command: "ip addr add 10.99.0.1/32 dev weft-ipip"},
		{name: "ruleset flushed", command: "nft flush ruleset"},
		{name: "guard's rule removed", command: "nft flush chain inet weft tunnel-ipip-input"},
	}
}

func kernelSabotage() []sabotage {
	return []sabotage{
		{name: "local address changed", command: "ip link set weft-ipip type ipip local 172.31.1.77 remote any ttl 64 tos inherit"},
		{name: "TTL changed", command: "ip link set weft-ipip type ipip local 172.31.1.1 remote any ttl 7 tos inherit"},
		{name: "guard's element removed", command: "nft delete element inet weft tunnel-ipip-ip4-in-ip4-26 '{ 172.31.1.2 . 10.244.2.0 }'"},
	}
}

func programSabotage(n1 *host) []sabotage {
	ctx := context.Background()
	detach := func(device string, hook kernel.Hook) func() error {
		return func() error {
			l, ok, err := n1.h.LinkByName(ctx, device)
			if err != nil || !ok {
				return errors.Join(err, errors.New("no link"))
			}
			p := n1.driver.bpf.objs.WeftIpipIn
			if hook == kernel.Egress {
				p = n1.driver.bpf.objs.WeftIpipOut
			}
			return n1.driver.bpf.hooks.detach(ctx, place{l.Index, hook}, p)
		}
	}
	o := func() *programsObjects { return &n1.driver.bpf.objs }
	inner := [4]byte{10, 244, 2, 0}
	return []sabotage{
		// A dummy device lets its address be changed, ifb does not.
		{name: "MAC changed", command: "ip link set weft-ipip address 66:00:00:00:00:01 || true"},
		{name: "egress program detached", do: detach(kernel.IPIPDevice, kernel.Egress)},
		{name: "ingress program detached", do: detach("eth0", kernel.Ingress)},
		{name: "target deleted", do: func() error { return o().WeftTargets.Delete(targetKey{26, inner}) }},
		{name: "target changed", do: func() error { return o().WeftTargets.Put(targetKey{26, inner}, [4]byte{8, 8, 8, 8}) }},
		{name: "target added", do: func() error { return o().WeftTargets.Put(targetKey{0, [4]byte{}}, [4]byte{8, 8, 8, 8}) }},
		{name: "source deleted", do: func() error { return o().WeftSources.Delete(sourceKey{58, [4]byte{172, 31, 1, 2}, inner}) }},
		{name: "source added", do: func() error { return o().WeftSources.Put(sourceKey{0, [4]byte{}, [4]byte{}}, uint32(1)) }},
		{name: "config changed", do: func() error { return o().WeftConfig.Put(uint32(0), config{}) }},
		{name: "clsact deleted", command: "tc qdisc del dev eth0 clsact || true; tc qdisc del dev weft-ipip clsact || true"},
		{name: "uplink set down and up", command: "ip link set eth0 down; ip link set eth0 up"},
	}
}

func TestSabotageIsRepaired(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w, w)
		join(t, hosts)
		n1 := hosts[0]
		var p atomic.Pointer[tunnel.Plan]
		pl := plan(t, n1, hosts)
		p.Store(&pl)
		k := keep(t, n1, &p)
		want := state(t, n1)
		cases := append(anySabotage(t, n1), kernelSabotage()...)
		if w.Way == EBPF {
			cases = append(anySabotage(t, n1), programSabotage(n1)...)
		}
		for _, c := range cases {
			if c.do != nil {
				if err := c.do(); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
			} else {
				testkit.Run(t, n1.NS, "sh", "-c", c.command)
			}
			done := time.Now()
			for {
				if got := state(t, n1); got == want {
					break
				} else if time.Since(done) > testkit.Patient(5*time.Second) {
					t.Fatalf("%s: not repaired\n got: %s\nwant: %s", c.name, got, want)
				}
				time.Sleep(10 * time.Millisecond) // state holds the driver's lock
			}
			took := time.Since(done)
			if limit := testkit.Patient(time.Second); took > limit {
				t.Errorf("%s: repaired after %v, want at most %v", c.name, took, limit)
			}
			n1.routes(t, hosts, kernel.IPIPDevice)
			if !ping(t, hosts[1], n1) || !ping(t, n1, hosts[2]) {
				t.Errorf("%s: pods do not reach each other afterwards", c.name)
			}
			t.Logf("%-28s healed within %v (the looking included)", c.name, took.Round(time.Millisecond))
		}
		// It comes to rest: what it writes itself does not keep it busy.
		k.Rests(t)
		n1.driver.Invalidate()
		if res, err := n1.driver.Apply(context.Background(), pl); err != nil || !res.Zero() {
			t.Errorf("full run over what is in order: %v, %v", res, err)
		}
	})
}

// TestForeignDevices has somebody else's interface in the way.
func TestForeignDevices(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		n1 := hosts[0]
		testkit.Run(t, n1.NS, "ip", "link", "add", kernel.IPIPDevice, "type", "bridge")
		_, err := n1.driver.Apply(context.Background(), plan(t, n1, hosts))
		if err == nil || !strings.Contains(err.Error(), "ip link delete "+kernel.IPIPDevice) || !strings.Contains(err.Error(), "bridge") {
			t.Errorf("got %v, want an error that says what to do", err)
		}
		if l := testkit.Links(t, n1.NS); !strings.Contains(l, kernel.IPIPDevice+" bridge") {
			t.Errorf("somebody else's bridge is gone:\n%s", l)
		}
		testkit.Run(t, n1.NS, "ip", "link", "del", kernel.IPIPDevice)
		gone := plan(t, n1, hosts)
		gone.Links[0].Parent = "eth7"
		if _, err = n1.driver.Apply(context.Background(), gone); w.Way == EBPF && (err == nil || !strings.Contains(err.Error(), "eth7")) {
			t.Errorf("without the underlay interface: got %v, want an error that names it", err)
		}
		join(t, hosts)
		if !ping(t, n1, hosts[1]) {
			t.Error("pods do not reach each other")
		}
		// A new process finds what the old one left, changes nothing, and takes it away when asked.
		again := n1.way.driver(n1.h)
		defer again.Close()
		before := programIDs(t, n1)
		res, err := again.Apply(context.Background(), plan(t, n1, hosts))
		if err != nil || res.Removed != 0 { // the guard is programmed anew, in one transaction
			t.Errorf("a new process: %v, %v", res, err)
		}
		if now := programIDs(t, n1); !maps.Equal(now, before) || w.Way == EBPF && len(now) != 2 {
			t.Errorf("a new process replaced programs that are the same: %v, now %v", before, now)
		}
		last := n1.way.driver(n1.h)
		defer last.Close()
		if _, err := last.Apply(context.Background(), tunnel.Plan{}); err != nil {
			t.Error(err)
		}
		if l := testkit.Links(t, n1.NS); strings.Contains(l, kernel.IPIPDevice) {
			t.Errorf("the zero plan of a new process leaves\n%s", l)
		}
		if got := testkit.Run(t, n1.NS, "nft", "list", "ruleset") + programState(t, n1); w.Way == EBPF && strings.Contains(got, "at the") || strings.Contains(got, "table") {
			t.Errorf("the zero plan of a new process leaves\n%s", got)
		}
	})
}
