package kube

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// outage is for how long the API server is away.
func outage() time.Duration {
	if testing.Short() {
		return 35 * time.Second
	}
	return time.Minute
}

// apiAway takes the API server away, under traffic: killed, and stopped so that its connections stay.
func apiAway(t *testing.T, r *rig, web []pod) {
	r.start("wall2", `, walled: "yes"`, []string{web[2].node}, "serve", ":7000")
	wall := r.await("run=wall2", 1, "ready", isReady)[0]
	for _, fault := range []struct {
		name string
		away func() (back func())
	}{
		{"killed", func() func() {
			r.StopAPI()
			return func() {
				if err := r.StartAPI(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"stopped", func() func() { return r.PauseAPI(t) }},
	} {
		sent, lost := r.stream("api-"+fault.name, web, func() {
			back := fault.away()
			begin := time.Now()
			r.Machines[1].KillSandbox(t, web[3].name)
			time.Sleep(time.Until(begin.Add(outage())))
			back()
			r.changesArrive(fault.name, time.Now(), web, wall)
		})
		// A kubelet hears that its node is said to be away once it lists nodes again: up to a minute after it failed to
		// (client-go's Reflector waits 30 to 60 s in the end), and then tells within 10 s that it is not.
		r.AwaitNodes(t, 2*time.Minute)
		if want := int(outage().Milliseconds() / 5 * 2 / 4); sent < want {
			t.Errorf("%s: only %d packets were sent, want at least %d", fault.name, sent, want)
		}
		if lost != 0 {
			t.Errorf("%s: %d of %d packets were lost while the API server was away", fault.name, lost, sent)
		}
	}
}

// changesArrive makes changes once the API server is back, and measures when they are there.
func (r *rig) changesArrive(name string, back time.Time, web []pod, wall pod) {
	r.t.Helper()
	// It would try again up to a minute later by itself.
	r.Machines[1].Kill(r.t, "kubelet")
	limit := testkit.Patient(5 * time.Second)
	reaches := func() bool { return r.pings(0, web[0].ip, wall.ip) }
	if !reaches() {
		r.t.Errorf("%s: the pod that is to be closed does not answer before", name)
	}
	const policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
	r.MustDo(r.t, http.MethodPost, policies, map[string]any{"metadata": map[string]any{"name": "walled"},
		"spec": map[string]any{"podSelector": map[string]any{"matchLabels": map[string]any{"walled": "yes"}}, "policyTypes": []string{"Ingress"}}})
	r.start("late-"+name, "", []string{web[2].node}, "serve", ":7000")
	testkit.Eventually(r.t, 60*time.Second, "the policy holds", func() bool { return !reaches() })
	policy := time.Since(back)
	r.await("run=late-"+name, 1, "ready", isReady)
	pod := time.Since(back)
	r.await("app=web", 4, "ready", isReady)
	r.attachesAgain(name, back)
	r.MustDo(r.t, http.MethodDelete, policies+"/walled", nil)
	testkit.Eventually(r.t, 10*time.Second, "without the policy it answers", reaches)
	r.t.Logf("%s: after the API server was back a new policy held after %v, a new pod was ready after %v", name, policy.Round(10*time.Millisecond),
		pod.Round(10*time.Millisecond))
	if policy > limit {
		r.t.Errorf("%s: a new policy held %v after the API server was back, want %v at most", name, policy, limit)
	}
	if pod > 2*limit { // the kubelet starts first
		r.t.Errorf("%s: a new pod was ready %v after the API server was back, want %v at most", name, pod, 2*limit)
	}
}

// attachesAgain looks at what the second node's service says of CNI ADD: it has to succeed once the API server is back.
func (r *rig) attachesAgain(name string, back time.Time) {
	r.t.Helper()
	before, after, failed := 0, 0, 0
	out := r.Kubectl(r.t, "-n", "kube-system", "logs", "-l", "k8s-app=weft-node", "--tail=-1", "--since-time="+back.Add(-outage()).UTC().Format(time.RFC3339))
	for l := range strings.Lines(out) {
		if !strings.Contains(l, "command=ADD") {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(strings.Fields(l)[0], "time="))
		switch bad := strings.Contains(l, "a call failed"); {
		case err != nil:
			r.t.Errorf("log line without a time: %s", l)
		case bad && at.After(back.Add(testkit.Patient(5*time.Second))):
			failed++
			r.t.Log(l)
		case bad:
			before++
		case at.After(back):
			after++
		}
	}
	r.t.Logf("%s: CNI ADD failed %d times while the API server was away, succeeded %d times and failed %d times after", name, before, after, failed)
	if before == 0 || after < 2 || failed > 0 {
		r.t.Errorf("%s: want failures while it is away, since nobody says what a pod is, and two pods attached after", name)
	}
}

// pings sends one packet from a pod of a machine and tells whether it was answered.
func (r *rig) pings(machine int, from, to string) bool {
	_, err := r.Machines[machine].Try(r.t, "bash", "-c", fmt.Sprintf(
		`for n in /run/netns/*; do if nsenter --net=$n ip -o address | grep -qF ' %s/'; then exec nsenter --net=$n ping -c1 -W0.3 %s; fi; done; exit 9`, from, to))
	return err == nil
}

// runtimeRestarts kills container runtime, kubelet and node service of one machine after the other, under traffic: pods
// go on as they are.
func runtimeRestarts(t *testing.T, r *rig, web []pod) {
	sent, lost := r.stream("runtime", web, func() {
		for i, m := range r.Machines {
			before := r.containers("-n", "kube-system", "-l", "k8s-app=weft-node", "--field-selector=spec.nodeName="+m.Name)
			begin := time.Now()
			if a, b, c := m.Kill(t, "containerd"), m.Kill(t, "kubelet"), m.Kill(t, "weft", "node"); a != 1 || b != 1 || c != 1 {
				t.Fatalf("on %s %d containerd, %d kubelet, %d node services were killed, want one of each", m.Name, a, b, c)
			}
			r.awaitNew(before, "-n", "kube-system", "-l", "k8s-app=weft-node", "--field-selector=spec.nodeName="+m.Name)
			service := time.Since(begin)
			r.start(fmt.Sprintf("again%d", i), "", []string{m.Name}, "serve", ":7000")
			r.await(fmt.Sprintf("run=again%d", i), 1, "ready", isReady)
			t.Logf("%s: containerd, kubelet and node service killed: the node service is ready again after %v, a new pod after %v", m.Name,
				service.Round(10*time.Millisecond), time.Since(begin).Round(10*time.Millisecond))
		}
	})
	if lost != 0 {
		t.Errorf("%d of %d packets were lost while runtimes, kubelets and node services were killed", lost, sent)
	}
	if now := r.pods("app=web"); !slices.Equal(now, web) {
		t.Errorf("the pods are %v, want them as they were: %v", now, web)
	}
	r.ipamClean()
}

// reboot cuts the power of a machine and boots it again; the two others meanwhile talk to each other.
func reboot(t *testing.T, r *rig, web []pod) {
	r.ipamClean()
	r.AddMachine(r.life, "nftables", kube.Image(t, "weft"), kube.Image(t, "testpod"))
	r.AwaitNodes(t, 60*time.Second)
	m := r.Machines[1]
	r.start("third", "", []string{r.Machines[2].Name}, "serve", ":7000")
	third := r.await("run=third", 1, "ready", isReady)[0]
	here := "--field-selector=spec.nodeName=" + m.Name
	ours := []string{"-n", "kube-system", "-l", "k8s-app in (weft-node, weft-keeper)", here}
	service, pods := r.containers(ours...), r.containers("-l", "app=web", here)
	if len(pods) != 2 || len(service) != 2 {
		t.Fatalf("on %s are %v and %v, want node service and keeper, and two pods", m.Name, service, pods)
	}
	sent, lost := r.stream("reboot", []pod{web[0], web[1], third}, func() {
		m.Off(t)
		begin := time.Now()
		m.On()
		r.awaitNew(service, ours...)
		node := time.Since(begin)
		r.awaitNew(pods, "-l", "app=web", here)
		t.Logf("%s booted: the node service is ready after %v, the pods that it had after %v", m.Name, node.Round(10*time.Millisecond),
			time.Since(begin).Round(10*time.Millisecond))
	})
	if lost != 0 {
		t.Errorf("%d of %d packets between other nodes were lost while %s booted", lost, sent, m.Name)
	}
	r.AwaitNodes(t, 60*time.Second)
	now := r.await("app=web", 4, "ready", isReady)
	addresses := map[string]bool{}
	for _, p := range now {
		addresses[p.ip] = true
	}
	if len(addresses) != 4 {
		t.Errorf("4 pods have %d addresses: %v", len(addresses), now)
	}
	carry(t, r, now)
	r.ipamClean()
}

// ipamClean fails when an address is held that nobody has, or the other way round.
func (r *rig) ipamClean() {
	r.t.Helper()
	var out []byte
	var err error
	config := r.Kubeconfig(r.t, kube.Admin, "")
	testkit.Eventually(r.t, 20*time.Second, "weft ipam check finds nothing", func() bool {
		out, err = exec.Command(manifests(r.t, "../bin/weft"), "ipam", "check", "--kubeconfig", config).CombinedOutput()
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			r.t.Logf("weft ipam check: %v\n%s", err, out)
		}
		return err == nil
	})
	r.t.Logf("weft ipam check: %s", strings.TrimSpace(string(out)))
}

// containers returns the first container of each pod that kubectl get selects, empty while it is not ready.
func (r *rig) containers(selects ...string) map[string]string {
	out, err := r.TryKubectl(r.t, "", append([]string{"get", "pods", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].containerID}{"\n"}{end}`}, selects...)...)
	if err != nil {
		r.t.Log(err)
		return nil
	}
	all := map[string]string{}
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(l, "\n"), " ")
		if all[f[0]] = ""; len(f) == 3 && f[1] == "True" {
			all[f[0]] = f[2]
		}
	}
	return all
}

// awaitNew waits until the pods are ready in other containers than before.
func (r *rig) awaitNew(before map[string]string, selects ...string) {
	r.t.Helper()
	testkit.Eventually(r.t, 120*time.Second, fmt.Sprintf("pods %v are ready again", before), func() bool {
		time.Sleep(100 * time.Millisecond)
		now := r.containers(selects...)
		for name, old := range before {
			if now[name] == "" || now[name] == old {
				return false
			}
		}
		return true
	})
}
