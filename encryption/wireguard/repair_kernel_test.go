package wireguard

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/encryption"
	"weft/internal/reconcile"
	"weft/internal/testkit"
	"weft/model"
)

// configureAs changes a device as wg(8) does.
func (h *host) configureAs(t testing.TB, c change, replaceAllowed bool) {
	t.Helper()
	if h.way == Userspace {
		text := encode(c)[len("set=1\n"):]
		if replaceAllowed {
			text = strings.Replace(text, "allowed_ip", "replace_allowed_ips=true\nallowed_ip", 1)
		}
		h.set(t, text)
		return
	}
	h.Do(t, func() error {
		client, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer client.Close()
		cfg := wgtypes.Config{ListenPort: c.port}
		if c.key != nil {
			k := wgtypes.Key(c.key.Bytes())
			cfg.PrivateKey = &k
		}
		if c.fwmark != nil {
			m := int(*c.fwmark)
			cfg.FirewallMark = &m
		}
		for _, p := range c.peers {
			x := p.config()
			x.ReplaceAllowedIPs = replaceAllowed
			cfg.Peers = append(cfg.Peers, x)
		}
		return client.ConfigureDevice(wg, cfg)
	})
}

type sabotage struct {
	name string
	do   func()
}

// sabotages are what somebody may do to a host's device and its peers.
func sabotages(t *testing.T, a, b *host) []sabotage {
	t.Helper()
	ip := func(args ...string) func() {
		return func() { testkit.Run(t, a.NS, append([]string{"ip"}, args...)...) }
	}
	as := func(c change, replace bool) func() { return func() { a.configureAs(t, c, replace) } }
	port, mark, keepalive := 4711, uint32(7), 99
	other, stranger, bKey := testKey(77), public(testKey(78)), public(b.key)
	all := netip.MustParsePrefix("0.0.0.0/0")
	out := []sabotage{
		{"device deleted", ip("link", "del", wg)},
		{"device set down", ip("link", "set", wg, "down")},
		{"device renamed", ip("link", "set", wg, "name", "stolen")},
		{"MTU", ip("link", "set", wg, "mtu", "1300")},
		{"IPv4 address deleted", ip("addr", "del", a.ip4().String()+"/32", "dev", wg)},
		{"IPv6 address deleted", ip("addr", "del", a.ip6().String()+"/128", "dev", wg)},
		{"address added", ip("addr", "add", "192.0.2.77/32", "dev", wg)},
		{"port", as(change{port: &port}, false)},
		{"private key", as(change{key: &other}, false)},
		{"mark", as(change{fwmark: &mark}, false)},
		{"peer removed", as(change{peers: []peerChange{{key: bKey, remove: true}}}, false)},
		{"peer added", as(change{peers: []peerChange{{key: stranger, add: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}}, false)},
		{"prefix stolen", as(change{peers: []peerChange{{key: stranger, add: []netip.Prefix{b.block4()}}}}, false)},
		{"prefix replaced", as(change{peers: []peerChange{{key: bKey, add: []netip.Prefix{all}}}}, true)},
		{"prefix added", as(change{peers: []peerChange{{key: bKey, add: []netip.Prefix{all}}}}, false)},
		{"keepalive", as(change{peers: []peerChange{{key: bKey, keepalive: &keepalive}}}, false)},
		{"all peers removed", func() { a.replaceAll(t, encryption.Plan{}) }},
	}
	if !testkit.RenamesWhileUp(t) {
		out[2].do = func() { ip("link", "set", wg, "down")(); ip("link", "set", wg, "name", "stolen")() }
	}
	if a.way == Userspace {
		out = append(out,
			sabotage{"process killed", func() { _ = unix.Kill(pidOf(t, a), unix.SIGKILL) }},
			sabotage{"process told to end", func() { _ = unix.Kill(pidOf(t, a), unix.SIGTERM) }})
	}
	return out
}

// TestRepaired: whatever somebody does to device or peers is put right within a second.
func TestRepaired(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w, w)
		a, b, c := hosts[0], hosts[1], hosts[2]
		join(t, model.IPv4, hosts...)
		plan := a.plan(model.IPv4, b, c)
		a.loop(t, func() encryption.Plan { return plan })
		list := sabotages(t, a, b)
		if w == Userspace {
			list = append(list, sabotage{"socket deleted", func() { _ = os.Remove(a.driver.procs.of(wg).Socket()) }})
		}
		var times []time.Duration
		for _, s := range list {
			start := time.Now()
			s.do()
			seen := a.differs(t, plan) != ""
			testkit.Eventually(t, 5*time.Second, s.name+" is repaired", func() bool { return a.differs(t, plan) == "" })
			took := time.Since(start)
			times = append(times, took)
			t.Logf("%s: repaired after %v (seen to be there: %v)", s.name, took.Round(time.Millisecond), seen)
			if limit := testkit.Patient(time.Second); took > limit {
				t.Errorf("%s: repaired after %v, want at most %v", s.name, took, limit)
			}
			a.routes(t, wg, b) // went with the device
			if !a.ping(t, b.ip4()) || !a.ping(t, b.ip6()) {
				t.Fatalf("%s: no way to the peer afterwards", s.name)
			}
		}
		slices.Sort(times)
		t.Logf("%d of %d repaired: after %v (median), %v (longest)", len(times), len(list), times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	})
}

