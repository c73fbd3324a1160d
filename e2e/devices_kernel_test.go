package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
)

// TestKernelDevices carries and changes modes with the kernel's own devices of both encapsulations, where
// the kernel has them: TestCarry and TestModeChanges do so with whatever this machine offers.
func TestKernelDevices(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.IPIP)
	c := newCluster(t, "e2ekernel")
	c.apply(vxlanAlways.manifest())
	c.pods()
	c.settle(vxlanAlways, labNodes, nil)
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	r, err := traffic.Start(t.Context(), traffic.Config{Hosts: hosts, Interval: 5 * time.Millisecond, TCP: true, Warm: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	modes := []poolMode{vxlanAlways, ipipAlways, vxlanCross, ipipAlways}
	for i, m := range modes[1:] {
		steps = append(steps, modeStep(c, modes[i], m))
	}
	c.whole("3 changes of mode by the kernel's devices", c.through(r, steps))
	for _, n := range labNodes {
		c.devices(n, kernel.IPIPDevice)
		if l := testkit.Links(t, c.nodeNetns(n)); !slices.Contains(strings.Split(l, "\n"), kernel.IPIPDevice+" ipip mtu 1480 up") {
			t.Errorf("the device of %s is not the kernel's:\n%s", n, l)
		}
	}
	if ok := c.mesh(everyPair()); ok != len(everyPair()) {
		t.Errorf("%d of %d pairs talk", ok, len(everyPair()))
	}
}
