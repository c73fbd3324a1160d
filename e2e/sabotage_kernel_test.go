package e2e

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/node/status"
)

// sabotages is how many pieces TestSabotage does; its 99th percentile needs some.
const sabotages = 200

// saboteur breaks what a node keeps in the kernel.
type saboteur struct {
	t    *testing.T
	ns   testkit.NS
	rand *rand.Rand
}

// sabotage is a kind of damage: commands that do it, or something that does it and says what. Either
// returns nothing where the kind does not apply.
type sabotage struct {
	kind   string
	do     func(s *saboteur) []string
	direct func(s *saboteur) string
}

// commit does the damage and says what it was.
func (k sabotage) commit(s *saboteur) string {
	if k.direct != nil {
		return k.direct(s)
	}
	commands := k.do(s)
	for _, command := range commands {
		// A flush fails when what it takes away is put back before it is done.
		if _, err := testkit.Try(s.t, s.ns, strings.Fields(command)...); err != nil {
			s.t.Log(err)
		}
	}
	return strings.Join(commands, "; ")
}

func one[T any](s *saboteur, of []T) T { return of[s.rand.IntN(len(of))] }

// lines runs a command and returns the lines of its output that contain a word.
func (s *saboteur) lines(word string, command ...string) (out []string) {
	for l := range strings.Lines(testkit.Run(s.t, s.ns, command...)) {
		if strings.Contains(l, word) {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
	}
	return out
}

func (s *saboteur) family() string { return one(s, []string{"-4", "-6"}) }

// tunnel is one of the tunnel devices.
func (s *saboteur) tunnel() string {
	_, name, _ := strings.Cut(one(s, s.lines("weft-", "ip", "-o", "link", "show")), ": ")
	name, _, _ = strings.Cut(name, ":")
	name, _, _ = strings.Cut(name, "@")
	return name
}

// pod is the host side of one of the pods' links.
func (s *saboteur) pod() string {
	_, name, _ := strings.Cut(one(s, s.lines("weft", "ip", "-o", "link", "show", "type", "veth")), ": ")
	name, _, _ = strings.Cut(name, "@")
	return name
}

// vxlan is one of the VXLAN devices.
func (s *saboteur) vxlan() string {
	_, name, _ := strings.Cut(one(s, s.lines("weft-vxlan", "ip", "-o", "link", "show", "type", "vxlan")), ": ")
	name, _, _ = strings.Cut(name, ":")
	return name
}

// route is one of the node's routes as far as `ip route del` needs it.
func (s *saboteur) route(family string) string {
	f := strings.Fields(one(s, s.lines("proto 87", "ip", family, "-o", "route", "show")))
	if f[0] == "blackhole" || f[0] == "unreachable" {
		return f[0] + " " + f[1]
	}
	return f[0]
}

// object is one of the objects of a kind ("chain", "set") in our table that are not empty, by name.
func (s *saboteur) object(kind string) string {
	var names []string
	for block := range strings.SplitSeq(testkit.Run(s.t, s.ns, "nft", "list", "table", "inet", kernel.NFTable), "\n\t}\n") {
		_, block, ok := strings.Cut(block, "\t"+kind+" ")
		name, content, _ := strings.Cut(block, " {\n")
		full := strings.Contains(content, "elements = ")
		for l := range strings.Lines(content) {
			full = full || kind == "chain" && !strings.HasPrefix(l, "\t\ttype ") && !strings.HasPrefix(l, "\t\tcomment ")
		}
		if ok && full {
			names = append(names, name)
		}
	}
	return one(s, names)
}

var sabotageKinds = []sabotage{
	{kind: "one route deleted", do: func(s *saboteur) []string {
		f := s.family()
		return []string{"ip " + f + " route del " + s.route(f) + " proto 87"}
	}},
	{kind: "all routes flushed", do: func(s *saboteur) []string { return []string{"ip " + s.family() + " route flush proto 87"} }},
	{kind: "a route made a black hole", do: func(s *saboteur) []string {
		f := s.family()
		dst := strings.Fields(s.route(f))
		return []string{"ip " + f + " route replace prohibit " + dst[len(dst)-1] + " proto 87 metric 1024"}
	}},
	{kind: "a tunnel device deleted", do: func(s *saboteur) []string { return []string{"ip link del " + s.tunnel()} }},
	{kind: "a tunnel device down", do: func(s *saboteur) []string { return []string{"ip link set " + s.tunnel() + " down"} }},
	{kind: "a tunnel device renamed", do: func(s *saboteur) []string { return []string{"ip link set " + s.tunnel() + " name stolen0"} }},
	{kind: "a tunnel device's MTU changed", do: func(s *saboteur) []string {
		return []string{"ip link set " + s.tunnel() + " mtu " + strconv.Itoa(1280+s.rand.IntN(100))}
	}},
	{kind: "a tunnel address removed", do: func(s *saboteur) []string {
		f := strings.Fields(one(s, s.lines("weft-", "ip", "-o", "addr", "show")))
		return []string{"ip addr del " + f[3] + " dev " + f[1]}
	}},
	{kind: "one neighbour deleted", do: func(s *saboteur) []string {
		f := strings.Fields(one(s, s.lines("weft-vxlan", "ip", s.family(), "neigh", "show", "nud", "permanent")))
		return []string{"ip neigh del " + f[0] + " dev " + f[2]}
	}},
	{kind: "a neighbour with another's address", do: func(s *saboteur) []string {
		f := strings.Fields(one(s, s.lines("weft-vxlan", "ip", s.family(), "neigh", "show", "nud", "permanent")))
		return []string{"ip neigh replace " + f[0] + " dev " + f[2] + " lladdr 02:00:00:00:00:01 nud permanent"}
	}},
	{kind: "all neighbours flushed", do: func(s *saboteur) []string {
		device, family := s.vxlan(), "-4"
		if strings.HasSuffix(device, "-v6") {
			family = "-6"
		}
		return []string{"ip " + family + " neigh flush dev " + device + " nud permanent"}
	}},
	{kind: "one forwarding entry deleted", do: func(s *saboteur) []string {
		f := strings.Fields(one(s, s.lines(" dst ", "bridge", "fdb", "show")))
		return []string{"bridge fdb del " + f[0] + " dev " + f[2] + " dst " + f[4]}
	}},
	{kind: "a forwarding entry to elsewhere", do: func(s *saboteur) []string {
		f := strings.Fields(one(s, s.lines(" dst ", "bridge", "fdb", "show")))
		elsewhere := "192.0.2.1"
		if strings.Contains(f[4], ":") {
			elsewhere = "2001:db8::1"
		}
		return []string{"bridge fdb replace " + f[0] + " dev " + f[2] + " dst " + elsewhere + " self permanent"}
	}},
	{kind: "forwarding turned off", do: func(s *saboteur) []string {
		return []string{one(s, []string{"sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv6.conf.all.forwarding=0"})}
	}},
	{kind: "a pod's link down", do: func(s *saboteur) []string { return []string{"ip link set " + s.pod() + " down"} }},
	{kind: "a pod's source filter off", do: func(s *saboteur) []string { return []string{"sysctl -qw net.ipv4.conf." + s.pod() + ".rp_filter=0"} }},
	{kind: "a pod's gateway address removed", do: func(s *saboteur) []string { return []string{"ip -6 addr flush dev " + s.pod()} }},
	{kind: "the table deleted", do: func(*saboteur) []string { return []string{"nft delete table inet " + kernel.NFTable} }},
	{kind: "the ruleset flushed", do: func(*saboteur) []string { return []string{"nft flush ruleset"} }},
	{kind: "a chain flushed", do: func(s *saboteur) []string {
		return []string{"nft flush chain inet " + kernel.NFTable + " " + s.object("chain")}
	}},
	{kind: "a rule deleted", do: func(s *saboteur) []string {
		chain := s.object("chain")
		rules := s.lines("# handle", "nft", "-a", "list", "chain", "inet", kernel.NFTable, chain)
		rules = slices.DeleteFunc(rules, func(l string) bool { return strings.Contains(l, "{") })
		if len(rules) == 0 {
			return nil
		}
		_, handle, _ := strings.Cut(one(s, rules), "# handle ")
		return []string{"nft delete rule inet " + kernel.NFTable + " " + chain + " handle " + handle}
	}},
	{kind: "a foreign rule before ours", do: func(s *saboteur) []string {
		return []string{"nft insert rule inet " + kernel.NFTable + " " + s.object("chain") + " accept"}
	}},
	{kind: "a set emptied", do: func(s *saboteur) []string {
		return []string{"nft flush set inet " + kernel.NFTable + " " + s.object("set")}
	}},
	{kind: "an element added for somebody else", do: func(s *saboteur) []string {
		for _, set := range s.rand.Perm(20) {
			sets := s.lines("set tunnel-", "nft", "list", "table", "inet", kernel.NFTable)
			name := strings.Fields(sets[set%len(sets)])[1]
			if strings.Contains(name, "ip4-in-ip4") {
				return []string{"nft add element inet " + kernel.NFTable + " " + name + " { 192.0.2.1 . 10.244.0.0 }"}
			}
		}
		return nil
	}},
	{kind: "a program detached", direct: (*saboteur).detachOne},
	{kind: "a program's table with an entry less", direct: func(s *saboteur) string { return s.empty(false) }},
	{kind: "a program's table emptied", direct: func(s *saboteur) string { return s.empty(true) }},
}

// TestSabotage breaks, 200 times, something that a node keeps in the kernel, and measures until the
// kernel holds again what it held before.
func TestSabotage(t *testing.T) {
	testkit.Require(t, testkit.NFTables)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WEFT_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("WEFT_SEED=%d", seed)
	c := newCluster(t, "e2esabotage")
	c.dualPods(vxlanAlways)
	c.withIPIP()
	n1 := c.nodeNetns("n1")
	s := &saboteur{t: t, ns: n1, rand: rand.New(rand.NewPCG(seed, 0))}
	before := c.quiet(n1)
	repairs := c.repairs("n1")
	byKind := map[string][]time.Duration{}
	var all []time.Duration
	for len(all) < sabotages {
		kind := one(s, sabotageKinds)
		start := time.Now()
		what := kind.commit(s)
		if what == "" {
			continue
		}
		took, ok := healed(t, n1, before, start)
		if !ok {
			t.Fatalf("%s (%s) is not healed after %v:\n%s", kind.kind, what, took, difference(before, nodeState(t, n1)))
		}
		if took > time.Second {
			t.Logf("%s (%s) took %v to heal", kind.kind, what, took)
		}
		byKind[kind.kind], all = append(byKind[kind.kind], took), append(all, took)
		// The kernel is whole a moment before the run that made it so is counted.
		now := c.repairs("n1")
		for end := time.Now().Add(5 * time.Second); now == repairs && time.Now().Before(end); now = c.repairs("n1") {
			time.Sleep(10 * time.Millisecond)
		}
		if now == repairs {
			t.Errorf("%s (%s): no repair was counted", kind.kind, what)
		}
		repairs = now
	}
	for _, k := range sabotageKinds {
		if d := byKind[k.kind]; len(d) > 0 {
			slices.Sort(d)
			t.Logf("%-40s %3d times: median %4d ms, longest %4d ms", k.kind, len(d), d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds())
		}
	}
	slices.Sort(all)
	p99 := all[len(all)*99/100-1]
	t.Logf("healed %d of %d: median %v, p99 %v, longest %v (a look at the kernel included, %v); %d repairs counted", len(all), sabotages,
		all[len(all)/2].Round(time.Millisecond), p99.Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond), lookTime(t, n1).Round(time.Millisecond), repairs)
	figures.Write(t, "sabotage", figures.Seconds("heal", "random pieces", all...)...)
	if limit := testkit.Patient(time.Second); p99 > limit {
		t.Errorf("p99 of the heal time is %v, want at most %v", p99, limit)
	}
	c.warmUp(vxlanAlways) // every pair, both families
	if ok := c.mesh([][2]string{{"n1-ipip", "n3-ipip"}, {"n3-ipip", "n1-ipip"}}); ok != 2 {
		t.Errorf("%d of 2 pairs talk by IPIP after it all", ok)
	}
}