// TestSabotageShows is the control: without a driver that watches, each can be seen; the next Apply counts
// it as repaired.
func TestSabotageShows(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		plan := a.plan(model.IPv4, b)
		a.apply(t, plan)
		for _, s := range sabotages(t, a, b) {
			s.do()
			testkit.Eventually(t, 10*time.Second, s.name+" is seen", func() bool { return a.differs(t, plan) != "" })
			a.driver.Invalidate()
			var res reconcile.Result
			testkit.Eventually(t, 5*time.Second, s.name+" can be repaired", func() (ok bool) {
				r, err := a.driver.Apply(context.Background(), plan) // a process that ends needs a moment
				res = res.Add(r)
				return err == nil
			})
			if res.Zero() || res.Repaired == 0 && s.name != "address added" { // of which nobody can say who it was
				t.Errorf("%s: %v; want it repaired", s.name, res)
			}
			if diff := a.differs(t, plan); diff != "" {
				t.Errorf("%s: not repaired: %s", s.name, diff)
			}
		}
	})
}

// differs tells how device and peers, as another program reads them, are not as planned; "" when they are.
func (h *host) differs(t testing.TB, p encryption.Plan) string {
	t.Helper()
	w := p.Devices[0]
	out, err := testkit.Try(t, h.NS, "ip", "addr", "show", "dev", wg)
	if err != nil {
		return "no device"
	}
	if !strings.Contains(out, fmt.Sprintf("mtu %d ", w.MTU)) || !strings.Contains(out, ",UP") {
		return "device: " + out
	}
	if n := strings.Count(out, " inet"); n != len(w.Addresses) {
		return fmt.Sprintf("%d addresses", n)
	}
	for _, a := range w.Addresses {
		if !strings.Contains(out, " "+a.String()+"/") {
			return "no address " + a.String()
		}
	}
	var c control = &socketControl{dir: h.options().SocketDir}
	if h.way == Kernel {
		c = &netlinkControl{h: h.h}
	}
	defer c.close()
	s, err := c.read(context.Background(), wg)
	if err != nil {
		return err.Error()
	}
	want := &state{key: w.Key, port: w.Port, fwmark: w.FwMark, peers: map[model.PublicKey]peerState{}}
	for _, x := range p.Peers {
		want.peers[x.Key] = peerState{allowed: x.AllowedIPs, keepalive: x.Keepalive}
	}
	if !want.holds(s) {
		return "configured otherwise"
	}
	return ""
}

