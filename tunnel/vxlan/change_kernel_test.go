package vxlan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/model"
	"weft/model/topology"
	"weft/tunnel"
)

const oldDevice = kernel.VXLANDevice + "-old"

// end is what two ends of a tunnel have in common.
type end struct{ vni, port int }

// planEnds compiles a plan with a device for each end, by the names of the devices.
func planEnds(t *testing.T, self *host, members []*host, ends map[string]end) tunnel.Plan {
	t.Helper()
	v := &topology.View{Self: self.name}
	for device, e := range ends {
		v.Tunnels = append(v.Tunnels, topology.Tunnel{Driver: tunnel.VXLAN, Device: device, Family: model.IPv4, Local: self.addr, Parent: "eth0",
			Addresses: []netip.Addr{self.vtep()}, MAC: tunnel.VTEPMAC(self.name), MTU: 1450, VNI: e.vni, Port: e.port})
	}
	for _, m := range members {
		if m != self {
			v.Peers = append(v.Peers, topology.Peer{Node: m.name, Address: m.addr, MAC: tunnel.VTEPMAC(m.name), Prefixes: []netip.Prefix{m.block}})
		}
	}
	p, err := tunnel.Compile(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// indexOf returns the index of the device, 0 when there is none.
func indexOf(t *testing.T, h *host, device string) int {
	t.Helper()
	l, _, err := h.h.LinkByName(context.Background(), device)
	if err != nil {
		t.Fatal(err)
	}
	return l.Index
}

// TestEndsChangeWithoutLoss changes VNI and port under a stream between pods, as a cluster does it: each
// host first has both devices, then sends by the new one, then gives up the old one.
func TestEndsChangeWithoutLoss(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 2)
	join(t, hosts)
	lossless := testkit.RenamesWhileUp(t)
	if !lossless {
		t.Log("this kernel renames only what is down: packets are lost at each change, and only the outcome is checked")
	}
	all := func(what string, ends map[string]end) {
		t.Helper()
		for _, h := range hosts {
			p := planEnds(t, h, hosts, ends)
			apply(t, h, p)
			// Once more, with the links read: nothing is left to do.
			h.driver.mu.Lock()
			h.driver.fresh = false
			h.driver.mu.Unlock()
			if res, err := h.driver.Apply(context.Background(), p); err != nil || !res.Zero() {
				t.Errorf("%s, the same again on %s: %v, %v", what, h.name, res, err)
			}
			if n := strings.Count(testkit.Links(t, h.NS), " vxlan mtu"); n != len(ends) {
				t.Errorf("%s: %d devices on %s, want %d:\n%s", what, n, h.name, len(ends), testkit.Links(t, h.NS))
			}
			time.Sleep(20 * time.Millisecond) // the other host is later
		}
	}
	run := stream1k(t, hosts)
	now := end{4096, 4789}
	for _, next := range []end{{77, 4789}, {77, 8472}, {5, 4790}, {4096, 4789}} {
		what := fmt.Sprintf("VNI %d port %d to VNI %d port %d", now.vni, now.port, next.vni, next.port)
		mark, was := run.Mark(), indexOf(t, hosts[0], kernel.VXLANDevice)
		all(what, map[string]end{kernel.VXLANDevice: next, oldDevice: now})
		if got := indexOf(t, hosts[0], oldDevice); got != was {
			t.Errorf("%s: the living device has index %d, had %d: it was made anew", what, got, was)
		}
		if next.port == 4790 {
			// Back and forth again before it is done: the two change names.
			all(what+" and back", map[string]end{kernel.VXLANDevice: now, oldDevice: next})
			all(what+" and forth", map[string]end{kernel.VXLANDevice: next, oldDevice: now})
			if got := indexOf(t, hosts[0], oldDevice); got != was {
				t.Errorf("%s: the living device has index %d, had %d: it was made anew", what, got, was)
			}
		}
		for _, h := range hosts {
			h.routes(t, hosts, kernel.VXLANDevice)
			time.Sleep(20 * time.Millisecond)
		}
		all(what+", done", map[string]end{kernel.VXLANDevice: next})
		if !ping(t, hosts[0], hosts[1]) {
			t.Errorf("%s: pods do not reach each other", what)
		}
		t.Logf("%-36s %d packets of each stream", what, run.Mark()-mark)
		now = next
	}
	rep := run.Stop()
	t.Log(rep)
	if total := rep.Total(); lossless && (total.Lost > 0 || total.Sent < 1000) {
		t.Errorf("%d of %d packets lost", total.Lost, total.Sent)
	}

	// The control: without the old device, one host after the other.
	run = stream1k(t, hosts)
	for _, h := range hosts {
		apply(t, h, planEnds(t, h, hosts, map[string]end{kernel.VXLANDevice: {6, 4789}}))
		h.routes(t, hosts, kernel.VXLANDevice)
		time.Sleep(100 * time.Millisecond)
	}
	total := run.Stop().Total()
	t.Logf("control: %d of %d packets lost when each host has one device only", total.Lost, total.Sent)
	if total.Lost == 0 {
		t.Error("control: nothing was lost: the test cannot tell anything")
	}
}

// stream1k sends a packet each millisecond between the pods, both ways.
func stream1k(t *testing.T, hosts []*host) *traffic.Run {
	t.Helper()
	c := traffic.Config{Interval: time.Millisecond}
	for _, h := range hosts {
		c.Hosts = append(c.Hosts, traffic.Host{Name: string(h.name), Netns: h.pod.Path, Addr: h.podIP})
	}
	run, err := traffic.Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Stop() })
	return run
}

