package controllers

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/node/accept"
	"weft/node/datastore"
)

// What is stored of a condition, decided: nothing where it is there, also of the same generation.
func TestNextAccepted(t *testing.T) {
	problem := []accept.Problem{{Reason: v3.ReasonNotFound, Message: "no tier"}}
	var s seen
	for i, step := range []struct {
		what       string
		generation int64
		problems   []accept.Problem
		changed    bool
		status     metav1.ConditionStatus
	}{
		{"new", 1, nil, true, metav1.ConditionTrue},
		{"again", 1, nil, false, metav1.ConditionTrue},
		{"a new generation", 2, nil, true, metav1.ConditionTrue},
		{"a problem", 2, problem, true, metav1.ConditionFalse},
		{"still", 2, problem, false, metav1.ConditionFalse},
		{"mended", 3, nil, true, metav1.ConditionTrue},
	} {
		s.generation = step.generation
		next, changed := nextAccepted(s, step.problems)
		c := meta.FindStatusCondition(next, v3.ConditionAccepted)
		if changed != step.changed || c == nil || c.Status != step.status || c.ObservedGeneration != step.generation {
			t.Errorf("step %d, %s: %v, %+v", i, step.what, changed, c)
		}
		s.conditions = next
	}
}

// counter is a node service's view: what it would act on.
type counter struct {
	mu        sync.Mutex
	unchanged datastore.Unchanged
	all, some map[datastore.Key]int
	synced    bool
}

func (c *counter) OnState(s datastore.State, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = s == datastore.StateInSync
}

func (c *counter) OnChanges(changes []datastore.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		c.all[ch.Key]++
	}
	for _, ch := range c.unchanged.Drop(changes) {
		c.some[ch.Key]++
	}
}

func (c *counter) of(k datastore.Key) (all, some int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[k], c.some[k]
}

// acceptance is a cluster in which weft controllers tell what is honoured.
type acceptance struct {
	t     *testing.T
	store datastore.Store // of people
	node  *counter
	ctl   *controllers
}

