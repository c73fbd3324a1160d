package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/bench/result"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/traffic"
	"weft/node/status"
)

// poolMode is how a pool is encapsulated.
type poolMode struct{ vxlan, ipip string }

var (
	vxlanAlways = poolMode{"Always", "Never"}
	vxlanCross  = poolMode{"CrossSubnet", "Never"}
	ipipAlways  = poolMode{"Never", "Always"}
	ipipCross   = poolMode{"Never", "CrossSubnet"}
	noneMode    = poolMode{"Never", "Never"}
)

func (m poolMode) String() string {
	switch {
	case m.vxlan != "Never":
		return "VXLAN " + m.vxlan
	case m.ipip != "Never":
		return "IPIP " + m.ipip
	}
	return "Never"
}

// reach is how a node reaches a peer in this mode.
func (m poolMode) reach(node, peer string) string {
	across := (node == "n3") != (peer == "n3")
	switch {
	case m.vxlan == "Always" || m.vxlan == "CrossSubnet" && across:
		return "VXLAN"
	case m.ipip == "Always" || m.ipip == "CrossSubnet" && across:
		return "IPIP"
	}
	return "Direct"
}

func (m poolMode) manifest() string {
	return `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: default-ipv4-ippool}
spec: {cidr: 10.244.0.0/16, blockSize: 26, vxlanMode: ` + m.vxlan + `, ipipMode: ` + m.ipip + `, natOutgoing: true, nodeSelector: all()}
`
}

// felix is a manifest of the cluster's FelixConfiguration.
func felix(spec string) string {
	return "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: " + spec + "\n"
}

var labNodes = []string{"n1", "n2", "n3"}

// allModes are the modes that are probed and shown.
var allModes = []poolMode{vxlanAlways, vxlanCross, ipipAlways, ipipCross, noneMode}

// sixPods attaches two pods to each node, "n1-a", "n1-b", ...
func (c *cluster) sixPods() (hosts []traffic.Host) {
	c.t.Helper()
	for _, n := range labNodes {
		for _, x := range []string{"-a", "-b"} {
			c.pod(n, n+x)
			hosts = append(hosts, c.hosts(n+x)...)
		}
	}
	return hosts
}

// hosts returns a pod as ends of streams, one for each of its addresses.
func (c *cluster) hosts(pod string) (hosts []traffic.Host) {
	for _, a := range c.every[pod] {
		hosts = append(hosts, traffic.Host{Name: pod, Netns: c.netns(pod).Path, Addr: a})
	}
	return hosts
}

