package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/testkit/figures"
	"weft/internal/traffic"
	"weft/node/datastore"
)

// everyChange goes through each of the 12 ordered changes among the four encapsulating modes once.
var everyChange = []poolMode{vxlanCross, vxlanAlways, ipipAlways, vxlanAlways, ipipCross, vxlanCross, ipipAlways,
	vxlanCross, ipipCross, ipipAlways, ipipCross, vxlanAlways}

// TestModeChanges changes the pool's mode, the VNI, the port and the MTU of a living cluster under
// traffic between every two pods: nothing is lost and no connection breaks.
func TestModeChanges(t *testing.T) {
	c := newCluster(t, "e2emodes")
	c.apply(vxlanAlways.manifest())
	hosts := c.sixPods()
	c.settle(vxlanAlways, labNodes, nil)

	t.Run("12 modes", func(t *testing.T) {
		c := c.in(t)
		var steps []step
		before := vxlanAlways
		for _, m := range everyChange {
			steps = append(steps, modeStep(c, before, m))
			before = m
		}
		c.whole("12 changes of mode", c.through(c.load(hosts), steps))
	})
	t.Run("settings", func(t *testing.T) {
		c := c.in(t)
		outer := func(what, spec, outer string, mtu int) step {
			return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.tunnels(outer, mtu) }}
		}
		c.whole("VNI, port and MTU", c.through(c.load(hosts), []step{
			outer("VNI 4096 to 4097", "{vxlanVNI: 4097}", "UDP 4789, VNI 4097", 1450),
			outer("port 4789 to 4790", "{vxlanVNI: 4097, vxlanPort: 4790}", "UDP 4790, VNI 4097", 1450),
			outer("VNI and port at once", "{vxlanVNI: 5000, vxlanPort: 8472}", "UDP 8472, VNI 5000", 1450),
			outer("MTU 1450 to 1400", "{vxlanVNI: 5000, vxlanPort: 8472, vxlanMTU: 1400}", "UDP 8472, VNI 5000", 1400),
			outer("MTU 1400 to 1450", "{vxlanVNI: 5000, vxlanPort: 8472}", "UDP 8472, VNI 5000", 1450),
			outer("VNI and port back", "{}", "UDP 4789, VNI 4096", 1450),
		}))
	})
	t.Run("same rack", func(t *testing.T) {
		c := c.in(t)
		var steps []step
		before := vxlanAlways
		for _, m := range []poolMode{noneMode, vxlanCross, noneMode, ipipAlways, noneMode, ipipCross, noneMode, vxlanAlways} {
			steps = append(steps, modeStep(c, before, m))
			before = m
		}
		rack := slices.DeleteFunc(slices.Clone(hosts), func(h traffic.Host) bool { return strings.HasPrefix(h.Name, "n3") })
		c.whole("8 changes of mode to and from Never within a rack", c.through(c.load(rack), steps))
	})
	t.Run("a node is down", func(t *testing.T) { c.in(t).changeWithoutAgent(hosts) })
	for _, n := range labNodes {
		c.devices(n, kernel.VXLANDevice)
	}
}

// changeWithoutAgent changes the mode while the agent of n2 is dead: the others change without
// waiting for it, go on reaching it as it can receive, and it catches up when it is back.
func (c *cluster) changeWithoutAgent(hosts []traffic.Host) {
	c.t.Helper()
	for _, n := range labNodes { // else n2 could still receive what it received a moment ago
		c.devices(n, kernel.VXLANDevice)
	}
	r := c.load(hosts)
	if _, err := c.lab.Stop(c.t.Context(), "n2", unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.apply(ipipAlways.manifest())
	still := map[string]string{"n1 n2": "VXLAN", "n3 n2": "VXLAN"}
	took := c.settle(ipipAlways, []string{"n1", "n3"}, still)
	c.t.Logf("n2 down: the others changed after %v", took.Round(time.Millisecond))
	time.Sleep(500 * time.Millisecond)
	if _, err := c.lab.Start(c.t.Context(), "n2"); err != nil {
		c.t.Fatal(err)
	}
	took = c.settle(ipipAlways, labNodes, nil)
	c.t.Logf("n2 back: all changed after %v", took.Round(time.Millisecond))
	time.Sleep(200 * time.Millisecond)
	c.apply(vxlanAlways.manifest())
	c.settle(vxlanAlways, labNodes, nil)
	time.Sleep(200 * time.Millisecond)
	c.whole("a change without the agent of n2, and back with it", r.Stop())
}

// TestModeChangesControl is what would happen if a sender did not wait for its peer: the same change
// without n2's agent, but n2's record says that it receives IPIP, which it does not.
func TestModeChangesControl(t *testing.T) {
	c := newCluster(t, "e2econtrol")
	c.apply(vxlanAlways.manifest())
	hosts := c.sixPods()
	c.settle(vxlanAlways, labNodes, nil)
	r := c.load(hosts)
	if _, err := c.lab.Stop(t.Context(), "n2", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	o, err := c.store.Get(t.Context(), datastore.Key{Kind: "Node", Name: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	n2 := o.(*v3.Node)
	if n2.Status.Tunnels == nil {
		t.Fatal("n2's record does not say what it receives")
	}
	n2.Status.Tunnels.Receives = append(n2.Status.Tunnels.Receives, v3.NodeTunnelEnd{Encapsulation: "IPIP", Family: "IPv4"})
	if _, err := c.store.Update(t.Context(), n2); err != nil {
		t.Fatal(err)
	}
	c.apply(ipipAlways.manifest())
	c.settle(ipipAlways, []string{"n1", "n3"}, nil)
	time.Sleep(300 * time.Millisecond)
	if _, err := c.lab.Start(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.settle(ipipAlways, labNodes, nil)
	total := r.Stop().Total()
	if total.Lost == 0 {
		t.Errorf("control: 0 of %d packets lost although nobody waited for n2: the test of the changes measures nothing", total.Sent)
	}
	figures.Write(t, "modes", lossOf("control: senders do not wait", total)...)
	t.Logf("control: %d of %d packets lost when senders do not wait for their peers, longest gap %v", total.Lost, total.Sent, total.LongestGap.Round(time.Millisecond))
}
