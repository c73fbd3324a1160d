package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

const serviceURL = "http://10.96.7.7/"

// rig is a cluster with this project on two machines.
type rig struct {
	*kube.Whole
	t    *testing.T // that runs
	life *testing.T // what the cluster ends with
}

// pod is what a test has to know of one.
type pod struct {
	name, node, ip string
	ready          bool
	phase          string
}

// counts is what testpod prints.
type counts struct {
	Sent, Answered, Refused, Overflowed int
	LongestMS                           int64
}

func manifests(t *testing.T, path string) string {
	t.Helper()
	root, err := kube.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "manifests", path)
}

// install does what docs/kubernetes.md says, with an overlay, on two new machines whose service proxy has a mode.
func install(t *testing.T, w *kube.Whole, overlay, proxy string) *rig {
	t.Helper()
	images := []string{kube.Image(t, "weft"), kube.Image(t, "testpod")}
	r := &rig{w, t, t}
	for range 2 {
		r.AddMachine(t, proxy, images...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.tell()
		}
	})
	begin := time.Now()
	out, err := exec.Command(manifests(t, "../bin/weft"), "install", "--overlay", overlay, "--kubeconfig", r.Kubeconfig(t, kube.Admin, "")).CombinedOutput()
	if err != nil {
		t.Fatalf("weft install: %v: %s", err, out)
	}
	t.Logf("weft install took %v: %s", time.Since(begin).Round(10*time.Millisecond), out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:])
	r.AwaitNodes(t, 60*time.Second)
	t.Logf("nodes ready after %v", time.Since(begin).Round(10*time.Millisecond))
	return r
}

// tell writes what a failed test needs.
func (r *rig) tell() {
	for _, args := range [][]string{{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A"}, {"-n", "kube-system", "describe", "pods", "-l", "k8s-app=weft-node"},
		{"-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=60", "--prefix"}} {
		out, err := r.TryKubectl(r.t, "", args...)
		r.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, m := range r.Machines {
		for _, command := range []string{manifests(r.t, "../bin/weft") + " status", "ip rule", "ip route show table all", "nft list ruleset"} {
			out, err := m.Try(r.t, append([]string{"timeout", "10"}, strings.Fields(command)...)...)
			r.t.Logf("%s: %s: %v\n%s", m.Name, command, err, out)
		}
	}
	r.Logs(r.t)
}

// pods lists those of the namespace default with a label.
func (r *rig) pods(selector string) []pod {
	out, err := r.TryKubectl(r.t, "", "get", "pods", "-l", selector, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP} {.status.conditions[?(@.type=="Ready")].status} {.status.phase}{"\n"}{end}`)
	if err != nil {
		r.t.Log(err)
	}
	var all []pod
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(l, "\n"), " ")
		if len(f) == 5 {
			all = append(all, pod{f[0], f[1], f[2], f[3] == "True", f[4]})
		}
	}
	slices.SortFunc(all, func(a, b pod) int { return strings.Compare(a.node+a.name, b.node+b.name) })
	return all
}

// await waits until n pods with a label are what is says.
func (r *rig) await(selector string, n int, what string, is func(pod) bool) []pod {
	r.t.Helper()
	var all []pod
	testkit.Eventually(r.t, 30*time.Second, fmt.Sprintf("%d pods %s are %s", n, selector, what), func() bool {
		time.Sleep(100 * time.Millisecond)
		all = r.pods(selector)
		return len(all) == n && !slices.ContainsFunc(all, func(p pod) bool { return !is(p) })
	})
	return all
}

func isReady(p pod) bool { return p.ready }
func isOver(p pod) bool  { return p.phase == "Succeeded" }

// start makes pods that run testpod with arguments, one on each named node.
func (r *rig) start(name string, labels string, nodes []string, args ...string) {
	r.t.Helper()
	list, _ := json.Marshal(args)
	var text strings.Builder
	for i, n := range nodes {
		fmt.Fprintf(&text, `---
apiVersion: v1
kind: Pod
metadata: {name: %s-%d, labels: {run: %s%s}}
spec:
  nodeName: %s
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/testpod:1", imagePullPolicy: Never, args: %s}]
`, name, i, name, labels, n, list)
	}
	r.Apply(r.t, text.String())
}

// result is what a pod printed.
func (r *rig) result(name string) (c counts) {
	r.t.Helper()
	out := r.Kubectl(r.t, "logs", name)
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		r.t.Fatalf("pod %s printed %q: %v", name, out, err)
	}
	return c
}

// web makes the Deployment and returns its pods, two on each node.
func (r *rig) web() []pod {
	r.t.Helper()
	b, err := os.ReadFile("testdata/web.yaml")
	if err != nil {
		r.t.Fatal(err)
	}
	begin := time.Now()
	r.Apply(r.t, string(b))
	pods := r.await("app=web", 4, "ready", isReady)
	r.t.Logf("4 pods ready %v after kubectl apply", time.Since(begin).Round(10*time.Millisecond))
	r.tellADD()
	if pods[1].node == pods[2].node {
		r.t.Fatalf("pods are not on both nodes: %v", pods)
	}
	return pods
}

// tellADD writes what CNI ADD took of that.
func (r *rig) tellADD() {
	r.t.Helper()
	var took []time.Duration
	for _, l := range r.adds() {
		_, text, _ := strings.Cut(l, "took=")
		if d, err := time.ParseDuration(strings.TrimSpace(text)); err == nil {
			took = append(took, d.Round(time.Millisecond))
		}
	}
	r.t.Logf("CNI ADD of these took the node service %v", took)
}

// stream runs testpod on both nodes, each towards a pod of the other, while f runs; it returns what was sent and lost.
func (r *rig) stream(name string, web []pod, f func()) (sent, lost int) {
	r.t.Helper()
	ends := []struct{ from, to pod }{{web[0], web[2]}, {web[2], web[0]}}
	for i, e := range ends {
		r.start(fmt.Sprintf("%s%d", name, i), "", []string{e.from.node}, "udp", e.to.ip+":7000", "1000000", "5ms")
		r.await(fmt.Sprintf("run=%s%d", name, i), 1, "ready", isReady)
	}
	before := []int{r.overflows(ends[0].to), r.overflows(ends[1].to)}
	f()
	for i := range ends {
		run := fmt.Sprintf("%s%d", name, i)
		_, _ = r.TryKubectl(r.t, "", "exec", run+"-0", "--", "/testpod", "stop") // its own end may come first
		r.await("run="+run, 1, "over", isOver)
		c := r.result(run + "-0")
		// What came to a pod and found no room in its socket the network has not lost: the process was not given its turn.
		over := c.Overflowed + r.overflows(ends[i].to) - before[i]
		r.t.Logf("%s: %s to %s: %d sent, %d not answered, %d of them for want of room in sockets, %d refused; at most %d ms between answers",
			name, ends[i].from.node, ends[i].to.node, c.Sent, c.Sent-c.Answered, over, c.Refused, c.LongestMS)
		if c.Sent < 200 {
			r.t.Errorf("%s: only %d packets were sent", name, c.Sent)
		}
		sent, lost = sent+c.Sent, lost+c.Sent-c.Answered-over
	}
	return sent, lost
}

// overflows is how many packets have found no room in the sockets of a pod.
func (r *rig) overflows(p pod) (n int) {
	r.t.Helper()
	out := r.Kubectl(r.t, "exec", p.name, "--", "/testpod", "overflows")
	if err := json.Unmarshal([]byte(out), &n); err != nil {
		r.t.Fatalf("pod %s printed %q: %v", p.name, out, err)
	}
	return n
}