// TestErrors: what cannot be made is said, and leaves the rest alone.
func TestErrors(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		ctx := context.Background()
		refused := func(p encryption.Plan, says ...string) {
			t.Helper()
			_, err := a.driver.Apply(ctx, p)
			for _, s := range says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("the error does not say %q: %v", s, err)
				}
			}
		}
		// The name is taken.
		testkit.Run(t, a.NS, "ip", "link", "add", wg, "type", "bridge")
		refused(a.plan(model.IPv4, b), "an interface of that name exists", `"bridge"`, "ip link delete "+wg)
		if out := testkit.Links(t, a.NS); !strings.Contains(out, wg+" bridge") {
			t.Errorf("the other's interface is gone: %s", out)
		}
		testkit.Run(t, a.NS, "ip", "link", "del", wg)
		if w == Userspace {
			testkit.Run(t, a.NS, "ip", "tuntap", "add", "mode", "tun", "name", "tun7")
			p := a.plan(model.IPv4)
			p.Devices[0].Name = "tun7"
			refused(p, "not ours", "ip link delete tun7")
			testkit.Run(t, a.NS, "ip", "tuntap", "del", "mode", "tun", "name", "tun7")
		}
		// The port is taken.
		var other net.PacketConn
		a.Do(t, func() (err error) {
			other, err = net.ListenPacket("udp4", ":51820")
			return err
		})
		refused(a.plan(model.IPv4, b), "UDP port 51820", "ss -lunp sport = :51820", "wireguardListeningPort")
		other.Close()
		a.apply(t, a.plan(model.IPv4, b)) // the retry
		b.apply(t, b.plan(model.IPv4, a))
		a.routes(t, wg, b)
		b.routes(t, wg, a)
		if !a.ping(t, b.ip4()) {
			t.Fatal("no way to the peer")
		}
		// A port that is taken leaves the device with the one that it has.
		a.Do(t, func() (err error) {
			other, err = net.ListenPacket("udp4", ":4711")
			return err
		})
		p := a.plan(model.IPv4, b)
		p.Devices[0].Port = 4711
		refused(p, "UDP port 4711")
		other.Close()
		if !a.ping(t, b.ip4()) {
			t.Error("a port that cannot be had took the one that was")
		}
		a.apply(t, a.plan(model.IPv4, b))
		// Bad peers are refused, the others not.
		p = a.plan(model.IPv4, b)
		twin := p.Peers[0]
		p.Peers = append(p.Peers,
			encryption.Peer{Device: wg, Node: "x1", Key: peerKey(9)}, encryption.Peer{Device: wg, Node: "x2", Key: peerKey(9)},
			encryption.Peer{Device: wg, Node: "x3", Key: peerKey(10), AllowedIPs: twin.AllowedIPs},
			encryption.Peer{Device: wg, Node: "x4"})
		refused(p, "peer x1 refused", "peer x2 refused", "peer x3 refused", "also node n2's", "peer x4 refused")
		if peers, err := a.driver.Peers(ctx); err != nil || len(peers) != 1 || peers[0].Node != b.name {
			t.Errorf("peers %+v, %v", peers, err)
		}
		if !a.ping(t, b.ip4()) || !a.ping(t, b.ip6()) {
			t.Error("the good peer suffers")
		}
		a.apply(t, a.plan(model.IPv4, b))
	})
}

// TestLive: settings change in place.
func TestLive(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		join(t, model.IPv4, a, b)
		if !a.ping(t, b.ip4()) {
			t.Fatal("no way to the peer")
		}
		// MTU, mark, keepalive, addresses, threading and keys change in place.
		p := a.plan(model.IPv4, b)
		d := &p.Devices[0]
		d.MTU, d.FwMark, d.Threading, p.Peers[0].Keepalive = 1400, 0, true, 25
		d.Addresses = append(d.Addresses, netip.MustParseAddr("10.244.1.9"))
		before, _, err := a.h.LinkByName(context.Background(), wg)
		if err != nil {
			t.Fatal(err)
		}
		a.apply(t, p)
		if diff := a.differs(t, p); diff != "" {
			t.Error(diff)
		}
		if w == Kernel {
			if on, err := a.h.LinkThreaded(wg); err != nil || !on {
				t.Errorf("threaded: %v, %v", on, err)
			}
		}
		if !a.ping(t, b.ip4()) {
			t.Error("no way to the peer with another MTU")
		}
		// The port: the peer follows.
		d.Port = 51999
		a.apply(t, p)
		if !a.ping(t, b.ip4()) {
			t.Error("no way to the peer from another port")
		}
		if peers, err := b.driver.Peers(context.Background()); err != nil || peers[0].Endpoint.Port() != 51999 {
			t.Errorf("the peer sends to %v, %v", peers[0].Endpoint, err)
		}
		b.driver.Invalidate()
		b.apply(t, b.plan(model.IPv4, a))
		if peers, err := b.driver.Peers(context.Background()); err != nil || peers[0].Endpoint.Port() != 51999 {
			t.Errorf("the plan, which did not change, sends the peer to %v, %v", peers[0].Endpoint, err)
		}
		if after, _, err := a.h.LinkByName(context.Background(), wg); err != nil || after.Index != before.Index {
			t.Errorf("the device is another one: %+v, %v", after, err)
		}
	})
}

// TestWayChanges: a device of the other way is replaced.
func TestWayChanges(t *testing.T) {
	require(t, Kernel, Userspace)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Kernel, Kernel)
	a, b := hosts[0], hosts[1]
	join(t, model.IPv4, a, b)
	for _, w := range []Way{Userspace, Kernel, Userspace} {
		a.way = w
		a.renew(t)
		a.apply(t, a.plan(model.IPv4, b))
		a.routes(t, wg, b)
		if !a.ping(t, b.ip4()) {
			t.Errorf("no way to the peer by %s", w)
		}
		if l, _, err := a.h.LinkByName(context.Background(), wg); err != nil || l.Kind != w.kind() {
			t.Errorf("the device is of kind %q, %v; want %q", l.Kind, err, w.kind())
		}
	}
}

