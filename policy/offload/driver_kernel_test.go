package offload

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

// rounds there and back, of which each is two packets at least; the rules may meet those that come while the kernel takes
// the connection up, or that TCP sends for itself.
const rounds, few = 100, 10

// Connections of pods with the peer and with one another, to a service and masqueraded, are carried past the rules;
// without the driver, and after Flush has been called and the chain is gone, the rules meet all of their packets.
func TestFlowsPassTheRules(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	for _, network := range []string{"tcp", "udp"} {
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			for _, way := range []string{"to the peer", "from the peer", "to a pod", "to a service"} {
				if way == "to a service" && (f == model.IPv6 || network == "udp") {
					continue
				}
				t.Run(network+" "+f.String()+" "+way, func(t *testing.T) {
					r := newRig(t)
					var c *conversation
					switch way {
					case "to the peer":
						c = r.talk(network, r.a, r.peer, address(9, f))
					case "from the peer":
						c = r.talk(network, r.peer, r.a, address(1, f))
					case "to a pod":
						c = r.talk(network, r.a, r.b, address(2, f))
					case "to a service":
						c = r.talk(network, r.b, r.a, netip.MustParseAddr("10.96.0.1"))
					}
					r.passes(c)
				})
			}
		}
	}
}

// UDP to a service stays with the rules, both ways: whoever deletes its entry shall be able to (before Linux 6.4: EBUSY).
func TestUDPToAServiceIsLeftToTheRules(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	r.apply()
	direct, service := r.talk("udp", r.a, r.peer, address(9, model.IPv4)), r.talk("udp", r.b, r.a, netip.MustParseAddr("10.96.0.1"))
	r.passesNow(direct) // the control
	before := r.seen()
	service.rounds(rounds)
	if n := r.seen() - before; n != 2*rounds {
		t.Errorf("the rules met %d of %d packets", n, 2*rounds)
	}
	if list := testkit.Run(t, r.node, "cat", "/proc/net/nf_conntrack"); strings.Count(list, "[OFFLOAD]") != 1 {
		t.Errorf("offloaded are not the one that is no service's:\n%s", list)
	}
}

func (r *rig) passes(c *conversation) {
	r.t.Helper()
	met := func() int {
		before := r.seen()
		c.rounds(rounds)
		return r.seen() - before
	}
	if n := met(); n < 2*rounds {
		r.t.Errorf("without the driver the rules met %d of %d packets", n, 2*rounds)
	}
	r.apply()
	c.rounds(3)
	if n := met(); n > few {
		r.t.Errorf("the rules met %d of %d packets of a connection that is offloaded", n, 2*rounds)
	}
	if _, err := r.driver.Apply(r.t.Context(), Plan{}); err != nil {
		r.t.Fatal(err)
	}
	if n := met(); n < 2*rounds {
		r.t.Errorf("after the flow table went, the rules met %d of %d packets", n, 2*rounds)
	}
}

// Flush leads a connection back to the rules at once, and it is offloaded anew.
func TestFlush(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	c := r.talk("tcp", r.a, r.peer, address(9, model.IPv4))
	r.apply()
	c.rounds(3)
	for i := range 20 {
		before := r.seen()
		if err := r.driver.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.rounds(1)
		if r.seen() == before {
			t.Errorf("flush %d: the rules met no packet after it", i)
		}
		testkit.Eventually(t, 5*time.Second, "it is offloaded anew", func() bool {
			before := r.seen()
			c.rounds(10)
			return r.seen()-before == 0
		})
	}
	// What an earlier process left is not trusted.
	next := New(r.driver.h, r.driver.log)
	t.Cleanup(next.Close)
	if err := next.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, r.node, "nft", "list", "ruleset"); strings.Contains(out, prefix) {
		t.Errorf("left by an earlier process:\n%s", out)
	}
}

// What is too long for the way is answered, or cut in pieces, as by the rules; a device's new MTU counts at once.
func TestPacketsThatAreTooLong(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			r := newRig(t)
			udp, tcp := r.talk("udp", r.a, r.peer, address(9, f)), r.talk("tcp", r.b, r.peer, address(9, f))
			r.apply()
			udp.rounds(3)
			tcp.rounds(3)
			udp.size, tcp.size = 4000, 200_000
			udp.rounds(10) // in fragments
			tcp.rounds(3)
			testkit.Run(t, r.node, "ip", "link", "set", uplink, "mtu", "1300")
			testkit.Run(t, r.peer, "ip", "link", "set", "eth0", "mtu", "1300")
			link, _, err := r.driver.h.LinkByName(t.Context(), uplink)
			if err != nil {
				t.Fatal(err)
			}
			if !r.driver.Observe(kernel.Event{Kind: kernel.EventLink, Link: link}) {
				t.Error("the new MTU of the uplink is not observed")
			}
			r.apply()
			tcp.rounds(3)
			udp.size = 1200
			udp.rounds(3)
		})
	}
}

// The end of a TCP connection gets through, and connection tracking knows of it.
func TestTCPEnds(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	c := r.talk("tcp", r.a, r.peer, address(9, model.IPv4))
	r.apply()
	c.rounds(10)
	if err := c.client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.client.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v, want EOF", err)
	}
	testkit.Eventually(t, 5*time.Second, "connection tracking knows that it ended", func() bool {
		return strings.Contains(testkit.Run(t, r.node, "cat", "/proc/net/nf_conntrack"), "_WAIT")
	})
}

