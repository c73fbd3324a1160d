package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/lab"
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

// TestKernelEncryption switches encryption on and off, and rotates the keys, with the kernel's own devices on two
// nodes and a process on the third: neither loses anything, and nothing is in clear. (What a kernel has of IPIP is loaded
// by the probe, and leaves a device of its own.)
func TestKernelEncryption(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.IPIP, testkit.WireGuard)
	config := lab.DefaultConfig()
	config.Nodes[2].Args = []string{"--wireguard-driver", "userspace"}
	c := newClusterOf(t, "e2ewgkernel", config)
	c.apply(vxlanAlways.manifest())
	c.pods()
	c.settle(vxlanAlways, labNodes, nil)
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	way := func(what, spec, reach string) step {
		return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.reaches(reach) }}
	}
	on := c.through(c.loadEvery(hosts, 4*apart), []step{way("on", encrypted, "WireGuard")})
	if total := on.Total(); testkit.Emulated() && total.Lost > 0 {
		// On an emulated processor both ends may begin the first handshake at once, which takes several attempts: see docs/encryption.md.
		t.Logf("on: %d of %d packets lost, longest gap %v", total.Lost, total.Sent, total.LongestGap)
	} else {
		c.whole("on", on)
	}
	for n, kind := range map[string]string{"n1": "wireguard", "n2": "wireguard", "n3": "tun"} {
		if l := testkit.Links(t, c.nodeNetns(n)); !strings.Contains(l, kernel.WireGuardDevice+" "+kind) {
			t.Errorf("the device of %s is not of the kind %s:\n%s", n, kind, l)
		}
	}
	r, stop := c.loadEvery(hosts, 4*apart), c.tap()
	rotate := step{what: "key 1", manifest: felix("{wireguardEnabled: true, wireguardKeyEpoch: 1}"), settle: func() time.Duration { return c.keys(1) }}
	c.whole("a rotation", c.through(r, []step{rotate}))
	c.nothingInClear("a rotation", stop())
	c.whole("off", c.through(c.loadEvery(hosts, 4*apart), []step{way("off", "{wireguardKeyEpoch: 1}", "VXLAN")}))
}
