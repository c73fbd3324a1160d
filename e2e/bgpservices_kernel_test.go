package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/router"
)

// TestBGPServices: a router learns a range of service addresses, and gets back nothing of what it sends there, also
// while the node service is dead; without the announcement nothing of that stays.
func TestBGPServices(t *testing.T) {
	c := bgpCluster(t, "e2ebgpsvc")
	c.pool("Never")
	ns := testkit.NS{Name: c.lab.Netns("router"), Path: c.nodeNetns("router").Path}
	outside := testkit.NewNetns(t) // a host behind the router
	testkit.Wire(t, ns, "to-outside", outside, "eth0")
	ns.AddAddress(t, "to-outside", "198.51.100.1/24")
	outside.AddAddress(t, "eth0", "198.51.100.2/24")
	testkit.Run(t, c.nodeNetns("n1"), "ip", "route", "add", "default", "via", "172.31.1.254")
	testkit.Run(t, outside, "ip", "route", "add", "default", "via", "198.51.100.1")
	testkit.Run(t, ns, "sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done") // as routers have it
	testkit.Run(t, ns, "nft", "add table ip t; add counter ip t back; add chain ip t in { type filter hook prerouting priority -300; }; add rule ip t in iifname \"to-rack*\" ip daddr 10.96.0.0/16 counter name back")
	said := ""
	back := func() (n int) {
		t.Helper()
		testkit.Run(t, ns, "nft", "reset", "counter", "ip", "t", "back")
		said, _ = testkit.Try(t, outside, "ping", "-n", "-c", "1", "-W", "1", "10.96.0.77")
		_, count, _ := strings.Cut(testkit.Run(t, ns, "nft", "list", "counter", "ip", "t", "back"), "packets ")
		if _, err := fmt.Sscan(count, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	testkit.Run(t, ns, "ip", "route", "add", "10.96.0.0/16", "via", c.nodeAddresses("n1")[0].String())
	if n := back(); n < 20 {
		t.Errorf("control: with a route to a node that announces nothing, a packet came back %d times: this test would not see a loop", n)
	}
	testkit.Run(t, ns, "ip", "route", "del", "10.96.0.0/16")
	bird := router.StartBird(t, ns, fmt.Sprintf(`router id 172.31.1.254;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; learn off; }
protocol bgp node1 { local as 64513; neighbor %v as 64512; ipv4 { import all; export none; }; }
`, c.nodeAddresses("n1")[0]))
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {serviceClusterIPs: [{cidr: 10.96.0.0/16}]}}")
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 172.31.1.254, asNumber: 64513, node: n1}}")
	testkit.Eventually(t, 30*time.Second, "BIRD learns the range", func() bool { return strings.Contains(bird.Route(t, "10.96.0.0/16"), "via") })
	if n := back(); n != 0 {
		t.Errorf("of 1 packet to an address that nobody serves, %d came back to the router, want 0", n)
	}
	if !strings.Contains(said, "Unreachable") {
		t.Errorf("who sent it is told nothing: %s", said)
	}
	if out, err := c.weft("", "plan", "routing", "--run-dir", c.lab.NodeRunDir("n1")); err != nil || !strings.Contains(out, "not iif lo lookup 8788") || !strings.Contains(out, "unreachable 10.96.0.0/16 table 8788") {
		t.Errorf("weft plan routing does not show it: %v\n%s", err, out)
	}
	if _, err := c.lab.Stop(t.Context(), "n1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if n := back(); n != 0 {
		t.Errorf("the node service is dead, and of 1 packet %d came back", n)
	}
	if _, err := c.lab.Start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {}}")
	testkit.Eventually(t, 20*time.Second, "what is not announced is not refused", func() bool {
		rules := testkit.Run(t, c.nodeNetns("n1"), "ip", "rule")
		return !strings.Contains(rules, "8788") && bird.Route(t, "10.96.0.0/16") == ""
	})
}
