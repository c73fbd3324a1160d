package kubescale

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/internal/kernel"
	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
	"weft/node/status"
)

// What is asked of the node service.
const (
	maxResident = 250 << 20        // bytes, also while it starts
	maxStart    = 15 * time.Second // from the start of the process to a kernel that has everything
	maxChange   = 20 * time.Millisecond
	maxIdle     = 0.002 // of a core
	idleTime    = 60 * time.Second
	changes     = 100
	churnRate   = 200 // patches of pods a second
)

// rig is the cluster and the host.
type rig struct {
	*testkube.Whole
	world  *world
	agent  *agent
	ns     testkit.NS
	http   *http.Client
	listen *listener
}

// TestKubernetesScale: see the package.
func TestKubernetesScale(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 70,000 objects")
	}
	testkit.LeakCheck(t)
	r := newRig(t)
	r.agent.stop(t)
	begin := time.Now()
	r.world.after(t, r.Cluster)
	t.Logf("%d nodes and %d pods written within %v, load %s", nodes, pods, time.Since(begin).Round(time.Millisecond), load())
	r.settle(t)
	r.restart(t)
	r.changes(t, "nothing else changes", 0)
	r.changes(t, fmt.Sprintf("%d labels of pods a second change", churnRate), churnRate)
	r.await(t, 30*time.Second)
	r.idle(t)
	r.heartbeats(t)
}

// newRig starts the API server, a host with pods in a small cluster, and all that these need.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Whole: testkube.StartHosts(t)}
	r.Install(t)
	pem, err := os.ReadFile(r.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	r.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 64}}
	t.Cleanup(r.http.CloseIdleConnections)
	r.MustDo(t, http.MethodPost, "/apis/projectcalico.org/v3/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "pods"}, "spec": map[string]any{"cidr": "10.128.0.0/9", "vxlanMode": "Always"}})
	ns, address := r.AddHost(t, 0)
	r.MustDo(t, http.MethodPost, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": self, "labels": map[string]any{"rack": "1", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}}})
	r.MustDo(t, http.MethodPatch, "/api/v1/nodes/"+self+"/status", map[string]any{"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": address.String()}}}})
	r.ns, r.world = ns, &world{fill: r.NewFiller(t), begun: now()}
	r.world.before(t)
	r.agent = newAgent(t, ns, "--node-name", self, "--datastore", "kubernetes", "--kubeconfig", r.Kubeconfig(t, testkube.Node, ""), "--health-listen=", "--bgp=false")
	r.agent.start(t)
	testkit.Eventually(t, 30*time.Second, "the node service is ready", func() bool {
		st, err := status.Fetch(t.Context(), r.agent.runDir())
		return err == nil && st.Ready
	})
	for i := range r.world.local {
		r.world.local[i].address = netip.MustParseAddr(r.agent.attach(t, nsName(i), localName(i)))
	}
	return r
}

