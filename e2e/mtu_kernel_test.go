package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/model"
)

var linkMTU = regexp.MustCompile(` mtu (\d+) `)

// podMTU returns the MTU inside a pod and the one of its link's end on the host.
func (c *cluster) podMTU(node, pod string) (inside, host int) {
	c.t.Helper()
	of := func(ns testkit.NS, device string) int {
		m := linkMTU.FindStringSubmatch(testkit.Run(c.t, ns, "ip", "-o", "link", "show", "dev", device))
		if m == nil {
			return 0
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return of(c.netns(pod), "eth0"), of(c.nodeNetns(node), kernel.PodDeviceName(model.EndpointID{Namespace: "default", Pod: pod, Interface: "eth0"}))
}

// podMTUs waits until the pods n1, n2 and n3 have the MTUs, inside and outside, at most limit.
func (c *cluster) podMTUs(what string, limit time.Duration, want ...int) {
	c.t.Helper()
	took := testkit.Eventually(c.t, 10*time.Second, fmt.Sprintf("%s: pods have MTUs %v", what, want), func() bool {
		for i, n := range labNodes {
			if inside, host := c.podMTU(n, n); inside != want[i] || host != want[i] {
				return false
			}
		}
		return true
	})
	c.t.Logf("%-45s running pods have %v after %v", what, want, took.Round(time.Millisecond))
	if took > limit {
		c.t.Errorf("%s: took %v, want at most %v", what, took, limit)
	}
}

// TestMTUReachesRunningPods changes what decides the MTU, under traffic: settings on a live cluster,
// and the uplink itself. TCP goes on, and no small packet is lost.
func TestMTUReachesRunningPods(t *testing.T) {
	c := newCluster(t, "e2emtu")
	c.apply(vxlanCross.manifest())
	c.pods()
	c.settle(vxlanCross, labNodes, nil)
	c.podMTUs("as attached", 5*time.Second, 1450, 1450, 1450)
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	load, err := traffic.Start(t.Context(), traffic.Config{Hosts: hosts, Interval: 4 * time.Millisecond, TCP: true, Warm: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	const soon, followed = 2 * time.Second, 3 * time.Second
	for _, s := range []struct {
		spec string
		want int
	}{
		{"{mtuMode: PerRoute}", 1500},
		{"{mtuMode: PerRoute, mtuProfile: azure}", 1400},
		{"{mtuProfile: azure}", 1350},
		{"{vxlanMTU: 1300}", 1300},
		{"{mtuIfacePattern: '^eth'}", 1450},
		{"{vxlanMTU: 1200, mtuMode: PerRoute}", 1500},
		{"{}", 1450},
	} {
		c.replace(felix(s.spec))
		c.podMTUs(s.spec, soon, s.want, s.want, s.want)
	}
	n1 := c.nodeNetns("n1")
	for _, mtu := range []int{1400, 1500} {
		testkit.Run(t, n1, "ip", "link", "set", "eth0", "mtu", strconv.Itoa(mtu))
		c.podMTUs(fmt.Sprintf("uplink of n1 has %d", mtu), followed, mtu-50, 1450, 1450)
	}
	testkit.Run(t, n1, "ip", "route", "replace", "172.31.2.0/24", "via", "172.31.1.254", "dev", "eth0", "mtu", "1380")
	c.podMTUs("n1's route to the other rack has 1380", followed, 1330, 1450, 1450)
	testkit.Run(t, n1, "ip", "route", "replace", "172.31.2.0/24", "via", "172.31.1.254", "dev", "eth0")
	c.podMTUs("that route has none of its own", followed, 1450, 1450, 1450)
	time.Sleep(200 * time.Millisecond) // however fast all of that was, there are packets enough
	c.whole("over all changes of the MTU", load.Stop())

	c.pod("n2", "late")
	if inside, host := c.podMTU("n2", "late"); inside != 1450 || host != 1450 {
		t.Errorf("a new pod has %d inside, %d outside, want 1450", inside, host)
	}
}

// replace applies a FelixConfiguration so that fields which it leaves out are unset.
func (c *cluster) replace(manifest string) {
	c.t.Helper()
	if out, err := c.weft(manifest, "replace", "-f", "-"); err == nil {
		return
	} else if out2, err := c.weft(manifest, "create", "-f", "-"); err != nil {
		c.t.Fatalf("weft replace: %s\nweft create: %v\n%s", out, err, out2)
	}
}

// TestUplinkFollowed changes the uplink of a node in the ways in which administrators do; pods talk
// again within three seconds of the change.
func TestUplinkFollowed(t *testing.T) {
	c := newCluster(t, "e2euplink")
	c.apply(vxlanCross.manifest())
	c.pods()
	c.settle(vxlanCross, labNodes, nil)
	n1 := c.nodeNetns("n1")
	for _, step := range []struct {
		what     string
		commands [][]string
	}{
		{"renamed while it is up", [][]string{{"ip", "link", "set", "eth0", "name", "up0"}}},
		{"renamed while it is down", [][]string{
			{"ip", "link", "set", "up0", "down"}, {"ip", "link", "set", "up0", "name", "eth0"}, {"ip", "link", "set", "eth0", "up"},
			{"ip", "route", "replace", "default", "via", "172.31.1.254"}}},
		{"another address of the subnet", [][]string{
			{"ip", "addr", "del", "172.31.1.1/24", "dev", "eth0"}, {"ip", "addr", "add", "172.31.1.77/24", "dev", "eth0"},
			{"ip", "route", "replace", "default", "via", "172.31.1.254"}}},
		{"a second address, then the first goes", [][]string{
			{"sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1"},
			{"ip", "addr", "add", "172.31.1.78/24", "dev", "eth0"}, {"ip", "addr", "del", "172.31.1.77/24", "dev", "eth0"},
			{"ip", "route", "replace", "default", "via", "172.31.1.254"}}},
		{"moved onto a bridge", [][]string{
			{"ip", "link", "add", "br0", "type", "bridge"}, {"ip", "link", "set", "br0", "up"}, {"ip", "addr", "flush", "dev", "eth0"},
			{"ip", "link", "set", "eth0", "master", "br0"}, {"ip", "addr", "add", "172.31.1.78/24", "dev", "br0"},
			{"ip", "route", "replace", "default", "via", "172.31.1.254"}}},
		{"moved back", [][]string{
			{"ip", "link", "set", "eth0", "nomaster"}, {"ip", "addr", "flush", "dev", "br0"}, {"ip", "link", "del", "br0"},
			{"ip", "addr", "add", "172.31.1.1/24", "dev", "eth0"}, {"ip", "route", "replace", "default", "via", "172.31.1.254"}}},
	} {
		for _, cmd := range step.commands {
			testkit.Run(t, n1, cmd...)
		}
		start := time.Now()
		pairs := [][2]string{{"n1", "n2"}, {"n2", "n1"}, {"n1", "n3"}, {"n3", "n1"}}
		took := testkit.Eventually(t, 10*time.Second, step.what+": pods talk", func() bool { return c.echo(pairs) })
		t.Logf("uplink %-40s pods talk in %d of %d directions after %v", step.what+":", len(pairs), len(pairs), took.Round(time.Millisecond))
		limit := testkit.Patient(3 * time.Second)
		if took > limit {
			t.Errorf("uplink %s: took %v, want at most %v", step.what, took, limit)
		}
		c.settle(vxlanCross, labNodes, nil)
		if took := time.Since(start); took > limit {
			t.Errorf("uplink %s: paths are as before after %v, want at most %v", step.what, took, limit)
		}
	}
}

// echo tells whether one echo request each is answered within 200 ms.
func (c *cluster) echo(pairs [][2]string) bool {
	for _, p := range pairs {
		if _, err := testkit.Try(c.t, c.netns(p[0]), "ping", "-q", "-n", "-c", "1", "-W", "0.2", c.addrs[p[1]].String()); err != nil {
			return false
		}
	}
	return true
}

// TestMTUPerRouteAnswered: with mtuMode PerRoute pods have the uplink's MTU. Packets within a rack
// keep that size; for those that are too large for their route the pod is told so, in both families,
// also where the host limits how many ICMP errors it sends: Linux does not count these among them
// (icmp_ratemask, ratemask), unless somebody tells it to, which is the control.
func TestMTUPerRouteAnswered(t *testing.T) {
	c := newCluster(t, "e2eroute")
	c.replace(felix("{mtuMode: PerRoute, vxlanMTU: 1300, vxlanMTUV6: 1290}"))
	c.apply(vxlanCross.manifest() + `---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: "fd00:10:244::/112", vxlanMode: CrossSubnet, nodeSelector: all()}
`)
	c.pods()
	c.settle(vxlanCross, labNodes, nil)
	c.podMTUs("per route", 5*time.Second, 1500, 1500, 1500)
	n1 := c.nodeNetns("n1")
	limits := func(mask4, mask6 string) {
		testkit.Run(t, n1, "sysctl", "-qw", "net.ipv4.icmp_ratemask="+mask4, "net.ipv4.icmp_ratelimit=60000", "net.ipv4.icmp_msgs_per_sec=1",
			"net.ipv4.icmp_msgs_burst=1", "net.ipv6.icmp.ratelimit=60000", "net.ipv6.icmp.ratemask="+mask6)
	}
	limits("6168", "0-1,3-127") // what Linux begins with
	for _, tc := range []struct {
		to      string
		largest []int // by family of the pod's addresses
	}{{"n2", []int{1500, 1500}}, {"n3", []int{1300, 1290}}} {
		to := c.hosts(tc.to)
		for i, from := range c.hosts("n1") {
			r := c.probe(traffic.Probe{From: from, To: to[i], Min: 1200, Max: 1600})
			if len(r.Vanished) > 0 || r.Largest != tc.largest[i] || r.Smallest != tc.largest[i]+1 {
				t.Errorf("want %d delivered at most and no size lost: %v", tc.largest[i], r)
			}
			if tc.to == "n3" && r.Answered < 150 {
				t.Errorf("the host answered only %d sizes: %v", r.Answered, r)
			}
			t.Log(r)
		}
	}
	limits("6168", "0-127")
	r := c.probe(traffic.Probe{From: c.hosts("n1")[1], To: c.hosts("n3")[1], Min: 1280, Max: 1400, Rounds: 1})
	if len(r.Vanished) == 0 {
		t.Errorf("control: %d sizes vanished although the host was told to limit these errors too: the limit was not in force: %v", len(r.Vanished), r)
	}
	t.Logf("control, with ratemask 0-127: %v", r)
}

func (c *cluster) probe(p traffic.Probe) traffic.Sizes {
	c.t.Helper()
	r, err := p.Run(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}