// withIPIP adds a pool that travels by IPIP, and a pod of it on each node.
func (c *cluster) withIPIP() {
	c.t.Helper()
	c.apply(`
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: ipip}
spec: {cidr: 10.246.0.0/16, blockSize: 26, vxlanMode: Never, ipipMode: Always, nodeSelector: all()}
`)
	testkit.Eventually(c.t, 15*time.Second, "every node knows the pool", func() bool {
		for _, n := range labNodes {
			st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(n))
			if err != nil || !slices.ContainsFunc(st.Tunnels, func(t status.Tunnel) bool { return t.Device == kernel.IPIPDevice }) {
				return false
			}
		}
		return true
	})
	for _, n := range labNodes {
		c.podOf(n, n+"-ipip", "ipip")
	}
	testkit.Eventually(c.t, 15*time.Second, "the pods of the IPIP pool talk", func() bool {
		return c.mesh([][2]string{{"n1-ipip", "n3-ipip"}, {"n1-ipip", "n2-ipip"}}) == 2
	})
}

// nodeState is all that the node keeps in the kernel.
func nodeState(t testing.TB, ns testkit.NS) string {
	t.Helper()
	return dump(t, ns) + "\n" + programState(t, ns)
}

// dualPods brings pools of both families into force and attaches a pod to each node.
func (c *cluster) dualPods(m poolMode) {
	c.t.Helper()
	c.dual(vxlanAlways)
	// Until a node knows of the second pool it gives pods no second address.
	testkit.Eventually(c.t, 10*time.Second, "every node has a tunnel of each family", func() bool {
		for _, n := range labNodes {
			if st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(n)); err != nil || len(st.Tunnels) != 2 {
				return false
			}
		}
		return true
	})
	c.pods()
	for _, n := range labNodes {
		if len(c.every[n]) != 2 {
			c.t.Fatalf("pod %s has the addresses %v, want one of each family", n, c.every[n])
		}
	}
	if m != vxlanAlways {
		c.dual(m)
	}
	c.settle(m, labNodes, nil)
	c.warmUp(m)
}

// quiet waits until the kernel's state does not change any more, and returns it.
func (c *cluster) quiet(ns testkit.NS) string {
	c.t.Helper()
	last := nodeState(c.t, ns)
	for range 50 {
		time.Sleep(300 * time.Millisecond)
		now := nodeState(c.t, ns)
		if now == last {
			return now
		}
		last = now
	}
	c.t.Fatal("the node's state in the kernel never comes to rest")
	return ""
}

func healed(t *testing.T, ns testkit.NS, before string, start time.Time) (time.Duration, bool) {
	t.Helper()
	for {
		same := nodeState(t, ns) == before
		took := time.Since(start)
		if same || took > 10*time.Second {
			return took, same
		}
	}
}

func lookTime(t *testing.T, ns testkit.NS) time.Duration {
	start := time.Now()
	for range 5 {
		nodeState(t, ns)
	}
	return time.Since(start) / 5
}

// repairs asks a node how many objects it put back.
func (c *cluster) repairs(node string) uint64 {
	c.t.Helper()
	st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
	if err != nil {
		c.t.Fatal(err)
	}
	return st.Repairs
}