// await waits until the kernel has all routes and all sets, and returns how long that took from begin on.
func (r *rig) await(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	h, err := kernel.OpenAt(r.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	begin, why := time.Now(), ""
	var seen time.Duration // when what is looked at took place
	defer func() {
		if why != "" {
			t.Logf("missing: %s", why)
		}
	}()
	testkit.Eventually(t, limit, "the kernel has all of the cluster", func() bool {
		seen = time.Since(begin)
		if why = r.missing(t, h); why != "" {
			time.Sleep(50 * time.Millisecond) // a look costs the kernel some milliseconds
		}
		return why == ""
	})
	return seen
}

// missing says what the kernel has not; empty: nothing.
func (r *rig) missing(t *testing.T, h *kernel.Handle) string {
	have, err := kernel.RouteTable(h).List(t.Context())
	if err != nil {
		return err.Error()
	}
	there := map[netip.Prefix]bool{}
	for k := range have {
		there[k.Dst] = true
	}
	absent := 0
	for i := 1; i < nodes; i++ {
		if !there[block(i)] {
			absent++
		}
	}
	for _, p := range r.world.local {
		if !there[netip.PrefixFrom(p.address, 32)] {
			absent++
		}
	}
	if absent > 0 {
		return fmt.Sprintf("%d of %d routes", absent, nodes-1+len(r.world.local))
	}
	st, err := status.Fetch(t.Context(), r.agent.runDir())
	if err != nil || st.Policy.Programmed == 0 || st.Policy.Pods != len(r.world.local) {
		return fmt.Sprintf("policy of %d of %d pods (%v)", st.Policy.Pods, len(r.world.local), err)
	}
	return r.missingSets(t)
}

// missingSets compares the sets that policies need with those that the kernel has, by their members.
func (r *rig) missingSets(t *testing.T) string {
	out, err := testkit.Try(t, r.ns, "nft", "-j", "list", "sets", "inet")
	if err != nil {
		return err.Error()
	}
	var list struct {
		Nftables []struct{ Set struct{ Elem []any } }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err.Error()
	}
	there := map[string]bool{}
	for _, o := range list.Nftables {
		var members []netip.Addr
		for _, e := range o.Set.Elem {
			if text, ok := e.(string); ok {
				if a, err := netip.ParseAddr(text); err == nil {
					members = append(members, a)
				}
			}
		}
		there[setKey(members)] = true
	}
	wanted := r.world.sets()
	absent := 0
	for _, s := range wanted {
		if !there[setKey(s)] {
			absent++
		}
	}
	if absent > 0 {
		return fmt.Sprintf("%d of %d sets of addresses", absent, len(wanted))
	}
	return ""
}

func setKey(members []netip.Addr) string {
	slices.SortFunc(members, netip.Addr.Compare)
	return fmt.Sprint(len(members), members)
}

// settle waits until the API server knows what was written behind its back.
func (r *rig) settle(t *testing.T) {
	t.Helper()
	took := testkit.Eventually(t, 2*time.Minute, "the API server has all pods", func() bool {
		time.Sleep(100 * time.Millisecond)
		var l struct {
			Metadata struct{ ResourceVersion string }
			Items    []struct{}
		}
		b, err := r.Do(t.Context(), testkube.Admin, http.MethodGet, fmt.Sprintf("/api/v1/namespaces/%s/pods?resourceVersion=0&limit=1000", nsName(r.world.far[len(r.world.far)-1].namespace)), nil)
		return err == nil && json.Unmarshal(b, &l) == nil && len(l.Items) >= pods/namespaces
	})
	t.Logf("the API server has them %v later", took.Round(time.Millisecond))
}

// restart has the node service begin anew on a host of which the kernel has nothing but the pods' links.
func (r *rig) restart(t *testing.T) {
	t.Helper()
	h, err := kernel.OpenAt(r.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	table := kernel.RouteTable(h)
	have, err := table.List(t.Context())
	for k, v := range have {
		err = errors.Join(err, table.Delete(t.Context(), k, v))
	}
	if err := errors.Join(err, h.LinkDelete(t.Context(), kernel.VXLANDevice)); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, r.ns, "nft", "flush", "ruleset")
	if absent := r.missing(t, h); !strings.HasSuffix(absent, " routes") {
		t.Fatalf("with nothing in the kernel what is missing is %q", absent)
	}
	if absent := r.missingSets(t); absent == "" {
		t.Fatal("with nothing in the kernel no set is missing")
	}
	asked := len(r.Calls(t))
	limit, before := testkit.Patient(maxStart), load()
	r.agent.start(t)
	profiled := make(chan struct{})
	go func() { defer close(profiled); r.agent.keep(t, "cpu-start", "profile?seconds=15") }()
	took := r.await(t, 4*maxStart)
	<-profiled
	r.agent.keep(t, "heap-started", "heap")
	used, mem := r.agent.cpu(t), r.agent.memory(t)
	t.Logf("from the start of the process to %d routes and %d sets in the kernel: %v, %v of processor time; load %s to %s", nodes-1+len(r.world.local), len(r.world.sets()), took.Round(10*time.Millisecond), used, before, load())
	t.Logf("the node service then: %v, %d goroutines", mem, r.agent.goroutines(t))
	r.tellCalls(t, "asked of the API server at the start", r.Calls(t)[asked:])
	if took > limit && used > maxStart {
		t.Errorf("converged %v after its start, %v of processor time, want at most %v", took, used, maxStart)
	}
	if mem.peak > maxResident {
		t.Errorf("at the start it had %d MiB, want at most %d", mem.peak>>20, maxResident>>20)
	}
}

// tellCalls logs requests, counted by verb and resource, and returns the counts by verb.
func (r *rig) tellCalls(t *testing.T, what string, calls []testkube.Call) map[string]int {
	t.Helper()
	verbs, each := map[string]int{}, map[string]int{}
	for _, c := range calls {
		verbs[c.Verb]++
		each[fmt.Sprintf("%s %s %d", c.Verb, c.Resource, c.Code)]++
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(each)) {
		parts = append(parts, fmt.Sprintf("%d× %s", each[k], k))
	}
	t.Logf("%s: %d requests: %s", what, len(calls), strings.Join(parts, ", "))
	return verbs
}

// changes changes a port in policies of this host's pods, one at a time, and measures from before the write to the kernel.
// Meanwhile labels of other nodes' pods change, rate a second.
func (r *rig) changes(t *testing.T, what string, rate int) {
	t.Helper()
	if r.listen == nil {
		r.listen = listen(t, r.ns)
	}
	stop := make(chan struct{})
	g, patched := &errgroup.Group{}, 0
	if rate > 0 {
		g.Go(func() (err error) { patched, err = r.churn(rate, stop); return err })
	}
	before, begin := load(), time.Now()
	cpu, messages := r.agent.cpu(t), r.messages()
	var took []time.Duration
	for i := range changes {
		port := 0xb000 + i + 1000*min(rate, 1)
		r.listen.expect(port)
		start := time.Now()
		if err := r.do(http.MethodPatch, fmt.Sprintf("/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies/shop", nsName(i%podsANode)), "application/json-patch+json",
			fmt.Sprintf(`[{"op":"replace","path":"/spec/ingress/0/ports/0/port","value":%d}]`, port)); err != nil {
			t.Fatal(err)
		}
		select {
		case at := <-r.listen.heard:
			took = append(took, at.Sub(start))
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the kernel did not have a policy within 30 s of its change", what)
		}
		time.Sleep(20 * time.Millisecond) // so that changes are one at a time
	}
	lasted := time.Since(begin)
	close(stop)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	cpu, messages = r.agent.cpu(t)-cpu, r.messages()-messages
	t.Logf("a policy, from before its write to the API server to the kernel, while %s: %s; load %s to %s", what, quantiles(took), before, load())
	t.Logf("meanwhile, in %v: %d pods patched (%.0f a second), %v of processor time (%.1f %% of a core), %d messages of nftables; %v", lasted.Round(time.Millisecond), patched, float64(patched)/lasted.Seconds(), cpu,
		100*cpu.Seconds()/lasted.Seconds(), messages, r.agent.memory(t))
	if p50 := at(took, 50); p50 > testkit.Patient(maxChange) && rate == 0 {
		t.Errorf("half of the changes took more than %v, want at most %v", p50, maxChange)
	}
	if m := r.agent.memory(t); m.peak > maxResident {
		t.Errorf("it had %d MiB, want at most %d", m.peak>>20, maxResident>>20)
	}
}

func (r *rig) messages() int { n, _ := r.listen.counts(); return n }

// churn patches a label of pods of other nodes at a rate, until stop; the world follows.
func (r *rig) churn(rate int, stop <-chan struct{}) (patched int, err error) {
	g := &errgroup.Group{}
	g.SetLimit(16)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for ; ; patched++ {
		select {
		case <-stop:
			return patched, g.Wait()
		case <-tick.C:
		}
		i := patched * 7919 % len(r.world.far)
		p := &r.world.far[i]
		p.tier = tiers[(slices.Index(tiers, p.tier)+1)%len(tiers)]
		path, body := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s", nsName(p.namespace), podName(i+podsANode)), fmt.Sprintf(`{"metadata":{"labels":{"tier":%q}}}`, p.tier)
		g.Go(func() error { return r.do(http.MethodPatch, path, "application/merge-patch+json", body) })
	}
}

// do makes a request as the administrator, on a connection that stays.
func (r *rig) do(method, path, contentType, body string) error {
	req, err := http.NewRequest(method, r.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.Token(testkube.Admin))
	req.Header.Set("Content-Type", contentType)
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, out)
	}
	return err
}