// Pods come and go: their devices come to the flow table, a new device of an old name too, and connections of the others
// go on. Somebody else's changes are repaired.
func TestDevicesComeAndGo(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	c := r.talk("tcp", r.a, r.peer, address(9, model.IPv4))
	r.apply()
	devices := func() string {
		return testkit.Run(t, r.node, "nft", "list", "flowtables")
	}
	for range 3 {
		testkit.Run(t, r.node, "ip", "link", "delete", podB)
		if !r.driver.Observe(kernel.Event{Kind: kernel.EventLink, Removed: true, Link: kernel.Link{Name: podB}}) {
			t.Error("that a pod's device went is not observed")
		}
		r.apply()
		if strings.Contains(devices(), podB) {
			t.Errorf("a device that is gone is there: %s", devices())
		}
		c.rounds(10)
		r.wire(r.b, podB, 2)
		r.apply()
		if !strings.Contains(devices(), podB) {
			t.Errorf("a device that came is not there: %s", devices())
		}
		c.rounds(10)
	}
	r.passesNow(c)
	r.passesNow(r.talk("tcp", r.peer, r.b, address(2, model.IPv4)))
	testkit.Run(t, r.node, "nft", "delete", "table", "inet", "weft")
	r.driver.Invalidate()
	r.apply()
	r.passesNow(c)
	var batch strings.Builder
	many := Plan{Other: r.plan.Other, Pods: []string{podA, podB}}
	for i := range 300 { // more than one message takes
		name := "weft-many" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		fmt.Fprintf(&batch, "link add %s type dummy\n", name)
		many.Pods = append(many.Pods, name)
	}
	if _, err := testkit.TryInput(t, r.node, batch.String(), "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	r.plan = many
	r.apply()
	if got, want := strings.Count(devices(), "weft"), 302+1; got != want { // and the table's name
		t.Errorf("%d names of ours in the list of devices, want %d", got, want)
	}
	r.passesNow(c)
}

// passesNow waits until the rules meet no packet of a connection.
func (r *rig) passesNow(c *conversation) {
	r.t.Helper()
	testkit.Eventually(r.t, 10*time.Second, "the connection is offloaded", func() bool {
		before := r.seen()
		c.rounds(10)
		return r.seen() == before
	})
}

// Where policy asks about each packet there is no flow table.
func TestUntrackedPolicySeesEachPacket(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	c := r.talk("tcp", r.a, r.peer, address(9, model.IPv4))
	r.apply()
	r.passesNow(c)
	untracked := &policy.Program{Hosts: map[string]*policy.Host{"eth0": {Interface: "eth0", Untracked: [2]policy.Hook{{Tiers: []policy.Tier{{Name: "default"}}}}}}}
	for _, p := range []*policy.Program{untracked, {}} {
		if err := r.driver.Follow(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		r.apply()
		before := r.seen()
		c.rounds(rounds)
		switch n := r.seen() - before; {
		case p == untracked && n < 2*rounds:
			t.Errorf("with an untracked policy the rules met %d of %d packets", n, 2*rounds)
		case p != untracked && n > few:
			t.Errorf("without it again the rules met %d of %d packets", n, 2*rounds)
		}
	}
}

// A kernel without flow tables is no failure; it is told.
func TestKernelWithoutFlowTables(t *testing.T) {
	r := newRig(t)
	for range 2 {
		r.apply()
		if err := r.driver.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	out := testkit.Run(t, r.node, "nft", "list", "ruleset")
	switch lacks := r.driver.Lacks(); {
	case lacks == nil && !strings.Contains(out, "flowtable "+flowTable):
		t.Errorf("nothing is lacking, and there is no flow table:\n%s", out)
	case lacks != nil && strings.Contains(out, prefix):
		t.Errorf("something is left although there are no flow tables (%v):\n%s", lacks, out)
	case lacks != nil && !strings.HasPrefix(lacks.Error(), "this kernel lacks N"):
		t.Errorf("what is lacking is not named: %v", lacks)
	case lacks != nil && strings.Contains(os.Getenv(testkit.HasVariable), "all"):
		t.Errorf("this kernel has flow tables, but: %v", lacks)
	}
	if _, err := r.driver.Apply(t.Context(), Plan{}); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, r.node, "nft", "list", "ruleset"); strings.Contains(out, prefix) {
		t.Errorf("left behind:\n%s", out)
	}
}

// A connection whose packets come in by another device than its answers leave by is not offloaded, and loses nothing;
// once both ways are one it is.
func TestAsymmetricWay(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	const other = "eth1"
	testkit.Wire(t, r.node, other, r.peer, other)
	r.node.AddAddress(t, other, "10.0.8.1/24")
	r.peer.AddAddress(t, other, "10.0.8.2/24")
	for _, ns := range []testkit.NS{r.node, r.peer} {
		testkit.Run(t, ns, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0", "net.ipv4.conf.eth1.rp_filter=0")
	}
	r.plan.Other = append(r.plan.Other, other)
	r.apply()
	c := r.talk("tcp", r.peer, r.a, address(1, model.IPv4))
	r.passesNow(c)
	back := strings.Fields("ip route replace 10.0.1.0/24 via 10.0.8.1 dev eth1")
	testkit.Run(t, r.peer, back...)
	for range 5 { // its way back is still eth0: whichever end's packet comes first after it
		if err := r.driver.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.rounds(20)
	}
	testkit.Run(t, r.node, strings.Fields("ip route replace 10.0.9.2/32 via 10.0.8.2 dev eth1")...)
	r.passesNow(c)
}