// TestPortTaken has another program on the new port: the old device stays in force, and what the other
// program receives is not for the guard to judge. When the port is free, the new device comes.
func TestPortTaken(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 2)
	join(t, hosts)
	n1 := hosts[0]
	var other net.PacketConn
	n1.Do(t, func() (err error) {
		other, err = net.ListenPacket("udp4", "0.0.0.0:8472")
		return err
	})
	defer other.Close()
	hears := func() bool {
		hosts[1].Do(t, func() error {
			c, err := net.Dial("udp4", n1.addr.String()+":8472")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(make([]byte, 64))
			return err
		})
		_ = other.SetReadDeadline(time.Now().Add(time.Second))
		_, _, err := other.ReadFrom(make([]byte, 100))
		return err == nil
	}
	if !hears() {
		t.Fatal("the other program hears nothing: the test cannot tell anything")
	}
	keepsRoutes := testkit.RenamesWhileUp(t)
	carries := func(device string) bool {
		if !keepsRoutes { // what was renamed was down for a moment
			n1.routes(t, hosts, device)
		}
		return ping(t, n1, hosts[1]) && ping(t, hosts[1], n1)
	}
	for _, ends := range []map[string]end{
		{kernel.VXLANDevice: {4096, 8472}, oldDevice: {4096, 4789}}, // both
		{kernel.VXLANDevice: {4096, 8472}},                          // one in the place of the other
	} {
		inForce := oldDevice
		if len(ends) == 1 {
			inForce = kernel.VXLANDevice
			apply(t, n1, planEnds(t, n1, hosts, map[string]end{kernel.VXLANDevice: {4096, 4789}}))
		}
		for range 2 {
			_, err := n1.driver.Apply(context.Background(), planEnds(t, n1, hosts, ends))
			if err == nil || !strings.Contains(err.Error(), "8472") || !strings.Contains(err.Error(), "vxlanPort") {
				t.Errorf("%v: got %v, want an error that names the port and what to set", ends, err)
			}
			if !carries(inForce) {
				t.Errorf("%v: the old device is not in force:\n%s", ends, testkit.Links(t, n1.NS))
			}
			if !hears() {
				t.Errorf("%v: the guard keeps packets from the program that has the port:\n%s", ends, testkit.Run(t, n1.NS, "nft", "list", "ruleset"))
			}
		}
	}
	other.Close()
	apply(t, n1, planEnds(t, n1, hosts, map[string]end{kernel.VXLANDevice: {4096, 8472}, oldDevice: {4096, 4789}}))
	if !carries(oldDevice) {
		t.Errorf("the port is free, and pods do not reach each other")
	}
	if l := testkit.Links(t, n1.NS); strings.Count(l, " vxlan mtu 1450 up") != 2 {
		t.Errorf("want two devices, both up:\n%s", l)
	}
}