// TestKeyNeverShows: no log, error, argument, environment or status has a private key, in any form.
func TestKeyNeverShows(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		join(t, model.IPv4, a, b)
		if !a.ping(t, b.ip4()) {
			t.Fatal("no way to the peer")
		}
		var text strings.Builder
		note := func(v any) { fmt.Fprintf(&text, "%v\n%+v\n%#v\n", v, v, v) }
		bad := a.plan(model.IPv4, b)
		bad.Peers = append(bad.Peers, encryption.Peer{Device: wg, Node: "x", Key: bad.Peers[0].Key}, encryption.Peer{Device: wg, Node: "y", Key: public(a.key)})
		_, err := a.driver.Apply(context.Background(), bad)
		note(err)
		note(bad)
		if w == Userspace {
			pid := pidOf(t, a)
			_ = unix.Kill(pid, unix.SIGKILL)
			_, err = a.driver.Apply(context.Background(), a.plan(model.IPv4, b))
			note(err)
			testkit.Eventually(t, 10*time.Second, "the process is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
			a.apply(t, a.plan(model.IPv4, b))
			e, done, err := (&socketControl{dir: a.options().SocketDir}).dial(context.Background(), wg)
			if err != nil {
				t.Fatal(err)
			}
			raw := a.key.Bytes()
			note(e.do("set=1\nprivate_key="+hex.EncodeToString(raw[:])+"00\n\n", nil)) // a key that is too long
			done()
			for _, f := range []string{"cmdline", "environ", "status", "maps"} {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pidOf(t, a), f))
				if err != nil {
					t.Fatal(err)
				}
				note(string(b))
			}
			log, err := os.ReadFile(a.driver.procs.logPath(wg))
			if err != nil || len(log) == 0 {
				t.Errorf("the process's log: %d bytes, %v", len(log), err)
			}
			note(string(log))
			for _, path := range []string{a.driver.procs.logPath(wg), a.driver.procs.of(wg).Socket()} {
				if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v, %v", path, info, err)
				}
			}
		}
		peers, err := a.driver.Peers(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		note(peers)
		note(a.log.String())
		ps, err := testkit.Try(t, a.NS, "ps", "-e", "-o", "args")
		if err == nil {
			note(ps)
		}
		raw := a.key.Bytes()
		forms := map[string]string{
			"raw": string(raw[:8]), "hex": hex.EncodeToString(raw[:8]), "HEX": strings.ToUpper(hex.EncodeToString(raw[:8])),
			"base64": wgtypes.Key(raw).String()[:11], "numbers": strings.Trim(fmt.Sprint(raw[:6]), "[]"),
		}
		for form, s := range forms {
			if strings.Contains(text.String(), s) {
				t.Errorf("the private key shows, as %s", form)
			}
		}
		// The control: what is written to the device would be found.
		if !strings.Contains(encode(change{key: &a.key}), forms["hex"]) || !strings.Contains(fmt.Sprint(wgtypes.Key(raw)), forms["base64"]) {
			t.Error("a key that shows is not found")
		}
		t.Logf("%d bytes of logs, errors, arguments, environment and status looked at: 0 have the key", text.Len())
	})
}

// TestProcessIsConfined: the process has only the capabilities that it needs, and leaves no core.
func TestProcessIsConfined(t *testing.T) {
	require(t, Userspace)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Userspace)
	h := hosts[0]
	h.apply(t, h.plan(model.IPv4))
	pid := pidOf(t, h)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, id.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, want := range []string{"CapEff:\t0000000000001400\n", "CapPrm:\t0000000000001400\n", "CapInh:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
			if err == nil && !strings.Contains(string(b), want) {
				t.Errorf("thread %s has not %q:\n%s", id.Name(), want, b)
			}
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || !strings.Contains(string(limits), "Max core file size        0                    0 ") {
		t.Errorf("it may leave a core: %v\n%s", err, limits)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("it is of session %d, %v; want one of its own", sid, err)
	}
	t.Logf("%d threads looked at", len(threads))
	// It ends when its device is deleted.
	testkit.Run(t, h.NS, "ip", "link", "del", wg)
	testkit.Eventually(t, 5*time.Second, "it ends", func() bool { return unix.Kill(pid, 0) != nil })
	if _, ok, err := h.h.LinkByName(context.Background(), wg); ok || err != nil {
		t.Errorf("the device is there, %v", err)
	}
}
