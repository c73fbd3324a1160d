package flows

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

// rig is a node with a pod that may send UDP to port 80 of the peer only; rules of ours log the rest
// with the tags of the Program.
type rig struct {
	node, pod, peer testkit.NS
	recorder        *Recorder
	chain           policy.ChainID
}

func newRig(t *testing.T) *rig {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.NFTables, testkit.IPv6)
	r := &rig{node: testkit.NewNetns(t), pod: testkit.NewNetns(t), peer: testkit.NewNetns(t)}
	testkit.Wire(t, r.node, "weft1", r.pod, "eth0")
	testkit.Wire(t, r.node, "eth0", r.peer, "eth0")
	r.node.AddAddress(t, "weft1", "10.0.1.1/24", "fd00:1::1/64")
	r.pod.AddAddress(t, "eth0", "10.0.1.2/24", "fd00:1::2/64")
	r.node.AddAddress(t, "eth0", "10.0.9.1/24", "fd00:9::1/64")
	r.peer.AddAddress(t, "eth0", "10.0.9.2/24", "fd00:9::2/64")
	for _, ns := range []testkit.NS{r.pod, r.peer} {
		via := map[bool]string{true: "1", false: "9"}[ns == r.pod]
		testkit.Run(t, ns, "ip", "route", "add", "default", "via", "10.0."+via+".1")
		testkit.Run(t, ns, "ip", "route", "add", "default", "via", "fd00:"+via+"::1")
	}
	testkit.Run(t, r.node, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	c := policy.NewCompiler("n1")
	id := model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "only-http"}
	err := errors.Join(
		c.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}, Device: "weft1",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("fd00:1::2")}}),
		c.SetPolicy(&model.Policy{ID: id, Egress: []model.Rule{{Action: model.Allow, Protocol: model.UDP,
			Destination: model.EntityMatch{Ports: []model.Port{{Range: model.PortRange{First: 80, Last: 80}}}}}, {Action: model.Deny}}}))
	if err != nil {
		t.Fatal(err)
	}
	r.recorder, r.chain = New(r.node.Open(t), slog.New(slog.DiscardHandler)), policy.PolicyChain(id, model.Egress)
	r.recorder.Update(c.Flush())
	tag := policy.Tag{Action: model.Deny, Direction: model.Egress, Cause: policy.ByRule, Name: policy.TagName(string(r.chain)), Rule: 1}
	rules := fmt.Sprintf(`table inet driver {
	chain forward {
		type filter hook forward priority 0;
		iifname weft1 udp dport 80 accept
		iifname weft1 udp dport 81 log group %d prefix "not a tag of ours" drop
		iifname weft1 log group %[1]d snaplen 128 prefix "%[2]s" drop
	}
}`, kernel.LogGroup, tag)
	if _, err := testkit.TryInput(t, r.node, rules, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	return r
}

// run records until the test ends, and returns when the group is being read.
func (r *rig) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.recorder.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ends with %v", err)
		}
	})
	testkit.Eventually(t, 5*time.Second, "the group is read", func() bool {
		return strings.Contains(testkit.Run(t, r.node, "cat", "/proc/net/netfilter/nfnetlink_log"), fmt.Sprint(kernel.LogGroup))
	})
}

func (r *rig) send(t *testing.T, network, to string, count int) {
	t.Helper()
	var c net.Conn
	r.pod.Do(t, func() error {
		addr, err := net.ResolveUDPAddr(network, to)
		if err == nil {
			c, err = net.DialUDP(network, nil, addr)
		}
		return err
	})
	defer c.Close()
	for range count {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) kept() []Flow {
	flows, _ := r.recorder.ring.last(false)
	return flows
}

// A packet that a rule denies is told with policy, rule and pod, at once, in both families; one that is
// allowed is not, and one whose prefix is foreign is counted only.
func TestDeniedPacketsAreTold(t *testing.T) {
	r := newRig(t)
	r.run(t)
	for _, tc := range []struct{ network, to, source string }{
		{"udp4", "10.0.9.2:53", "shop/web 10.0.1.2:"}, {"udp6", "[fd00:9::2]:53", "shop/web [fd00:1::2]:"},
	} {
		before := len(r.kept())
		r.send(t, tc.network, strings.Replace(tc.to, ":53", ":80", 1), 1)
		r.send(t, tc.network, strings.Replace(tc.to, ":53", ":81", 1), 1)
		r.send(t, tc.network, tc.to, 1)
		took := testkit.Eventually(t, 5*time.Second, "the packet is told", func() bool { return len(r.kept()) > before })
		f := r.kept()[before]
		if f.Chain != string(r.chain) || f.Rule == nil || *f.Rule != 1 || !f.Denied() || f.Direction != "egress" || f.In != "weft1" || f.Out != "eth0" ||
			f.Protocol != "udp" || f.Dest.String() != tc.to || !strings.HasPrefix(f.Source.String(), tc.source) {
			t.Errorf("got %+v", f)
		}
		if d := time.Since(f.Time); d < 0 || d > time.Minute {
			t.Errorf("the packet is said to be of %v", f.Time)
		}
		t.Logf("%s: told after %v: %s %s", tc.network, took, f.Source, f.Reason)
	}
	if _, strange, _ := r.recorder.ring.losses(nil); strange != 2 {
		t.Errorf("%d packets were strange, want 2", strange)
	}
	if n := len(r.kept()); n != 2 {
		t.Errorf("%d packets were told, want 2", n)
	}
}

// Packets that come faster than they can be read are lost, and counted: none vanishes.
func TestLostPacketsAreCounted(t *testing.T) {
	r := newRig(t)
	r.run(t)
	r.send(t, "udp4", "10.0.9.2:53", 1)
	testkit.Eventually(t, 5*time.Second, "the packet is told", func() bool { return len(r.kept()) == 1 })
	r.recorder.mu.Lock() // as if naming took long
	const sent = 60_000
	r.send(t, "udp4", "10.0.9.2:53", sent)
	r.recorder.mu.Unlock()
	recorded := func() (n, lost uint64) {
		r.recorder.ring.mu.Lock()
		defer r.recorder.ring.mu.Unlock()
		return r.recorder.ring.next, r.recorder.ring.lost
	}
	testkit.Eventually(t, 20*time.Second, "all packets are accounted for", func() bool {
		r.send(t, "udp4", "10.0.9.2:54", 1) // its number tells of what was lost before it
		n, lost := recorded()
		return n+lost >= sent+1
	})
	n, lost := recorded()
	t.Logf("of %d packets %d were recorded and %d lost", sent, n, lost)
	if lost == 0 {
		t.Error("none was lost: the test does not overrun the socket")
	}
	if flows := r.kept(); len(flows) > Kept {
		t.Errorf("%d flows are kept, want at most %d", len(flows), Kept)
	}
}
