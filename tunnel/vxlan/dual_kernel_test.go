package vxlan

import (
	"context"
	"net/netip"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/tunnel"
)

// TestSecondFamilyLeavesTheFirst adds an IPv6 device, of the same VNI and port, to a node that has
// the IPv4 one, takes it away again, and makes both anew after a restart.
func TestSecondFamilyLeavesTheFirst(t *testing.T) {
	testkit.Require(t, testkit.IPv6)
	testkit.LeakCheck(t)
	hosts := cluster(t, 2)
	join(t, hosts)
	n1 := hosts[0]
	n1.AddAddress(t, "eth0", "fd00::1/64")
	v6 := tunnel.Link{Driver: tunnel.VXLAN, Name: kernel.VXLANDevice + "-v6", Local: netip.MustParseAddr("fd00::1"), Parent: "eth0",
		MAC: tunnel.VTEPMAC(n1.name), MTU: 1430, VNI: 4096, Port: 4789}
	one := plan(t, n1, hosts)
	both := one
	both.Links = append(both.Links[:1:1], v6)
	index := func() int {
		l, ok, err := n1.h.LinkByName(t.Context(), kernel.VXLANDevice)
		if err != nil || !ok {
			t.Fatalf("%s: there %v, %v", kernel.VXLANDevice, ok, err)
		}
		return l.Index
	}
	before := index()
	for _, step := range []struct {
		name string
		plan tunnel.Plan
		new  bool
	}{{"a second family", both, false}, {"the same again", both, false}, {"one family", one, false}, {"after a restart", both, true}} {
		if step.new {
			n1.driver.Close()
			n1.driver = New(n1.h, n1.driver.log)
			t.Cleanup(n1.driver.Close)
		}
		n1.driver.Invalidate()
		if _, err := n1.driver.Apply(context.Background(), step.plan); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if now := index(); now != before {
			t.Errorf("%s: %s was made anew (index %d, then %d)", step.name, kernel.VXLANDevice, before, now)
			before = now
		}
		if _, ok, err := n1.h.LinkByName(t.Context(), v6.Name); err != nil || ok != (len(step.plan.Links) == 2) {
			t.Errorf("%s: %s there %v, %v", step.name, v6.Name, ok, err)
		}
		if !ping(t, hosts[0], hosts[1]) {
			t.Errorf("%s: the pods do not reach each other any more", step.name)
		}
	}
}
