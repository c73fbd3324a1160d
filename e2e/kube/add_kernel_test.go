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

// maxADD is how long half of the ADDs may take in the node service where pods start one after the other, maxADDs where two
// start at once on each node, which share two processors with all of Kubernetes.
const maxADD, maxADDs = 100 * time.Millisecond, 300 * time.Millisecond

// What CNI ADD costs when kubelet asks for it: how long the node service takes, one pod at a time and two at once on each
// node, and what it asks of the API server.
func TestCostOfADD(t *testing.T) {
	if testing.Short() {
		t.Skip("measures 144 pods")
	}
	testkit.LeakCheck(t)
	r := install(t, kube.StartWhole(t), "vxlan", "nftables")
	const rounds, batches, each, alone = 3, 9, 4, 36 // a kubelet takes no more pods than one round has
	r.batch("warm", r.nodes(each)...)                // the nodes claim their first blocks, and containerd unpacks
	var asked []kube.Call
	empty := func() {
		r.Kubectl(t, "delete", "pods", "--all", "--grace-period=1", "--wait=true")
		r.settle()
	}
	empty()
	before, begin, from := len(r.adds()), time.Now(), len(r.Calls(t))
	for i := range alone {
		r.batch(fmt.Sprintf("alone%d", i), r.Machines[i%len(r.Machines)].Name)
	}
	asked = append(asked, r.Calls(t)[from:]...)
	one := r.tookADD(before, alone, "one at a time", begin)
	empty()
	before, begin = before+alone, time.Now()
	for round := range rounds {
		from := len(r.Calls(t))
		for i := range batches {
			r.batch(fmt.Sprintf("batch%d", round*batches+i), r.nodes(each)...)
		}
		asked = append(asked, r.Calls(t)[from:]...)
		if round < rounds-1 {
			empty()
		}
	}
	many := r.tookADD(before, rounds*batches*each, "two at once on each node", begin)
	r.tellCalls(asked, alone+rounds*batches*each)
	if one > testkit.Patient(maxADD) || many > testkit.Patient(maxADDs) {
		t.Errorf("half of the ADDs took more than %v one at a time, and %v two at once on each node, want at most %v and %v", one, many, maxADD, maxADDs)
	}
}

// nodes names so many nodes for pods, each machine's in turn.
func (r *rig) nodes(n int) (names []string) {
	for k := range n {
		names = append(names, r.Machines[k%len(r.Machines)].Name)
	}
	return names
}

// tookADD reads from the logs how long the ADDs since the first so many took, and returns their median.
func (r *rig) tookADD(since, want int, how string, begin time.Time) time.Duration {
	r.t.Helper()
	var took []time.Duration
	for _, l := range r.adds()[since:] {
		_, text, _ := strings.Cut(l, "took=")
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			r.t.Fatalf("%v in %q", err, l)
		}
		took = append(took, d)
		if i := len(took); i%20 == 0 {
			r.t.Logf("one of them: %s", strings.TrimSpace(l))
		}
	}
	if len(took) != want {
		r.t.Fatalf("%d ADDs are in the logs, want %d", len(took), want)
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)*percent+99)/100-1].Round(time.Millisecond) }
	loads, _ := os.ReadFile("/proc/loadavg")
	r.t.Logf("CNI ADD in the node service, %s: p50 %v, p99 %v, max %v (n=%d, in %v); load %.4s", how, at(50), at(99), at(100), len(took),
		time.Since(begin).Round(time.Second), loads)
	return took[(len(took)+1)/2-1]
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

// batch starts pods on the nodes that are named, and waits until they run.
func (r *rig) batch(name string, nodes ...string) {
	r.t.Helper()
	r.start(name, "", nodes, "serve", ":7000")
	r.await("run="+name, len(nodes), "ready", isReady)
}

// adds are the lines of the node services' logs about ADDs, the earliest first.
func (r *rig) adds() (out []string) {
	r.t.Helper()
	for l := range strings.Lines(r.Kubectl(r.t, "-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=-1")) {
		if strings.Contains(l, "command=ADD") {
			out = append(out, l)
		}
	}
	slices.Sort(out) // each begins with its time; kubectl tells one node's after the other's
	return out
}
