package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"weft/internal/testkit"
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

// labelled attaches a pod with labels; address, when valid, is the one that it asks for.
func (c *cluster) labelled(node, name string, address netip.Addr, labels map[string]string) netip.Addr {
	c.t.Helper()
	spec := lab.PodSpec{Node: node, Namespace: "default", Name: name, Labels: labels}
	if address.IsValid() {
		spec.Annotations = map[string]string{"cni.projectcalico.org/ipAddrs": fmt.Sprintf(`["%s"]`, address)}
	}
	res, err := c.lab.AddPod(c.t.Context(), spec)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := types100.GetResult(res)
	if err != nil || len(r.IPs) == 0 {
		c.t.Fatalf("CNI result %v: %v", res, err)
	}
	a, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
	c.addrs[name] = a.Unmap()
	return c.addrs[name]
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
// address beforehand and asks a thousand times a second has no answer. The control is a pod that no
// policy selects.
func TestPolicyFromTheFirstPacket(t *testing.T) {
	c := newCluster(t, "e2efirst")
	c.pool("Always")
	near := c.labelled("n1", "near", netip.Addr{}, nil)
	c.labelled("n2", "far", netip.Addr{}, nil)
	c.apply(denied)
	c.enforced("n1", func(p *status.Policy) bool { return p.Pods == 1 })

	const starts = 20
	var addrs []netip.Addr
	for a := near; len(addrs) < 4; { // tunnel addresses come first in a block
		for range 5 {
			a = a.Next()
		}
		addrs = append(addrs, a)
	}
	probers := []*prober{c.probePings(c.netns("near"), addrs...), c.probePings(c.netns("far"), addrs...)}
	var chances int64
	for n := range starts {
		i := n % len(addrs)
		before := probers[0].sent[i].Load() + probers[1].sent[i].Load()
		c.labelled("n1", "shy", addrs[i], map[string]string{"closed": "yes"})
		up := probers[1].sent[i].Load()
		testkit.Eventually(t, 10*time.Second, "100 probes of the pod", func() bool { return probers[1].sent[i].Load() > up+100 })
		c.remove("shy")
		chances += probers[0].sent[i].Load() + probers[1].sent[i].Load() - before
	}
	answers := 0
	for _, p := range probers {
		for i := range addrs {
			n, _ := p.answers(i, time.Time{})
			answers += n
		}
	}
	if answers > 0 {
		t.Errorf("%d of %d probes during %d starts of a closed pod were answered", answers, chances, starts)
	}
	if chances < 2000 {
		t.Errorf("only %d probes", chances)
	}
	t.Logf("%d of %d probes during %d starts of a closed pod were answered", answers, chances, starts)

	began := time.Now()
	c.labelled("n1", "open", addrs[0], nil)
	returned := time.Now()
	for i, where := range []string{"here", "on another node"} {
		first := probers[i].begins("the control is answered "+where, 0, began)
		t.Logf("control: a pod that no policy selects answers %v %v after its ADD began, %v after it returned", where, first.Round(time.Millisecond), (first - returned.Sub(began)).Round(time.Millisecond))
	}
}

// What changes in the store is in force soon after: policies and labels, here and elsewhere.
func TestPolicyFollowsTheStore(t *testing.T) {
	c := newCluster(t, "e2efollow")
	c.pool("Always")
	shy := c.labelled("n1", "shy", netip.Addr{}, map[string]string{"app": "shy"})
	c.labelled("n1", "near", netip.Addr{}, nil)
	c.labelled("n2", "far", netip.Addr{}, nil)
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
	c.pool("Always")
	shy := c.labelled("n1", "shy", netip.Addr{}, map[string]string{"closed": "yes"})
	c.labelled("n1", "near", netip.Addr{}, nil)
	c.labelled("n2", "friend", netip.Addr{}, map[string]string{"friend": ""})
	c.apply(denied + "---" + opened)
	c.enforced("n1", func(p *status.Policy) bool { return p.Policies == 2 })
	out, in := c.probePings(c.netns("near"), shy), c.probePings(c.netns("friend"), shy)
	in.begins("the friend is let in", 0, time.Time{})
	began := c.mark(out, in)

	const kills = 10
	churn := func(n int) string {
		return fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: churn}\nspec: {order: 5, selector: has(closed), ingress: [{action: Deny, source: {nets: [192.0.2.%d]}}]}\n", n)
	}
	var under sync.WaitGroup
	defer under.Wait()
	for n := range kills {
		c.apply(churn(2 * n))
		under.Go(func() {
			if out, err := c.weft(churn(2*n+1), "apply", "-f", "-"); err != nil {
				t.Errorf("weft apply: %v\n%s", err, out)
			}
		})
		if _, err := c.lab.Stop(t.Context(), "n1", unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 { // what comes meanwhile waits for the node
			already := out.sent[0].Load()
			testkit.Eventually(t, 10*time.Second, "150 probes while the node is dead", func() bool { return out.sent[0].Load() > already+150 })
		}
		if _, err := c.lab.Start(t.Context(), "n1"); err != nil {
			t.Fatalf("%#v", err)
		}
		under.Wait()
		c.enforced("n1", func(p *status.Policy) bool { return p.Pods == 2 && p.Policies == 3 })
	}
	c.kept(out, in, began, fmt.Sprintf("%d kills of the node service", kills))

	began = c.mark(out, in)
	const switches = 6
	for n := range switches {
		mode, driver := "Disabled", "iptables"
		if n%2 == 1 {
			mode, driver = "Enabled", "nftables"
		}
		c.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {nftablesMode: " + mode + "}\n")
		c.enforced("n1", func(p *status.Policy) bool { return p.Driver == driver })
		at := time.Now()
		in.begins("the friend is let in by "+driver, 0, at)
	}
	c.kept(out, in, began, fmt.Sprintf("%d changes of the driver", switches))
	if left := testkit.Run(t, c.nodeNetns("n1"), "sh", "-c", "iptables-save; ip6tables-save; ipset list -n"); strings.Contains(left, "weft-") {
		t.Errorf("rules or sets of iptables are left:\n%s", left)
	}

	// A node that starts without its store has nothing to go by but what is there.
	if _, err := c.lab.Stop(t.Context(), "n1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began = c.mark(out, in)
	c.delete("networkpolicies.networking.k8s.io", "closed")
	c.delete("cnp", "friends")
	if out, err := c.weft("", "delete", "gnp", "churn"); err != nil {
		t.Fatal(err, out)
	}
	testkit.Eventually(t, 10*time.Second, "300 probes while the node is dead", func() bool { n, _ := in.answers(0, began.at); return n > 300 })
	c.kept(out, in, began, "the deletion of the policies while the node is dead")
	if _, err := c.lab.Start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("control: everybody is let in %v after the node is back", out.begins("everybody is let in", 0, time.Now()).Round(time.Millisecond))
}

// mark is a moment, and how much was sent to the first address of two probers before.
type mark struct {
	at      time.Time
	out, in int64
}

func (c *cluster) mark(out, in *prober) mark {
	return mark{time.Now(), out.sent[0].Load(), in.sent[0].Load()}
}

// kept says that one prober had no answer since a moment while the other one had.
func (c *cluster) kept(out, in *prober, since mark, during string) {
	c.t.Helper()
	now := c.mark(out, in)
	answers, _ := out.answers(0, since.at)
	friendly, _ := in.answers(0, since.at)
	if answers > 0 {
		c.t.Errorf("%s: %d of %d probes that are to be denied were answered", during, answers, now.out-since.out)
	}
	if friendly < 100 {
		c.t.Errorf("%s: only %d answers for who is let in: the probes show nothing", during, friendly)
	}
	c.t.Logf("%s: %d of %d probes that are to be denied were answered, and %d of %d that are allowed", during, answers, now.out-since.out, friendly, now.in-since.in)
}

// The node says what it enforces.
func TestPolicyStatusAndPlan(t *testing.T) {
	c := newCluster(t, "e2eplan")
	c.pool("Always")
	c.labelled("n1", "shy", netip.Addr{}, map[string]string{"closed": "yes"})
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