// load starts a stream of UDP at 1 kHz and one of TCP between every pair.
func (c *cluster) load(hosts []traffic.Host) *traffic.Run {
	c.t.Helper()
	r, err := traffic.Start(c.t.Context(), traffic.Config{Hosts: hosts, Interval: time.Millisecond, TCP: true, Warm: 10 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// wrongPaths says which of the nodes do not yet reach their peers as the mode wants; want may
// override some, by "node peer".
func (c *cluster) wrongPaths(m poolMode, nodes []string, want map[string]string) (wrong []string) {
	for _, node := range nodes {
		st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		for _, peer := range labNodes {
			if peer == node {
				continue
			}
			to := m.reach(node, peer)
			if w, ok := want[node+" "+peer]; ok {
				to = w
			}
			wrong = append(wrong, wrongPath(st, node, peer, to)...)
		}
	}
	return wrong
}

func wrongPath(st *status.Status, node, peer, want string) (wrong []string) {
	i := slices.IndexFunc(st.Peers, func(p status.Peer) bool { return p.Node == peer })
	if i < 0 || len(st.Peers[i].Paths) == 0 {
		return []string{node + " knows no path to " + peer}
	}
	for _, p := range st.Peers[i].Paths {
		reach := want
		if reach == "IPIP" && strings.Contains(p.Dst, ":") {
			reach = "VXLAN" // as dual asks for
		}
		if p.Reach != reach {
			wrong = append(wrong, fmt.Sprintf("%s reaches %s of %s by %s (%s), want %s", node, p.Dst, peer, p.Reach, p.Why, reach))
		}
	}
	return wrong
}

// settle waits until every node's paths are as the mode wants them and returns how long it took.
func (c *cluster) settle(m poolMode, nodes []string, want map[string]string) time.Duration {
	c.t.Helper()
	var wrong []string
	defer func() {
		if c.t.Failed() && len(wrong) > 0 {
			c.t.Logf("%v is not in force: %s", m, strings.Join(wrong, "; "))
		}
	}()
	return testkit.Eventually(c.t, 40*time.Second, m.String()+" is in force", func() bool {
		wrong = c.wrongPaths(m, nodes, want)
		return len(wrong) == 0
	})
}

// devices waits until a node has exactly these tunnel devices.
func (c *cluster) devices(node string, want ...string) {
	c.t.Helper()
	var got []string
	limit := time.Now().Add(20 * time.Second)
	for time.Now().Before(limit) {
		got = nil
		for l := range strings.Lines(testkit.Links(c.t, c.nodeNetns(node))) {
			if name, _, _ := strings.Cut(l, " "); strings.HasPrefix(name, "weft-") {
				got = append(got, name)
			}
		}
		if slices.Equal(got, want) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("%s has the tunnel devices %v, want %v", node, got, want)
}

// step is one change under traffic.
type step struct {
	what     string
	manifest string
	settle   func() time.Duration

	from, to uint64 // marks
	took     time.Duration
}

func modeStep(c *cluster, before, m poolMode) step {
	return step{what: before.String() + " to " + m.String(), manifest: m.manifest(),
		settle: func() time.Duration { return c.settle(m, labNodes, nil) }}
}

// chances is how many packets each pair has to send after each change: what is lost of so many shows. How
// long that takes is the machine's affair.
const chances = 100

// through makes the changes one after the other while r flows, and returns them with what each cost.
func (c *cluster) through(r *traffic.Run, steps []step) traffic.Report {
	c.t.Helper()
	for i := range steps {
		s := &steps[i]
		s.from = r.Mark()
		c.apply(s.manifest)
		s.took = s.settle()
		settled := r.Mark()
		testkit.Eventually(c.t, 20*time.Second, "packets after "+s.what, func() bool { return r.Mark() >= settled+chances })
		s.to = r.Mark()
	}
	rep := r.Stop()
	for _, s := range steps {
		sent, lost := rep.Between(s.from, s.to)
		if sent < uint64(chances*len(rep.Pairs)) {
			c.t.Errorf("%s: %d packets from %d pairs, want %d of each", s.what, sent, len(rep.Pairs), chances)
		}
		c.t.Logf("%-38s in force after %7v: %d of %d packets lost", s.what, s.took.Round(time.Millisecond), lost, sent)
	}
	return rep
}

// whole wants that nothing was lost and no TCP stream broke.
func (c *cluster) whole(what string, rep traffic.Report) {
	c.t.Helper()
	before := c.t.Failed()
	c.t.Logf("%s: %v", what, rep)
	total := rep.Total()
	all, broken, _ := rep.Streams()
	if total.Lost != 0 || broken != 0 || all == 0 {
		c.t.Errorf("%s: %d of %d packets lost, %d of %d TCP streams broke; want none", what, total.Lost, total.Sent, broken, all)
	}
	each := total.Sent / uint64(max(1, len(rep.Pairs)))
	c.t.Logf("%s: each pair sent %d packets in %v", what, each, rep.Duration.Round(time.Millisecond))
	if each < chances {
		c.t.Errorf("%s: each pair sent %d packets, want %d or more for losses to show", what, each, chances)
	}
	if !before {
		figures.Write(c.t, "modes", wholeness(what, rep)...)
	}
}

// wholeness is what a run that nothing else disturbed lost and broke, none when it sent too little for that to show. What
// was lost is recorded, too: else it would always be none.
func wholeness(what string, rep traffic.Report) []result.Record {
	total := rep.Total()
	all, broken, _ := rep.Streams()
	if all == 0 || total.Sent < uint64(chances*len(rep.Pairs)) {
		return nil
	}
	return append(lossOf(what, total),
		result.Record{Metric: "streams_broken", Unit: result.Count, Setting: what, Value: float64(broken)},
		result.Record{Metric: "streams", Unit: result.Count, Setting: what, Value: float64(all)})
}

func lossOf(what string, total traffic.Pair) []result.Record {
	return []result.Record{{Metric: "lost", Unit: result.Count, Setting: what, Value: float64(total.Lost)},
		{Metric: "sent", Unit: result.Count, Setting: what, Value: float64(total.Sent)}}
}

// in is the cluster as a subtest sees it.
func (c *cluster) in(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	sub.addrs, sub.every = maps.Clone(c.addrs), maps.Clone(c.every)
	return &sub
}

// tunnels waits until every node sends VXLAN with this outer header and MTU, and nothing of the
// former one is left.
func (c *cluster) tunnels(outer string, mtu int) time.Duration {
	c.t.Helper()
	return testkit.Eventually(c.t, 15*time.Second, fmt.Sprintf("every node has VXLAN with %s and MTU %d only", outer, mtu), func() bool {
		for _, n := range labNodes {
			st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(n))
			if err != nil || len(st.Tunnels) != 1 || st.Tunnels[0].Outer != outer || st.Tunnels[0].MTU != mtu {
				return false
			}
		}
		return true
	})
}