func newAcceptance(t *testing.T, people, ours datastore.Store) *acceptance {
	a := &acceptance{t: t, store: people, node: &counter{all: map[datastore.Key]int{}, some: map[datastore.Key]int{}}}
	a.ctl = newControllers(Config{Store: ours, Grace: time.Hour, Interval: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = a.ctl.election.run(ctx, a.ctl.act) })
	done.Go(func() {
		_ = datastore.Follow(ctx, people, []string{v3.KindNetworkPolicy, v3.KindFelixConfiguration, v3.KindBGPPeer}, a.node, datastore.FollowOptions{})
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return a
}

func (a *acceptance) says(k datastore.Key, status metav1.ConditionStatus, reason, message string) {
	a.t.Helper()
	eventually(a.t, testkit.Patient(20*time.Second), func() error {
		o, err := a.store.Get(context.Background(), k)
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(*v3.ConditionsOf(o), v3.ConditionAccepted)
		if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) || c.ObservedGeneration != o.GetGeneration() {
			return fmt.Errorf("%v of generation %d says %+v, want %s, %s, %q", k, o.GetGeneration(), c, status, reason, message)
		}
		return nil
	})
}

func (a *acceptance) update(k datastore.Key, change func(v3.Object)) {
	a.t.Helper()
	eventually(a.t, testkit.Patient(10*time.Second), func() error { // conditions are written meanwhile
		o, err := a.store.Get(context.Background(), k)
		if err != nil {
			return err
		}
		change(o)
		_, err = a.store.Update(context.Background(), o)
		return err
	})
}

func policyNamed(name, tier string) *v3.NetworkPolicy {
	p := newObject(v3.KindNetworkPolicy, name).(*v3.NetworkPolicy)
	p.Namespace, p.Spec.Tier, p.Spec.Selector = "default", tier, "all()"
	return p
}

// play is what both stores do alike: the condition follows resources and what they name, is written once for each change,
// outlives updates by people, and is no change to a node service.
func (a *acceptance) play(k datastore.Key) {
	t := a.t
	t.Helper()
	a.says(k, metav1.ConditionTrue, v3.ReasonAccepted, "")
	felix := newObject(v3.KindFelixConfiguration, "default").(*v3.FelixConfiguration)
	felix.Spec.BPFEnabled = new(true)
	create(t, a.store, felix)
	a.says(datastore.KeyOf(felix), metav1.ConditionFalse, v3.ReasonUnsupported, "spec.bpfEnabled=true")
	peer := newObject(v3.KindBGPPeer, "tor").(*v3.BGPPeer)
	peer.Spec.PeerIP, peer.Spec.ASNumber, peer.Spec.Filters = "192.0.2.1", 64513, []string{"late"}
	create(t, a.store, peer)
	a.says(datastore.KeyOf(peer), metav1.ConditionFalse, v3.ReasonNotFound, "there is no BGPFilter late")
	create(t, a.store, newObject(v3.KindBGPFilter, "late"))
	a.says(datastore.KeyOf(peer), metav1.ConditionTrue, v3.ReasonAccepted, "")

	a.update(k, func(o v3.Object) { o.(*v3.NetworkPolicy).Spec.Selector = "app == 'web'" })
	a.says(k, metav1.ConditionTrue, v3.ReasonAccepted, "")
	a.update(k, func(o v3.Object) {
		o.(*v3.NetworkPolicy).Spec.Ingress = []v3.Rule{{Action: v3.ActionAllow, HTTP: &v3.HTTPMatch{}}}
	})
	a.says(k, metav1.ConditionFalse, v3.ReasonUnsupported, "spec.ingress[0].http")
	eventually(t, testkit.Patient(10*time.Second), func() error {
		// Made, two changes of what it asks for, and three conditions.
		if all, some := a.node.of(k); all < 5 || some != 3 {
			return fmt.Errorf("of %d changes of %v a node acts on %d, want all of 5 or more and 3", all, k, some)
		}
		return nil
	})
	a.idle(k, datastore.KeyOf(felix), datastore.KeyOf(peer))
}

// idle has nothing written while nothing changes; and a change afterwards is noticed, so that something would be.
func (a *acceptance) idle(keys ...datastore.Key) {
	a.t.Helper()
	versions := func() string {
		var all []string
		for _, k := range keys {
			o, err := a.store.Get(context.Background(), k)
			if err != nil {
				a.t.Fatal(err)
			}
			all = append(all, o.GetResourceVersion())
		}
		return fmt.Sprint(all)
	}
	before, written := versions(), a.written()
	time.Sleep(3 * time.Second)
	if after := versions(); after != before || a.written() != written {
		a.t.Errorf("while nothing changed %v conditions were written, and versions went from %s to %s", a.written()-written, before, after)
	}
	a.update(keys[0], func(o v3.Object) { o.(*v3.NetworkPolicy).Spec.Ingress = nil })
	a.says(keys[0], metav1.ConditionTrue, v3.ReasonAccepted, "")
	if n := a.written() - written; n != 1 {
		a.t.Errorf("after one change %v conditions were written, want 1", n)
	}
}

func (a *acceptance) written() float64 { return testutil.ToFloat64(a.ctl.metrics.conditions) }

func TestAcceptedOnEtcd(t *testing.T) {
	store := startEtcd(t)
	p := policyNamed("web", "default")
	create(t, store, p)
	newAcceptance(t, store, store).play(datastore.KeyOf(p))
}

func TestAcceptedOnKubernetes(t *testing.T) {
	c := newKubeCluster(t)
	p := policyNamed("web", "default")
	create(t, c.store, p)
	a := newAcceptance(t, c.store, c.controllers)
	a.play(datastore.KeyOf(p))

	// What an API server takes alone: a policy whose tier is not there, one that only rules in Go refuse.
	post := func(path, kind, name string, spec map[string]any) {
		t.Helper()
		c.api.MustDo(t, http.MethodPost, groupPath+path, map[string]any{"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
			"status": map[string]any{"conditions": []any{}}})
	}
	const policies = "/namespaces/default/networkpolicies"
	post(policies, "NetworkPolicy", "front.a", map[string]any{"tier": "front", "selector": "all()"})
	c.says(policies+"/front.a", v3.ConditionAccepted, metav1.ConditionFalse, v3.ReasonNotFound, "there is no Tier front")
	post("/tiers", "Tier", "front", map[string]any{"order": 10})
	c.says(policies+"/front.a", v3.ConditionAccepted, metav1.ConditionTrue, v3.ReasonAccepted, "")
	post(policies, "NetworkPolicy", "odd", map[string]any{"selector": "app === web"})
	c.says(policies+"/odd", v3.ConditionAccepted, metav1.ConditionFalse, v3.ReasonInvalid, "spec.selector")
	c.says(policies+"/odd", v3.ConditionAccepted, metav1.ConditionFalse, v3.ReasonInvalid, "")
	if got := string(c.api.MustDo(t, http.MethodGet, groupPath+policies+"/odd", nil)); !strings.Contains(got, `"observedGeneration":1`) {
		t.Errorf("the condition says of no generation: %s", got)
	}
	before := string(c.api.MustDo(t, http.MethodGet, groupPath+policies+"/odd", nil))
	time.Sleep(2 * time.Second)
	if after := string(c.api.MustDo(t, http.MethodGet, groupPath+policies+"/odd", nil)); after != before {
		t.Errorf("what is not understood is written again and again: %s, then %s", before, after)
	}
	for path, kind := range map[string]string{"/globalnetworkpolicies": "GlobalNetworkPolicy", "/stagedglobalnetworkpolicies": "StagedGlobalNetworkPolicy",
		"/namespaces/default/stagednetworkpolicies": "StagedNetworkPolicy", "/namespaces/default/stagedkubernetesnetworkpolicies": "StagedKubernetesNetworkPolicy",
		"/profiles": "Profile", "/bgpconfigurations": "BGPConfiguration", "/kubecontrollersconfigurations": "KubeControllersConfiguration"} {
		post(path, kind, "default", map[string]any{})
		c.says(path+"/default", v3.ConditionAccepted, metav1.ConditionTrue, v3.ReasonAccepted, "")
	}
}

// The control: without telling conditions from all else a node would act on each.
func TestControlConditionsAreChanges(t *testing.T) {
	store := startEtcd(t)
	p := policyNamed("web", "default")
	create(t, store, p)
	a := newAcceptance(t, store, store)
	a.says(datastore.KeyOf(p), metav1.ConditionTrue, v3.ReasonAccepted, "")
	eventually(t, testkit.Patient(10*time.Second), func() error {
		if all, some := a.node.of(datastore.KeyOf(p)); all != 2 || some != 1 {
			return fmt.Errorf("%d changes came, of which %d ask for something; want 2 and 1", all, some)
		}
		return nil
	})
}
