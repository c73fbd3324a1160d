package nftables

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/model"
	"weft/nat"
)

func TestWhatIsTranslated(t *testing.T) {
	testkit.LeakCheck(t)
	w := newWorld(t)
	echo(t, w.out, toWorld, toHost, toPool, toDisabled, toWorld6, toHost6, toPool6)
	echo(t, w.pod2, pod2Addr)
	echo(t, w.far, farAddr)
	addr := netip.MustParseAddr(natAddr)
	cases := []struct {
		name     string
		cfg      model.NATConfig
		to, want string
	}{
		{"the world", model.NATConfig{}, toWorld, nodeAddr},
		{"a node", model.NATConfig{}, toHost, nodeAddr},
		{"another pool", model.NATConfig{}, toPool, podAddr},
		{"a disabled pool", model.NATConfig{}, toDisabled, podAddr},
		{"a pod of this node", model.NATConfig{}, pod2Addr, podAddr},
		{"a pod behind the tunnel", model.NATConfig{}, farAddr, podAddr},
		{"the world, IPv6", model.NATConfig{}, toWorld6, nodeAddr6},
		{"a node, IPv6", model.NATConfig{}, toHost6, nodeAddr6},
		{"another pool, IPv6", model.NATConfig{}, toPool6, podAddr6},
		{"the world, nodes spared", model.NATConfig{SpareHosts: true}, toWorld, nodeAddr},
		{"a node, nodes spared", model.NATConfig{SpareHosts: true}, toHost, podAddr},
		{"a node, nodes spared, IPv6", model.NATConfig{SpareHosts: true}, toHost6, podAddr6},
		{"the world, with an address", model.NATConfig{Address: addr}, toWorld, natAddr},
		{"another pool, with an address", model.NATConfig{Address: addr}, toPool, podAddr},
		{"the world, with an address, IPv6", model.NATConfig{Address: addr}, toWorld6, nodeAddr6},
		{"by this interface", model.NATConfig{Interface: "eth0"}, toWorld, nodeAddr},
		{"by interfaces that begin so", model.NATConfig{Interface: "eth+"}, toWorld, nodeAddr},
		{"by another interface", model.NATConfig{Interface: "eth"}, toWorld, podAddr},
		{"by interfaces that begin differently", model.NATConfig{Interface: "ens+"}, toWorld6, podAddr6},
	}
	counts := map[bool]int{}
	for _, c := range cases {
		w.apply(t, compile(t, c.cfg))
		for _, network := range []string{"udp", "tcp"} {
			got, err := seen(t, w.pod, network, "", c.to)
			if err != nil || got.Addr().String() != c.want {
				t.Errorf("%s, %s: %s saw %v (%v), want %s", c.name, network, c.to, got, err, c.want)
			}
			counts[c.want != podAddr && c.want != podAddr6]++
		}
	}
	t.Logf("%d connections were translated, %d were not", counts[true], counts[false])

	// ICMP has no ports; outside there is no way back to the pod but as the node.
	w.apply(t, compile(t, model.NATConfig{Ports: model.PortRange{First: 20000, Last: 20100}}))
	run(t, w.out, "ip route add blackhole "+podAddr, "ip -6 route add blackhole "+podAddr6)
	for _, to := range []string{toWorld, toWorld6} {
		if _, err := testkit.Try(t, w.pod, "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", to); err != nil {
			t.Errorf("ping: %v", err)
		}
		if _, err := seen(t, w.pod, "udp", "", to); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	// The control: without the rules nothing comes back, and the source is the pod's.
	w.apply(t, nat.Plan{})
	for _, to := range []string{toWorld, toWorld6} {
		if _, err := testkit.Try(t, w.pod, "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", to); err == nil {
			t.Errorf("control: without rules, ping to %s has an answer", to)
		}
	}
	run(t, w.out, "ip route del blackhole "+podAddr)
	if got, err := seen(t, w.pod, "tcp", "", toWorld); err != nil || got.Addr().String() != podAddr {
		t.Errorf("control: without rules %v is seen (%v), want the pod", got, err)
	}
	if out := testkit.Run(t, w.node, "nft", "list", "ruleset"); out != "" {
		t.Errorf("the zero plan leaves behind:\n%s", out)
	}
}

func TestPorts(t *testing.T) {
	testkit.LeakCheck(t)
	n := 150
	if testkit.Emulated() {
		n = 15
	}
	w := newWorld(t)
	echo(t, w.out, toWorld, toHost, toWorld6)
	local := 30000 // each connection has a port of its own in its pod: none is taken for an earlier one
	// From these port 4789 is tried, each time anew.
	tunnelPort := []struct {
		pod      testkit.NS
		addr, to string
	}{{w.pod, podAddr, toWorld}, {w.pod, podAddr, toHost}, {w.pod2, pod2Addr, toWorld}, {w.pod2, pod2Addr, toHost}, {w.pod, podAddr6, toWorld6}}
	for i, cfg := range []model.NATConfig{
		{Ports: model.PortRange{First: 20000, Last: 21999}},
		{Ports: model.PortRange{First: 20000, Last: 21999}, Address: netip.MustParseAddr(natAddr)},
		{Ports: model.PortRange{First: 4700, Last: 5400}},
		{},
	} {
		w.apply(t, compile(t, cfg))
		for _, c := range []struct{ network, from, to string }{{"udp", podAddr, toWorld}, {"tcp", podAddr, toWorld}, {"udp", podAddr6, toWorld6}, {"tcp", podAddr6, toWorld6}} {
			r := cfg.Ports
			switch {
			case c.network == "udp" && cfg.Ports.First != 20000: // tunnels have 4789
				r = model.PortRange{First: 4790, Last: cfg.Ports.Last}
				if cfg.Ports.IsZero() {
					r.Last = 65535
				}
			case cfg.Ports.IsZero():
				r = model.PortRange{First: 1, Last: 65535}
			}
			ports := map[uint16]bool{}
			for range n {
				local++
				got, err := seen(t, w.pod, c.network, netip.AddrPortFrom(netip.MustParseAddr(c.from), uint16(local)).String(), c.to)
				if err != nil {
					t.Fatalf("%v, %s to %s: %v", cfg, c.network, c.to, err)
				}
				if got.Port() < r.First || got.Port() > r.Last {
					t.Errorf("%v, %s to %s: port %d is not in %v", cfg, c.network, c.to, got.Port(), r)
				}
				ports[got.Port()] = true
			}
			if len(ports) < n/2 {
				t.Errorf("%v, %s to %s: only %d different ports", cfg, c.network, c.to, len(ports))
			}
			t.Logf("ports %v, address %v, %s to %s: %d connections from %d different ports, all in %v", cfg.Ports, cfg.Address, c.network, c.to, n, len(ports), r)
		}
		// A pod that chooses the tunnel's port does not get it.
		p := tunnelPort[i]
		got, err := seen(t, p.pod, "udp", p.addr+":4789", p.to)
		if err != nil || got.Port() == 4789 {
			t.Errorf("%v: a pod that sends from port 4789 is seen as %v, %v", cfg, got, err)
		}
	}
	// The control: the kernel by itself gives it.
	w.apply(t, nat.Plan{})
	run(t, w.node, "nft add table inet control", "nft add chain inet control post { type nat hook postrouting priority 100 ; }",
		"nft add rule inet control post oifname eth0 masquerade")
	p := tunnelPort[4]
	if got, err := seen(t, p.pod, "udp", "["+p.addr+"]:4789", p.to); err != nil || got.Port() != 4789 || got.Addr().String() != nodeAddr6 {
		t.Errorf("control: masquerade without a range: seen as %v, %v, want the tunnel's port", got, err)
	}
}

// TestTunnelSource has host processes speak to a pod behind the tunnel from sockets bound to several
// addresses.
func TestTunnelSource(t *testing.T) {
	testkit.LeakCheck(t)
	w := newWorld(t)
	echo(t, w.far, farAddr)
	locals := map[string]bool{"": true, tunnelAddr + ":0": true, nodeAddr + ":0": false, natAddr + ":0": false}
	for local, works := range locals {
		for _, network := range []string{"udp", "tcp"} {
			if got, err := seen(t, w.node, network, local, farAddr); (err == nil) != works {
				t.Errorf("control, no rules: %s from %q is seen as %v, %v", network, local, got, err)
			}
		}
	}
	w.apply(t, compile(t, model.NATConfig{}))
	for local := range locals {
		for _, network := range []string{"udp", "tcp"} {
			if got, err := seen(t, w.node, network, local, farAddr); err != nil || got.Addr().String() != tunnelAddr {
				t.Errorf("%s from %q is seen as %v, %v, want %s", network, local, got, err, tunnelAddr)
			}
		}
	}
	// A port of its own choice is kept where it is free.
	if got, err := seen(t, w.node, "tcp", nodeAddr+":7777", farAddr); err != nil || got.Port() != 7777 {
		t.Errorf("a socket at port 7777 is seen as %v, %v", got, err)
	}
	// With Pods, what is sent elsewhere by the device stays as it is.
	for pods, translated := range map[string]bool{farAddr + "/24": true, "203.0.113.0/24": false} {
		p := compile(t, model.NATConfig{})
		for i := range p.Tunnels {
			p.Tunnels[i].Pods = true
		}
		p.Pods = nat.Merge([]netip.Prefix{netip.MustParsePrefix(pods)})
		w.apply(t, p)
		for _, network := range []string{"udp", "tcp"} {
			if got, err := seen(t, w.node, network, nodeAddr+":0", farAddr); (err == nil) != translated {
				t.Errorf("%s, when %s is pods': seen as %v, %v", network, pods, got, err)
			}
		}
	}
	// What is not this host's own stays.
	if got, err := seen(t, w.pod, "tcp", "", farAddr); err != nil || got.Addr().String() != podAddr {
		t.Errorf("a pod is seen through the tunnel as %v, %v", got, err)
	}
}

// TestInvalidPacketsStay has a pod send what conntrack cannot place: it must not leave with the pod's
// address.
func TestInvalidPacketsStay(t *testing.T) {
	testkit.LeakCheck(t)
	const n = 100
	w := newWorld(t)
	w.apply(t, compile(t, model.NATConfig{}))
	leaked := sniff(t, w.out, podAddr)
	resets := func() {
		w.pod.Do(t, func() error {
			c, err := net.Dial("ip4:tcp", toWorld)
			if err != nil {
				return err
			}
			defer c.Close()
			for i := range n {
				if _, err := c.Write(reset(uint16(1000+i), netip.MustParseAddr(podAddr), netip.MustParseAddr(toWorld))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	resets()
	if got := leaked(); got != 0 {
		t.Errorf("%d of %d invalid packets left with the pod's address", got, n)
	}
	if d, err := w.driver.Dropped(context.Background()); err != nil || d != n {
		t.Errorf("%d of %d were counted, %v", d, n, err)
	}
	// The control.
	run(t, w.node, "nft flush chain inet weft nat-forward")
	resets()
	if got := leaked(); got != n {
		t.Errorf("control: without the rule %d of %d left with the pod's address, want all", got, n)
	}
}

// reset returns a TCP segment with RST alone.
func reset(port uint16, src, dst netip.Addr) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, port)
	binary.BigEndian.PutUint16(b[2:], echoPort)
	b[12], b[13] = 5<<4, 4
	sum := uint32(unix.IPPROTO_TCP + len(b))
	for _, part := range [][]byte{src.AsSlice(), dst.AsSlice(), b} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}

// sniff counts the TCP segments from an address that reach the namespace.
func sniff(t *testing.T, ns testkit.NS, from string) func() int {
	t.Helper()
	var c net.PacketConn
	ns.Do(t, func() (err error) { c, err = net.ListenPacket("ip4:tcp", "0.0.0.0"); return err })
	t.Cleanup(func() { c.Close() })
	return func() int {
		n, b := 0, make([]byte, 100)
		for {
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, a, err := c.ReadFrom(b)
			if err != nil {
				return n
			}
			if strings.HasPrefix(a.String(), from) {
				n++
			}
		}
	}
}
