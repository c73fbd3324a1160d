package kube

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// A cluster is installed by its manifests, and does what a cluster is for: pods on both nodes get ready, talk across
// nodes without losing a packet, and through a Service; policy holds from a pod's first packet; the node service is
// replaced, and the encapsulation changed, under traffic.
func TestCluster(t *testing.T) {
	testkit.LeakCheck(t)
	r := install(t, kube.StartWhole(t), "vxlan", "nftables")
	web := r.web()
	for _, part := range []struct {
		name string
		test func(*testing.T, *rig, []pod)
	}{
		{"afar", fromAfar},
		{"carry", carry}, {"service", service}, {"policy", policyHolds}, {"control", streamsCount}, {"restart", restart}, {"runtime", runtimeRestarts}, {"away", apiAway},
		{"modes", modes}, {"bgp", speak}, {"encrypt", encrypt}, {"privileges", privileges}, {"rights", rights},
		{"reboot", reboot}, // late, since it adds a machine
		{"gone", gone},     // last, since it deletes a node
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(t, &rig{r.Whole, t, r.t}, web)
		})
	}
}

// carry sends packets from each node to each pod.
func carry(t *testing.T, r *rig, web []pod) {
	sent, answered := 0, 0
	for _, from := range []pod{web[0], web[2]} {
		for _, to := range web {
			if from == to {
				continue
			}
			c := r.udp(from.name, to.ip+":7000", 500)
			if c.Answered != c.Sent {
				t.Errorf("%s to %s: %+v", from.node, to.node, c)
			}
			sent, answered = sent+c.Sent, answered+c.Answered
		}
	}
	t.Logf("%d of %d packets between pods were lost", sent-answered, sent)
	if answered != sent || sent != 3000 {
		t.Errorf("%d of %d packets were answered, want all of 3000", answered, sent)
	}
}

// service asks the Service: the service proxy chooses among the pods of both nodes.
func service(t *testing.T, r *rig, web []pod) {
	for _, from := range []pod{web[0], web[2]} {
		by := map[string]int{}
		if err := json.Unmarshal([]byte(r.Kubectl(t, "exec", from.name, "--", "/testpod", "http", serviceURL, "100")), &by); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, p := range web {
			total += by[p.name]
			if by[p.name] == 0 {
				t.Errorf("from %s: pod %s of the service answered nothing", from.node, p.name)
			}
		}
		if total != 100 {
			t.Errorf("from %s: of 100 requests pods of the service answered %d: %v", from.node, total, by)
		}
	}
}

const closed = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {closed: "yes"}}, policyTypes: [Egress, Ingress]}
`

// policyHolds starts pods that send from their first instruction on: those that policy closes get no answer.
func policyHolds(t *testing.T, r *rig, web []pod) {
	r.Apply(t, closed)
	nodes := []string{web[0].node, web[2].node, web[0].node, web[2].node}
	send := []string{"udp", web[0].ip + ":7000", "200", "2ms"}
	r.start("shut", `, closed: "yes"`, nodes, send...)
	r.start("open", "", nodes, send...)
	sum := func(name string) (c counts) {
		for _, p := range r.await("run="+name, len(nodes), "over", isOver) {
			one := r.result(p.name)
			c.Sent, c.Answered = c.Sent+one.Sent, c.Answered+one.Answered
		}
		return c
	}
	shut, open := sum("shut"), sum("open")
	t.Logf("answered: %d of %d packets of pods that policy closes, %d of %d of others", shut.Answered, shut.Sent, open.Answered, open.Sent)
	if shut.Answered != 0 || shut.Sent != 800 {
		t.Errorf("of pods that policy closes %d of %d packets were answered, want 0 of 800", shut.Answered, shut.Sent)
	}
	if open.Answered != open.Sent || open.Sent != 800 {
		t.Errorf("of other pods %d of %d packets were answered, want all of 800", open.Answered, open.Sent)
	}
	r.start("wall", `, closed: "yes"`, nodes[:1], "serve", ":7000")
	wall := r.await("run=wall", 1, "ready", isReady)[0]
	for _, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"closed", func() {}, 0},
		{"opened", func() { r.Kubectl(t, "delete", "networkpolicy", "closed") }, 100},
	} {
		step.do()
		testkit.Eventually(t, 10*time.Second, "a pod that policy "+step.what, func() bool {
			var c counts
			out := r.Kubectl(t, "exec", web[2].name, "--", "/testpod", "udp", wall.ip+":7000", "100", "1ms")
			if err := json.Unmarshal([]byte(out), &c); err != nil {
				t.Fatal(err)
			}
			if step.want == 0 && c.Answered > 0 {
				t.Errorf("a pod that policy closes answered %d of %d packets", c.Answered, c.Sent)
			}
			return c.Answered == step.want
		})
	}
}

// streamsCount is the control of the parts below: what a host drops for a moment is counted as lost.
func streamsCount(t *testing.T, r *rig, web []pod) {
	sent, lost := r.stream("control", web, func() {
		for _, args := range [][]string{{"add", "table", "ip", "lossy"}, {"add", "chain", "ip", "lossy", "in", "{ type filter hook prerouting priority -500; }"},
			{"add", "rule", "ip", "lossy", "in", "udp", "dport", "7000", "numgen", "inc", "mod", "4", "0", "drop"}} {
			if _, err := r.Machines[0].Try(t, append([]string{"nft"}, args...)...); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if _, err := r.Machines[0].Try(t, "nft", "delete", "table", "ip", "lossy"); err != nil {
			t.Fatal(err)
		}
	})
	if lost == 0 || lost > sent/2 {
		t.Errorf("a host dropped every fourth packet for a second, and %d of %d are said to be lost", lost, sent)
	}
}

// restart replaces the node service on every node under traffic.
func restart(t *testing.T, r *rig, web []pod) {
	before := weftPods(t, r)
	sent, lost := r.stream("restart", web, r.rollout)
	after := weftPods(t, r)
	for _, name := range strings.Fields(before) {
		if strings.Contains(after, name) {
			t.Errorf("pod %s was not replaced", name)
		}
	}
	if lost != 0 {
		t.Errorf("%d of %d packets were lost while the node service was replaced", lost, sent)
	}
}

// rollout replaces the node service on one node after the other, and waits until all are ready.
func (r *rig) rollout() {
	r.t.Helper()
	r.Kubectl(r.t, "-n", "kube-system", "rollout", "restart", "daemonset/weft-node")
	r.Kubectl(r.t, "-n", "kube-system", "rollout", "status", "daemonset/weft-node", "--timeout=120s")
}

func weftPods(t *testing.T, r *rig) string {
	t.Helper()
	out := r.Kubectl(t, "-n", "kube-system", "get", "pods", "-l", "k8s-app=weft-node", "-o", "jsonpath={.items[*].metadata.name}")
	if n := len(strings.Fields(out)); n != len(r.Machines) {
		t.Errorf("the node service runs in the pods %q, want %d", out, len(r.Machines))
	}
	return out
}
