package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/node/status"
)

const offloadingEncrypted = "{" + offloading + ", wireguardEnabled: true}"

// nothingOffloaded waits until no connection is offloaded on any node, and wants the status to say why.
func (c *cluster) nothingOffloaded() {
	c.t.Helper()
	for _, n := range labNodes {
		testkit.Eventually(c.t, 10*time.Second, "nothing is offloaded on "+n, func() bool {
			return !strings.Contains(testkit.Run(c.t, c.nodeNetns(n), "cat", "/proc/net/nf_conntrack"), "[OFFLOAD]")
		})
		st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(n))
		if err != nil || st.Policy.Offload != "no flow offload: what goes between nodes is encrypted" {
			c.t.Errorf("the status of %s says of offload %q, %v", n, st.Policy.Offload, err)
		}
	}
}

// passes waits until each pair has sent chances packets more, and returns the marks around these.
func (c *cluster) passes(r *traffic.Run, what string) (from, to uint64) {
	c.t.Helper()
	from = r.Mark()
	testkit.Eventually(c.t, 30*time.Second, "packets "+what, func() bool { return r.Mark() >= from+chances })
	return from, r.Mark()
}

// TestFlowOffloadEncrypted switches encryption on and off while connections are offloaded that go on all the time: once
// the nodes say that they encrypt, none of their packets is in clear on any uplink, as all are before; and they are
// offloaded again once it is off. (What a kernel has of IPIP is loaded by the probe, and leaves a device of its own.)
func TestFlowOffloadEncrypted(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.IPIP, testkit.WireGuard, testkit.FlowTable)
	c, hosts := offloadingCluster(t, "e2eoffcrypt")
	r := c.loadEvery(hosts, 4*apart)
	c.offloaded(hosts, "VXLAN")
	for _, n := range labNodes {
		testkit.Eventually(t, 20*time.Second, "UDP is offloaded on "+n, func() bool { return c.offloadedUDP(n, hosts) >= 2 })
	}
	stop := c.tap()
	before, _ := c.passes(r, "before")
	if seen := stop(); seen.Clear < 2*chances*6 { // 6 pairs, each seen by two nodes
		t.Errorf("control: %d of %d packets in clear without encryption, want all of them to be", seen.Clear, seen.Packets)
	} else {
		t.Logf("control: %d of %d packets in clear without encryption", seen.Clear, seen.Packets)
	}

	c.apply(felix(offloadingEncrypted))
	took := c.reaches("WireGuard")
	stop = c.tap()
	c.nothingOffloaded()
	c.forGood()
	_, on := c.passes(r, "in cipher text")
	c.nothingInClear("encryption on, connections that were offloaded", stop())
	c.apply(felix("{" + offloading + "}"))
	c.reaches("VXLAN")
	c.offloaded(hosts, "VXLAN again")
	_, end := c.passes(r, "in clear again")

	rep := r.Stop()
	_, broken, _ := rep.Streams()
	for _, s := range []struct {
		what     string
		from, to uint64
		excused  bool
	}{
		// On an emulated processor both ends may begin the first handshake at once: see docs/encryption.md.
		{"on", before, on, testkit.Emulated()},
		{"off", on, end, false},
	} {
		sent, lost := rep.Between(s.from, s.to)
		t.Logf("%s: %d of %d packets lost", s.what, lost, sent)
		if lost > 0 && !s.excused {
			t.Errorf("%s: %d of %d packets lost", s.what, lost, sent)
		}
	}
	t.Logf("encrypted after %v; %v", took.Round(time.Millisecond), rep)
	if broken > 0 {
		t.Errorf("%d TCP streams broke", broken)
	}
	c.strangerIsCutOff()
}

// strangerAddress is in the pool, and nobody's: what a host outside of the cluster that has it gets, it gets in clear.
var strangerAddress = netip.MustParseAddr("10.244.250.1")

// strangerIsCutOff has a pod speak to a stranger whose address is in the pool by an offloaded connection. No route changes
// for that when encryption is switched on, the guard alone ends it: by rules that packets of a flow table do not meet.
// The control is a flow table that the node knows nothing of.
func (c *cluster) strangerIsCutOff() {
	c.t.Helper()
	t, router, n1 := c.t, c.nodeNetns("router"), c.nodeNetns("n1")
	testkit.Run(t, router, "ip", "address", "add", strangerAddress.String()+"/32", "dev", "lo")
	testkit.Run(t, router, "ip", "route", "add", c.addrs["n1"].String(), "via", c.nodeAddresses("n1")[0].String())
	testkit.Run(t, n1, "ip", "route", "add", strangerAddress.String(), "via", "172.31.1.254")
	ends := append(c.hosts("n1"), traffic.Host{Name: "stranger", Netns: router.Path, Addr: strangerAddress})
	r, err := traffic.Start(t.Context(), traffic.Config{Hosts: ends, Interval: 4 * apart})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the connection with the stranger is offloaded", func() bool { return c.offloadedUDP("n1", ends[1:]) == 1 })
	type phase struct {
		what     string
		from, to uint64
		all      bool // get through; else none
	}
	var phases []phase
	during := func(what string, all bool) {
		from, to := c.passes(r, what)
		phases = append(phases, phase{what, from, to, all})
	}
	during("without encryption", true)
	c.apply(felix(offloadingEncrypted))
	c.reaches("WireGuard")
	during("with encryption", false)
	c.ownFlowTable("n1")
	testkit.Eventually(t, 20*time.Second, "the connection is in another flow table", func() bool { return c.offloadedUDP("n1", ends[1:]) == 1 })
	during("with encryption, by a flow table of somebody else's", true)
	testkit.Run(t, n1, "nft", "delete", "table", "inet", "other")
	during("with encryption, without that flow table", false)
	rep := r.Stop()
	for _, p := range phases {
		sent, lost := rep.Between(p.from, p.to)
		t.Logf("pod and stranger, %s: %d of %d packets get through", p.what, sent-lost, sent)
		if p.all && lost != 0 || !p.all && lost != sent {
			t.Errorf("pod and stranger, %s: %d of %d packets get through", p.what, sent-lost, sent)
		}
	}
}

// ownFlowTable has the stranger's connections carried past the rules by what the node does not know of.
func (c *cluster) ownFlowTable(node string) {
	c.t.Helper()
	pod := strings.Fields(testkit.Run(c.t, c.nodeNetns(node), "ip", "route", "show", c.addrs[node].String()))
	ruleset := `table inet other {
	flowtable flows { hook ingress priority filter; devices = { ` + uplink + `, ` + pod[slices.Index(pod, "dev")+1] + ` }; }
	chain forward { type filter hook forward priority filter; ip daddr ` + strangerAddress.String() + ` flow add @flows; }
}`
	if out, err := testkit.TryInput(c.t, c.nodeNetns(node), ruleset, "nft", "-f", "-"); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// offloadedUDP counts the UDP connections with one of the hosts that a node offloads.
func (c *cluster) offloadedUDP(node string, hosts []traffic.Host) (n int) {
	c.t.Helper()
	for entry := range strings.Lines(testkit.Run(c.t, c.nodeNetns(node), "cat", "/proc/net/nf_conntrack")) {
		if strings.Contains(entry, " udp ") && strings.Contains(entry, "[OFFLOAD]") &&
			slices.ContainsFunc(hosts, func(h traffic.Host) bool { return strings.Contains(entry, "src="+h.Addr.String()+" ") }) {
			n++
		}
	}
	return n
}
