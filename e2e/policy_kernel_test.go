package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/lab"
	"weft/node/status"
)

// denied is Kubernetes' own policy that closes what has the label closed.
const denied = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {closed: "yes"}}, policyTypes: [Ingress]}
`

// opened lets those with the label friend in.
const opened = `
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec: {order: 10, selector: closed == 'yes', ingress: [{action: Allow, source: {selector: has(friend)}}]}
`

// count is how often a test does something: as an environment variable says, else a little.
func count(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1", variable, text)
	}
	return n
}

// labelled attaches a pod with labels; addresses, when there are any, are those that it asks for.
func (c *cluster) labelled(node, name string, labels map[string]string, addresses ...netip.Addr) []netip.Addr {
	c.t.Helper()
	all, err := c.tryLabelled(node, name, labels, addresses...)
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

func (c *cluster) tryLabelled(node, name string, labels map[string]string, addresses ...netip.Addr) ([]netip.Addr, error) {
	spec := lab.PodSpec{Node: node, Namespace: "default", Name: name, Labels: labels}
	if len(addresses) > 0 {
		var quoted []string
		for _, a := range addresses {
			quoted = append(quoted, strconv.Quote(a.String()))
		}
		spec.Annotations = map[string]string{"cni.projectcalico.org/ipAddrs": "[" + strings.Join(quoted, ", ") + "]"}
	}
	res, err := c.lab.AddPod(c.t.Context(), spec)
	if err != nil {
		return nil, err
	}
	r, err := types100.GetResult(res)
	if err != nil || len(r.IPs) == 0 {
		return nil, fmt.Errorf("CNI result %v: %w", res, err)
	}
	c.every[name] = nil
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		c.every[name] = append(c.every[name], a.Unmap())
	}
	c.addrs[name] = c.every[name][0]
	return c.every[name], nil
}

func (c *cluster) remove(pod string) {
	c.t.Helper()
	if _, err := c.lab.RemovePod(c.t.Context(), "default", pod); err != nil {
		c.t.Fatal(err)
	}
}

// enforced waits until a node has the program of all that the store says in the kernel.
func (c *cluster) enforced(node string, is func(*status.Policy) bool) {
	c.t.Helper()
	var last status.Policy
	testkit.Eventually(c.t, 20*time.Second, "policy of "+node+" is as wanted", func() bool {
		st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
		if err != nil {
			return false
		}
		last = st.Policy
		return last.Error == "" && last.Generation == last.Programmed && is(&last)
	})
}

// From its first moment on a pod is closed by the policy that selects it: somebody who knows its
// addresses beforehand and asks a thousand times a second, of both families, has no answer. Some pods
// start while the node service is dead or has just been started: then ADD is refused, or waits. The
// control is a pod that no policy selects.
func TestPolicyFromTheFirstPacket(t *testing.T) {
	c := newCluster(t, "e2efirst")
	c.dualPods(vxlanAlways)
	c.apply(denied)
	c.enforced("n1", func(p *status.Policy) bool { return p.Pods == 1 })

	starts := count(t, "WEFT_STARTS", 20)
	var addrs []netip.Addr                                            // by turns of each family
	for a, b := c.every["n1"][0], c.every["n1"][1]; len(addrs) < 8; { // tunnel addresses come first in a block
		for range 5 {
			a, b = a.Next(), b.Next()
		}
		addrs = append(addrs, a, b)
	}
	kinds := []knock{ping4, ping6, syn4, syn6}
	var probers []*prober
	for _, from := range []string{"n2", "near"} {
		if from == "near" {
			c.labelled("n1", "near", nil)
		}
		for _, k := range kinds {
			probers = append(probers, c.knock(k, from, k.of(addrs)...))
		}
	}
	sent := func(turn int) (n int64) {
		for _, p := range probers {
			n += p.sent[turn].Load()
		}
		return n
	}
	var chances int64
	down, refused := 0, 0
	for n := range starts {
		turn := n % (len(addrs) / 2)
		ask := addrs[2*turn : 2*turn+2]
		before := sent(turn)
		if n%10 == 9 {
			down++
			refused += c.startsWithTheNodeDown("shy", map[string]string{"closed": "yes"}, ask)
		} else {
			c.labelled("n1", "shy", map[string]string{"closed": "yes"}, ask...)
		}
		up := probers[0].sent[turn].Load()
		testkit.Eventually(t, 10*time.Second, "100 probes of the pod", func() bool { return probers[0].sent[turn].Load() > up+100 })
		c.remove("shy")
		chances += sent(turn) - before
	}
	answers := 0
	for i, p := range probers {
		for turn := range p.to {
			n, _ := p.answers(turn, time.Time{})
			if answers += n; n > 0 {
				t.Errorf("%d answers of %v to %s", n, p.to[turn], kinds[i%len(kinds)].name)
			}
		}
	}
	if chances < 200*int64(starts) {
		t.Errorf("only %d probes", chances)
	}
	figures.Write(t, "probes", figures.Share(fmt.Sprintf("%d starts of a closed pod", starts), "answered", int64(answers), "asked", chances)...)
	t.Logf("%d of %d probes, by ping and TCP of both families, were answered during %d starts of a closed pod, %d of them with the node down, when ADD was refused %d times",
		answers, chances, starts, down, refused)

	began := time.Now()
	c.labelled("n1", "open", nil, addrs[0], addrs[1])
	returned := time.Now()
	for i, p := range probers {
		where := []string{"on another node", "here"}[i/len(kinds)]
		first := p.begins("the control is answered "+where, 0, began)
		t.Logf("control: a pod that no policy selects answers %s %s %v after its ADD began, %v after it returned", kinds[i%len(kinds)].name, where,
			first.Round(time.Millisecond), (first - returned.Sub(began)).Round(time.Millisecond))
	}
}

// startsWithTheNodeDown kills the node service, starts it again, and attaches a pod as soon as that is
// possible. It returns how often ADD was refused before.
func (c *cluster) startsWithTheNodeDown(name string, labels map[string]string, addresses []netip.Addr) (refused int) {
	c.t.Helper()
	if _, err := c.lab.Stop(c.t.Context(), "n1", unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	started := make(chan error, 1)
	try := func() bool {
		_, err := c.tryLabelled("n1", name, labels, addresses...)
		if err != nil {
			refused++
		}
		return err == nil
	}
	if try() {
		c.t.Error("a pod started with the node service dead")
	}
	go func() { _, err := c.lab.Start(c.t.Context(), "n1"); started <- err }()
	testkit.Eventually(c.t, 30*time.Second, "the pod starts with the node", try)
	if err := <-started; err != nil {
		c.t.Fatal(err)
	}
	return refused
}

// What changes in the store is in force soon after: policies and labels, here and elsewhere.
func TestPolicyFollowsTheStore(t *testing.T) {
	c := newCluster(t, "e2efollow")
	c.pool("Always")
	shy := c.labelled("n1", "shy", map[string]string{"app": "shy"})[0]
	c.labelled("n1", "near", nil)
	c.labelled("n2", "far", nil)
	near, far := c.probePings(c.netns("near"), shy), c.probePings(c.netns("far"), shy)
	near.begins("near reaches shy", 0, time.Time{})
	far.begins("far reaches shy", 0, time.Time{})

	var took []string
	step := func(what string, change func(), nearOpen, farOpen bool) {
		t.Helper()
		change()
		done := time.Now()
		for _, p := range []struct {
			name   string
			prober *prober
			open   bool
		}{{"near", near, nearOpen}, {"far", far, farOpen}} {
			var d time.Duration
			if p.open {
				d = p.prober.begins(what+": "+p.name+" is let in", 0, done)
			} else {
				d = p.prober.ends(what+": "+p.name+" is kept out", 0, done)
			}
			took = append(took, fmt.Sprintf("%s, %s %v", what, p.name, d.Round(time.Millisecond)))
		}
	}
	label := func(pod string, l lab.LabelChange) {
		if _, err := c.lab.LabelPod(t.Context(), "default", pod, l); err != nil {
			t.Fatal(err)
		}
	}
	step("policy without a pod", func() { c.apply(denied) }, true, true)
	step("the pod gets the label", func() { label("shy", lab.LabelChange{Set: map[string]string{"closed": "yes"}}) }, false, false)
	step("policy for friends", func() { c.apply(opened) }, false, false)
	step("far becomes a friend", func() { label("far", lab.LabelChange{Set: map[string]string{"friend": ""}}) }, false, true)
	step("near too", func() { label("near", lab.LabelChange{Set: map[string]string{"friend": ""}}) }, true, true)
	step("far no more", func() { label("far", lab.LabelChange{Remove: []string{"friend"}}) }, true, false)
	step("policy goes", func() { c.delete("networkpolicies.networking.k8s.io", "closed"); c.delete("cnp", "friends") }, true, true)
	t.Logf("after the store had it:\n%s", strings.Join(took, "\n"))

	c.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {nftablesMode: Disabled}\n")
	c.enforced("n1", func(p *status.Policy) bool { return p.Driver == "iptables" })
}

func (c *cluster) delete(kind, name string) {
	c.t.Helper()
	if out, err := c.weft("", "delete", kind, name, "-n", "default"); err != nil {
		c.t.Fatalf("weft delete %s %s: %v\n%s", kind, name, err, out)
	}
}

// A node service that is killed while policy changes leaves the program that was in force; one that
// starts leaves it there until it knows better. Nobody who is to be kept out is let in, at no moment, and
// also not while the driver is another one.
func TestPolicyOutlivesTheNode(t *testing.T) {
	c := newCluster(t, "e2eoutlive")
	c.dualPods(vxlanAlways)
	shy := c.labelled("n1", "shy", map[string]string{"closed": "yes"})
	c.labelled("n1", "near", nil)
	c.labelled("n2", "friend", map[string]string{"friend": ""})
	c.apply(denied + "---" + opened)
	c.enforced("n1", func(p *status.Policy) bool { return p.Policies == 2 })
	var pairs []pair
	for _, k := range []knock{ping4, ping6, syn4, syn6} {
		p := pair{k, c.knock(k, "near", k.of(shy)...), c.knock(k, "friend", k.of(shy)...)}
		p.in.begins("the friend is let in by "+k.name, 0, time.Time{})
		pairs = append(pairs, p)
	}
	began := c.mark(pairs)

	kills := count(t, "WEFT_KILLS", 10)
	moments := rand.New(rand.NewPCG(1, uint64(kills)))
	churn := func(n int) string {
		return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: churn}\nspec: {order: 5, selector: has(closed), ingress: [{action: Deny, source: {nets: [192.0.2.%d]}}]}\n", n%250)
	}
	var under sync.WaitGroup
	defer under.Wait()
	for n := range kills {
		under.Go(func() {
			for i := range 3 {
				if out, err := c.weft(churn(3*n+i), "apply", "-f", "-"); err != nil {
					t.Errorf("weft apply: %v\n%s", err, out)
				}
			}
		})
		time.Sleep(time.Duration(moments.IntN(300)) * time.Millisecond) // somewhere while that is programmed
		if _, err := c.lab.Stop(t.Context(), "n1", unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 { // what comes meanwhile waits for the node
			already := pairs[0].out.sent[0].Load()
			testkit.Eventually(t, 10*time.Second, "150 probes while the node is dead", func() bool { return pairs[0].out.sent[0].Load() > already+150 })
		}
		if _, err := c.lab.Start(t.Context(), "n1"); err != nil {
			t.Fatalf("%#v", err)
		}
		under.Wait()
		if n%10 == 9 || n == kills-1 {
			c.enforced("n1", func(p *status.Policy) bool { return p.Pods == 3 && p.Policies == 3 })
		}
	}
	c.kept(pairs, began, fmt.Sprintf("%d kills of the node service", kills))

	began = c.mark(pairs)
	switches := count(t, "WEFT_SWITCHES", 6)
	for n := range switches {
		mode, driver := "Disabled", "iptables"
		if n%2 == 1 {
			mode, driver = "Enabled", "nftables"
		}
		c.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {nftablesMode: " + mode + "}\n")
		c.enforced("n1", func(p *status.Policy) bool { return p.Driver == driver })
		at := time.Now()
		for _, p := range pairs {
			p.in.begins("the friend is let in by "+driver, 0, at)
		}
	}
	c.kept(pairs, began, fmt.Sprintf("%d changes of the driver", switches))
	left := testkit.Run(t, c.nodeNetns("n1"), "sh", "-c", "iptables-save; ip6tables-save; ipset list -n")
	if switches%2 == 0 && strings.Contains(left, "weft-") {
		t.Errorf("rules or sets of iptables are left:\n%s", left)
	}

	// A node that starts without its store has nothing to go by but what is there.
	if _, err := c.lab.Stop(t.Context(), "n1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began = c.mark(pairs)
	c.delete("networkpolicies.networking.k8s.io", "closed")
	c.delete("cnp", "friends")
	if out, err := c.weft("", "delete", "gnp", "churn"); err != nil {
		t.Fatal(err, out)
	}
	testkit.Eventually(t, 10*time.Second, "300 probes while the node is dead", func() bool { n, _ := pairs[0].in.answers(0, began.at); return n > 300 })
	c.kept(pairs, began, "the deletion of the policies while the node is dead")
	if _, err := c.lab.Start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		t.Logf("control: everybody is let in by %s %v after the node is back", p.name, p.out.begins("everybody is let in", 0, time.Now()).Round(time.Millisecond))
	}
}

// pair asks the same from a pod that is to be kept out and from one that is let in.
type pair struct {
	knock
	out, in *prober
}

// mark is a moment, and how much was sent by each pair before.
type mark struct {
	at      time.Time
	out, in []int64
}

func (c *cluster) mark(pairs []pair) mark {
	m := mark{at: time.Now()}
	for _, p := range pairs {
		m.out, m.in = append(m.out, p.out.sent[0].Load()), append(m.in, p.in.sent[0].Load())
	}
	return m
}

// kept says that those who are to be kept out had no answer since a moment while the others had.
func (c *cluster) kept(pairs []pair, since mark, during string) {
	c.t.Helper()
	now := c.mark(pairs)
	for i, p := range pairs {
		answers, _ := p.out.answers(0, since.at)
		friendly, _ := p.in.answers(0, since.at)
		if answers > 0 {
			c.t.Errorf("%s: %d of %d probes by %s that are to be denied were answered", during, answers, now.out[i]-since.out[i], p.name)
		}
		figures.Write(c.t, "probes", append(figures.Share(during, "answered", int64(answers), "asked", now.out[i]-since.out[i]),
			figures.Share("control, who is let in: "+during, "answered", int64(friendly), "asked", now.in[i]-since.in[i])...)...)
		if friendly < 100 {
			c.t.Errorf("%s: only %d answers by %s for who is let in: the probes show nothing", during, friendly, p.name)
		}
		c.t.Logf("%s: %d of %d probes by %s that are to be denied were answered, and %d of %d that are allowed", during, answers, now.out[i]-since.out[i], p.name,
			friendly, now.in[i]-since.in[i])
	}
}

// The node says what it enforces.
func TestPolicyStatusAndPlan(t *testing.T) {
	c := newCluster(t, "e2eplan")
	c.pool("Always")
	c.labelled("n1", "shy", map[string]string{"closed": "yes"})
	c.apply(denied)
	c.enforced("n1", func(p *status.Policy) bool { return p.Driver == "nftables" && p.Policies == 1 && p.Pods == 1 })
	out, err := c.weft("", "plan", "policy", "--run-dir", c.lab.NodeRunDir("n1"))
	if err != nil || !strings.Contains(out, "KubernetesNetworkPolicy default/closed ingress") || !strings.Contains(out, "pod default/shy/eth0 on weft") {
		t.Errorf("weft plan policy: %v\n%s", err, out)
	}
	out, err = c.weft("", "status", "--run-dir", c.lab.NodeRunDir("n1"))
	if err != nil || !strings.Contains(out, "nftables, 1 policy in force for 1 pod") {
		t.Errorf("weft status: %v\n%s", err, out)
	}
	code, metrics, err := status.Ask(t.Context(), c.lab.NodeRunDir("n1"), "metrics")
	if err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	for _, want := range []string{"weft_policy_endpoints 1", "weft_policy_active 1", "weft_policy_chains 3", "weft_policy_rejected_resources 0",
		"weft_policy_latency_seconds_count ", "weft_endpoint_quarantine_seconds_count 1"} {
		if !strings.Contains(string(metrics), "\n"+want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}