// idle watches the node service while nothing changes.
func (r *rig) idle(t *testing.T) {
	t.Helper()
	r.quiet(t, "nothing changes", idleTime, func() {
		time.Sleep(idleTime)
	})
}

// heartbeats watches it while all nodes' kubelets report their status as they do every five minutes.
func (r *rig) heartbeats(t *testing.T) {
	t.Helper()
	const reports, each = 500, 5 * time.Minute / nodes
	r.quiet(t, fmt.Sprintf("Kubernetes' Nodes report their status every %v", each), reports*each, func() {
		tick := time.NewTicker(each)
		defer tick.Stop()
		for i := range reports {
			<-tick.C
			if err := r.do(http.MethodPatch, "/api/v1/nodes/"+nodeName(1+i*7%(nodes-1))+"/status", "application/strategic-merge-patch+json",
				fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","lastHeartbeatTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func (r *rig) quiet(t *testing.T, what string, about time.Duration, f func()) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, "the node service comes to rest", func() bool {
		was := r.agent.cpu(t)
		time.Sleep(time.Second)
		return r.agent.cpu(t)-was <= 10*time.Millisecond
	})
	cpu, asked, begin, messages := r.agent.cpu(t), len(r.Calls(t)), time.Now(), r.messages()
	f()
	lasted := time.Since(begin)
	share := (r.agent.cpu(t) - cpu).Seconds() / lasted.Seconds()
	t.Logf("while %s for %v: %.2f %% of a core, %d goroutines, %d messages of nftables; %v; load %s", what, lasted.Round(time.Millisecond), 100*share, r.agent.goroutines(t), r.messages()-messages, r.agent.memory(t), load())
	verbs := r.tellCalls(t, "asked of the API server meanwhile", r.Calls(t)[asked:])
	for verb, n := range verbs {
		if verb != "watch" {
			t.Errorf("while %s the API server was asked %d times to %s, want watches only", what, n, verb)
		}
	}
	if share > maxIdle {
		t.Errorf("while %s it used %.2f %% of a core, want at most %.2f %%", what, 100*share, 100*maxIdle)
	}
}

// at is a percentile by rank.
func at(times []time.Duration, percent int) time.Duration {
	sorted := slices.SortedFunc(slices.Values(times), cmp.Compare)
	return sorted[(len(sorted)*percent+99)/100-1]
}

func quantiles(times []time.Duration) string {
	ms := func(percent int) float64 { return float64(at(times, percent).Microseconds()) / 1000 }
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, max %.1f ms (n=%d)", ms(50), ms(99), ms(100), len(times))
}
