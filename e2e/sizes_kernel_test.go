package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/traffic"
	"weft/lab"
)

const smallest, largest = 1200, 9000 // bytes, of the packets that are probed

// underlays are labs that differ in what their wires take.
var underlays = []struct {
	name         string
	rack1, rack2 int
}{
	{"1500", 1500, 1500},
	{"9000", 9000, 9000},
	{"9000 and 1500", 9000, 1500},
}

func underlay(t *testing.T, rack1, rack2 int) lab.Config {
	t.Helper()
	c, err := lab.Parse([]byte(fmt.Sprintf(`
subnets:
  - {name: rack1, cidr: 172.31.1.0/24, cidr6: "fd00:31:1::/64", mtu: %d}
  - {name: rack2, cidr: 172.31.2.0/24, cidr6: "fd00:31:2::/64", mtu: %d}
nodes: [{name: n1, subnet: rack1}, {name: n2, subnet: rack1}, {name: n3, subnet: rack2}]
`, rack1, rack2)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dual applies a pool of each family.
func (c *cluster) dual(m poolMode) {
	c.t.Helper()
	vxlan6 := m.vxlan // IPIP is for IPv4 only: the IPv6 pool takes VXLAN instead
	if m.ipip != "Never" {
		vxlan6 = m.ipip
	}
	c.apply(m.manifest() + "---\n" + pool6(vxlan6))
}

func pool6(mode string) string {
	return `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: default-ipv6-ippool}
spec: {cidr: "fd00:10:244::/48", blockSize: 122, vxlanMode: ` + mode + `, ipipMode: Never, nodeSelector: all()}
`
}

// TestEverySizeAnswered sends a packet that may not be fragmented of every size from 1,200 to 9,000
// bytes over every path: it arrives, or its sender is told that it is too big. None vanishes.
func TestEverySizeAnswered(t *testing.T) {
	for _, u := range underlays {
		t.Run(u.name, func(t *testing.T) {
			c := newClusterOf(t, "e2esize"+strconv.Itoa(u.rack1/1000)+strconv.Itoa(u.rack2/1000), underlay(t, u.rack1, u.rack2))
			c.dualPods(vxlanAlways)
			probed, vanished := 0, 0
			for i, mtuMode := range mtuModes {
				if i > 0 {
					c.apply(felix("{mtuMode: " + mtuMode + "}"))
				}
				p, v := c.everySize("mtuMode " + mtuMode)
				probed, vanished = probed+p, vanished+v
			}
			t.Logf("underlay of %s bytes: %d of %d sizes vanished", u.name, vanished, probed)
			figures.Write(t, "sizes", figures.Share("underlay of "+u.name+" bytes", "vanished", int64(vanished), "probed", int64(probed))...)
			if probed == 0 {
				t.Error("nothing was probed")
			}
		})
	}
}

// mtuModes are the values of FelixConfiguration.mtuMode.
var mtuModes = []string{"Smallest", "PerRoute"}

// everySize probes all paths in every mode of the pools.
func (c *cluster) everySize(what string) (probed, vanished int) {
	c.t.Helper()
	for _, m := range allModes {
		c.dual(m)
		c.settle(m, labNodes, nil)
		c.warmUp(m)
		all := c.probeAll(m)
		var sum traffic.Sizes
		for _, r := range all {
			sum.Probed, sum.Delivered, sum.Answered, sum.Local = sum.Probed+r.Probed, sum.Delivered+r.Delivered, sum.Answered+r.Answered, sum.Local+r.Local
			sum.Vanished = append(sum.Vanished, r.Vanished...)
			if len(r.Vanished) > 0 || r.Delivered == 0 {
				c.t.Errorf("%s, %v, %v", what, m, r)
			}
		}
		c.t.Logf("%s, %v: on %d paths %d sizes delivered, %d answered by a router, %d refused by the own kernel, %d of %d vanished",
			what, m, len(all), sum.Delivered, sum.Answered, sum.Local, len(sum.Vanished), sum.Probed)
		probed, vanished = probed+sum.Probed, vanished+len(sum.Vanished)
	}
	return probed, vanished
}

// talks tells whether a pair can talk: without encapsulation the lab's router knows no pods' routes.
func talks(m poolMode, from, to string) bool {
	return m != noneMode || from != "n3" && to != "n3"
}

// warmUp waits until the small packets pass, so that the probe measures sizes and nothing else.
func (c *cluster) warmUp(m poolMode) {
	c.t.Helper()
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	r, err := traffic.Start(c.t.Context(), traffic.Config{Hosts: hosts, Interval: 5 * time.Millisecond,
		Pair: func(a, b traffic.Host) bool { return talks(m, a.Name, b.Name) }})
	if err != nil {
		c.t.Fatal(err)
	}
	r.Stop()
}

// probePairs are the paths that differ: in a rack, and across in either direction, since the racks'
// underlays may differ. n2 is where n1 is.
var probePairs = [][2]string{{"n1", "n2"}, {"n3", "n1"}, {"n1", "n3"}}

func (c *cluster) probeAll(m poolMode) []traffic.Sizes {
	c.t.Helper()
	var all []traffic.Sizes
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range probePairs {
		if !talks(m, p[0], p[1]) {
			continue
		}
		// A pair's families one after the other, the pairs at once: quick enough, and no queue overflows.
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i, h := range c.hosts(p[0]) {
				if h.Addr.Is6() && m.ipip != "Never" {
					continue // travels by VXLAN, as in another mode
				}
				r, err := traffic.Probe{From: h, To: c.hosts(p[1])[i], Min: smallest, Max: largest}.Run(c.t.Context())
				if err != nil {
					c.t.Error(err)
					continue
				}
				r.From += " " + family(h.Addr)
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return all
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// TestEverySizeControl filters the answers, and a size that is too big for the path vanishes.
func TestEverySizeControl(t *testing.T) {
	testkit.Require(t, testkit.NFTables)
	c := newClusterOf(t, "e2esizectl", underlay(t, 1500, 1500))
	c.dualPods(vxlanAlways)
	// Pods' links are wider than the way through the tunnel.
	c.apply(felix("{mtuMode: PerRoute}"))
	testkit.Eventually(t, 5*time.Second, "the pod of n1 has full size", func() bool {
		return strings.Contains(testkit.Links(t, c.netns("n1")), "mtu 1500")
	})
	probe := func(i int) traffic.Sizes {
		r, err := traffic.Probe{From: c.hosts("n1")[i], To: c.hosts("n3")[i], Min: 1400, Max: 1500}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range c.every["n1"] {
		if r := probe(i); len(r.Vanished) != 0 || r.Answered == 0 {
			t.Errorf("with the answers: %v", r)
		} else {
			t.Logf("with the answers: %v", r)
		}
	}
	testkit.Run(t, c.netns("n1"), "nft", `add table inet t; add chain inet t c { type filter hook input priority 0; }; `+
		`add rule inet t c icmp type destination-unreachable drop; add rule inet t c icmpv6 type packet-too-big drop`)
	for i := range c.every["n1"] {
		if r := probe(i); len(r.Vanished) == 0 {
			t.Errorf("control: no size vanished although the answers are filtered: %v", r)
		} else {
			t.Logf("control, answers filtered: %v", r)
		}
	}
}
