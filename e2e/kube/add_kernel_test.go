package kube

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// maxADD is how long half of the ADDs may take in the node service, two pods at once on each node.
const maxADD = 100 * time.Millisecond

// What CNI ADD costs when kubelet asks for it: how long the node service takes, and what it asks of the API server.
func TestCostOfADD(t *testing.T) {
	if testing.Short() {
		t.Skip("measures 108 pods")
	}
	testkit.LeakCheck(t)
	r := install(t, kube.StartWhole(t), "vxlan", "nftables")
	const rounds, batches, each = 3, 9, 4 // a kubelet takes no more pods than one round has
	r.batch(0, each)                      // the nodes claim their first blocks, and containerd unpacks
	before, begin := len(r.adds()), time.Now()
	var asked []kube.Call
	for round := range rounds {
		from := len(r.Calls(t))
		for i := range batches {
			r.batch(1+round*batches+i, each)
		}
		asked = append(asked, r.Calls(t)[from:]...)
		if round < rounds-1 {
			r.Kubectl(t, "delete", "pods", "--all", "--grace-period=1", "--wait=true")
			r.settle()
		}
	}
	var took []time.Duration
	for _, l := range r.adds()[before:] {
		_, text, _ := strings.Cut(l, "took=")
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			t.Fatalf("%v in %q", err, l)
		}
		took = append(took, d)
		if i := len(took); i%20 == 0 {
			t.Logf("one of them: %s", strings.TrimSpace(l))
		}
	}
	if len(took) != rounds*batches*each {
		t.Fatalf("%d ADDs are in the logs, want %d", len(took), rounds*batches*each)
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)*percent+99)/100-1] }
	loads, _ := os.ReadFile("/proc/loadavg")
	t.Logf("CNI ADD in the node service: p50 %v, p99 %v, max %v (n=%d, two pods at once on each of two nodes, in %v); load %.4s", at(50).Round(time.Millisecond), at(99).Round(time.Millisecond),
		at(100).Round(time.Millisecond), len(took), time.Since(begin).Round(time.Second), loads)
	r.tellCalls(asked, len(took))
	if at(50) > testkit.Patient(maxADD) {
		t.Errorf("half of the ADDs took more than %v, want at most %v", at(50), maxADD)
	}
}

// maxCalls is how many requests an ADD may cost, beside its one look at the pod: kubelets repeat DELs of earlier pods
// meanwhile, which read too. Blocks that are claimed, once in 64 pods and node, are in it.
const maxCalls = 4.5

// tellCalls logs what was asked of the API server for so many ADDs.
func (r *rig) tellCalls(calls []kube.Call, adds int) {
	r.t.Helper()
	count, spent := map[string]int{}, map[string][]time.Duration{}
	total := 0
	for _, c := range calls {
		if c.Verb != "watch" {
			k := c.Verb + " " + c.Resource
			count[k]++
			spent[k] = append(spent[k], c.Took)
			if c.Verb != "get" {
				total++
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(count)) {
		slices.Sort(spent[k])
		r.t.Logf("%5d × %s, %.2f an ADD; in the API server p50 %v", count[k], k, float64(count[k])/float64(adds), spent[k][len(spent[k])/2].Round(100*time.Microsecond))
	}
	share := float64(total) / float64(adds)
	r.t.Logf("%.2f requests an ADD that are no reads of one object", share)
	if share > maxCalls || total < 3*adds {
		r.t.Errorf("%.2f requests an ADD (%d for %d), want 3 to %v", share, total, adds, maxCalls)
	}
}

// settle waits until the node services ask nothing any more: DEL goes on behind the answer to it.
func (r *rig) settle() {
	r.t.Helper()
	testkit.Eventually(r.t, 30*time.Second, "the node services come to rest", func() bool {
		before := len(r.Calls(r.t))
		time.Sleep(time.Second)
		return len(r.Calls(r.t)) == before
	})
}

// batch starts pods, half of them on each node, and waits until they run.
func (r *rig) batch(i, n int) {
	r.t.Helper()
	name := fmt.Sprintf("batch%d", i)
	var nodes []string
	for k := range n {
		nodes = append(nodes, r.Machines[k%len(r.Machines)].Name)
	}
	r.start(name, "", nodes, "serve", ":7000")
	r.await("run="+name, n, "ready", isReady)
}

// adds are the lines of the node services' logs about ADDs.
func (r *rig) adds() (out []string) {
	r.t.Helper()
	for l := range strings.Lines(r.Kubectl(r.t, "-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=-1")) {
		if strings.Contains(l, "command=ADD") {
			out = append(out, l)
		}
	}
	return out
}
