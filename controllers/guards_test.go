package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/model"
	"weft/node/accept"
	"weft/node/datastore"
	"weft/node/ipam"
)

const groupPath = "/apis/projectcalico.org/v3"

// says waits until a condition of a resource, which need not be understood, has a status and a reason.
func (c *kubeCluster) says(path, condition string, status metav1.ConditionStatus, reason, message string) {
	c.t.Helper()
	var last string
	eventually(c.t, testkit.Patient(20*time.Second), func() error {
		last = string(c.api.MustDo(c.t, http.MethodGet, groupPath+path, nil))
		for _, part := range strings.Split(last, `{"last`)[1:] {
			if strings.Contains(part, `"type":"`+condition+`"`) && strings.Contains(part, `"status":"`+string(status)+`"`) && strings.Contains(part, `"reason":"`+reason+`"`) && strings.Contains(part, message) {
				return nil
			}
		}
		return fmt.Errorf("%s does not say %s=%s, %s, %q: %s", path, condition, status, reason, message, last)
	})
}

// A pool that is deleted while pods have addresses of it stays until they have not, and gives out none; a tier while
// policies are in it. What an API server takes although the rules refuse it is told so.
func TestDeletedWhileInUse(t *testing.T) {
	c := newKubeCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{Store: c.controllers, Grace: time.Hour, Interval: time.Hour}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c.says("/ippools/p", v3.PoolConditionAllocatable, metav1.ConditionTrue, v3.PoolReasonOK, "")
	c.says("/ippools/p", v3.ConditionAccepted, metav1.ConditionTrue, v3.ReasonAccepted, "")
	for _, tier := range v3.BuiltinTiers() {
		c.says("/tiers/"+tier.Name, v3.TierConditionReady, metav1.ConditionTrue, v3.ReasonAccepted, "")
	}
	post := func(path, kind, name string, spec map[string]any) {
		t.Helper()
		c.api.MustDo(t, http.MethodPost, groupPath+path, map[string]any{"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec})
	}
	post("/ippools", "IPPool", "second", map[string]any{"cidr": "10.0.0.0/24"})
	c.says("/ippools/second", v3.PoolConditionAllocatable, metav1.ConditionFalse, v3.PoolReasonCIDROverlap, "overlaps IPPool p")
	c.says("/ippools/second", v3.ConditionAccepted, metav1.ConditionFalse, v3.PoolReasonCIDROverlap, "overlaps IPPool p")
	post("/ippools", "IPPool", "odd", map[string]any{"cidr": "10.9.0.0/24", "nodeSelector": "app === web"})
	c.says("/ippools/odd", v3.ConditionAccepted, metav1.ConditionFalse, v3.ReasonInvalid, "nodeSelector")
	c.api.MustDo(t, http.MethodPatch, groupPath+"/ippools/odd", map[string]any{"spec": map[string]any{"nodeSelector": "all()"}})
	c.says("/ippools/odd", v3.ConditionAccepted, metav1.ConditionTrue, v3.ReasonAccepted, "")
	for _, name := range []string{"odd", "second"} { // nobody has an address of them
		c.api.MustDo(t, http.MethodDelete, groupPath+"/ippools/"+name, nil)
	}

	c.node("n1")
	c.cluster.pod("n1", "a", false)
	c.api.MustDo(t, http.MethodDelete, groupPath+"/ippools/p", nil)
	c.says("/ippools/p", v3.PoolConditionAllocatable, metav1.ConditionFalse, v3.PoolReasonTerminating, "pods have 1 of its addresses")
	c.says("/ippools/p", v3.ConditionAccepted, metav1.ConditionTrue, v3.ReasonAccepted, "")
	_, err := c.allocs["n1"].Assign(ctx, ipam.Request{HandleID: "weft.b", Namespace: "default", Pod: "b", Families: []model.Family{model.IPv4}})
	if err == nil || !strings.Contains(err.Error(), "being deleted") {
		t.Errorf("an address of a pool that is being deleted: %v", err)
	}
	absent := func(kind, name string) {
		t.Helper()
		eventually(t, testkit.Patient(20*time.Second), func() error {
			if _, err := c.store.Get(ctx, datastore.Key{Kind: kind, Name: name}); !errors.Is(err, datastore.ErrNotFound) {
				return fmt.Errorf("%s %s is there: %v", kind, name, err)
			}
			return nil
		})
	}
	if _, err := c.allocs["n1"].Release(ctx, "weft.a"); err != nil {
		t.Fatal(err)
	}
	absent(v3.KindIPPool, "p")
	absent(v3.KindIPPool, "second")

	post("/tiers", "Tier", "front", map[string]any{"order": 10})
	c.says("/tiers/front", v3.TierConditionReady, metav1.ConditionTrue, v3.ReasonAccepted, "")
	post("/globalnetworkpolicies", "GlobalNetworkPolicy", "front.x", map[string]any{"tier": "front", "selector": "all()"})
	c.api.MustDo(t, http.MethodDelete, groupPath+"/tiers/front", nil)
	c.says("/tiers/front", v3.TierConditionReady, metav1.ConditionFalse, v3.PoolReasonTerminating, "1 policies")
	c.api.MustDo(t, http.MethodDelete, groupPath+"/globalnetworkpolicies/front.x", nil)
	absent(v3.KindTier, "front")
}

// What is stored of a pool, decided.
func TestNextPool(t *testing.T) {
	now := time.Now()
	at := func(minutes int) metav1.Time { return metav1.NewTime(now.Add(time.Duration(minutes) * time.Minute)) }
	make := func(name, cidr string, minute int) *v3.IPPool {
		p := pool(name, cidr)
		p.CreationTimestamp = at(minute)
		return p
	}
	deleted := make("a", "10.0.0.0/24", -9)
	deleted.DeletionTimestamp, deleted.Finalizers = new(at(-1)), []string{PoolFinalizer, "other"}
	disabled := make("a", "10.0.0.0/24", -9)
	disabled.Spec.Disabled = true
	for _, tc := range []struct {
		what       string
		p, other   *v3.IPPool
		used       int
		finalizes  bool
		reason     string
		accepted   metav1.ConditionStatus
		finalizers []string
		later      bool
	}{
		{"alone", make("a", "10.0.0.0/24", 0), nil, 0, true, v3.PoolReasonOK, metav1.ConditionTrue, []string{PoolFinalizer}, false},
		{"without finalizers", make("a", "10.0.0.0/24", 0), nil, 0, false, v3.PoolReasonOK, metav1.ConditionTrue, nil, false},
		{"the first of two", make("a", "10.0.0.0/24", 0), make("b", "10.0.0.0/16", 1), 0, true, v3.PoolReasonOK, metav1.ConditionTrue, []string{PoolFinalizer}, false},
		{"the second", make("a", "10.0.0.0/24", 2), make("b", "10.0.0.0/16", 1), 0, true, v3.PoolReasonCIDROverlap, metav1.ConditionFalse, []string{PoolFinalizer}, false},
		{"of the same second, by name", make("c", "10.0.0.0/24", 1), make("b", "10.0.0.0/16", 1), 0, true, v3.PoolReasonCIDROverlap, metav1.ConditionFalse, []string{PoolFinalizer}, false},
		{"disabled", disabled, nil, 0, true, v3.PoolReasonDisabled, metav1.ConditionTrue, []string{PoolFinalizer}, false},
		{"deleted and used", deleted, nil, 3, true, v3.PoolReasonTerminating, metav1.ConditionTrue, []string{PoolFinalizer, "other"}, true},
		{"deleted", deleted, nil, 0, true, v3.PoolReasonTerminating, metav1.ConditionTrue, []string{"other"}, false},
	} {
		pools := map[string]*v3.IPPool{tc.p.Name: tc.p}
		if tc.other != nil {
			pools[tc.other.Name] = tc.other
		}
		o, later := nextPool(tc.p, pools, usage{addresses: map[string]int{"a": tc.used}}, tc.finalizes, now)
		next, ok := o.(*v3.IPPool)
		if !ok {
			t.Errorf("%s: nothing is to be stored", tc.what)
			continue
		}
		got, accepted := meta.FindStatusCondition(next.Status.Conditions, v3.PoolConditionAllocatable), meta.FindStatusCondition(next.Status.Conditions, v3.ConditionAccepted)
		if got == nil || got.Reason != tc.reason || (got.Status == metav1.ConditionTrue) != (tc.reason == v3.PoolReasonOK) || accepted == nil || accepted.Status != tc.accepted {
			t.Errorf("%s: %+v, want %s and accepted %s", tc.what, next.Status, tc.reason, tc.accepted)
		}
		if !slices.Equal(next.Finalizers, tc.finalizers) || (later != nil) != tc.later {
			t.Errorf("%s: finalizers %v, later %v; want %v, %v", tc.what, next.Finalizers, later, tc.finalizers, tc.later)
		}
		pools[next.Name] = next
		if again, _ := nextPool(next, pools, usage{addresses: map[string]int{"a": tc.used}}, tc.finalizes, now); again != nil {
			t.Errorf("%s: stored, it is to be changed again: %+v", tc.what, again)
		}
	}
}

// What is the matter is said of the version that was looked at, by who leads: of another version, or by another, nothing is.
func TestConditionsOfAnotherVersion(t *testing.T) {
	c := newKubeCluster(t)
	ctx, path := t.Context(), groupPath+"/ippools/odd"
	version := func(b []byte) string {
		t.Helper()
		var o metav1.PartialObjectMetadata
		if err := json.Unmarshal(b, &o); err != nil || o.ResourceVersion == "" {
			t.Fatal(string(b), err)
		}
		return o.ResourceVersion
	}
	key := datastore.Key{Kind: v3.KindIPPool, Name: "odd"}
	refused := func(version string) map[datastore.Key]datastore.Change {
		return map[datastore.Key]datastore.Change{key: {Key: key, Err: errors.New("it is odd"), Revision: version}}
	}
	says := func() bool {
		t.Helper()
		return strings.Contains(string(c.api.MustDo(t, http.MethodGet, path, nil)), "it is odd")
	}
	old := version(c.api.MustDo(t, http.MethodPost, groupPath+"/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "odd"}, "spec": map[string]any{"cidr": "10.9.0.0/24", "nodeSelector": "app === web"}}))
	now := version(c.api.MustDo(t, http.MethodPatch, path, map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}))
	if _, err := c.controllers.WriteConditions(ctx, key, old, nil); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("of an old version: %v, want a conflict", err)
	}
	leads := true
	g := newGuards(Config{Store: &fenced{c.controllers, func() bool { return leads }}})
	if err := g.refuse(ctx, refused(old)); err != nil || says() {
		t.Errorf("of an old version: %v; it was said: %v", err, says())
	}
	leads = false
	if err := g.refuse(ctx, refused(now)); !errors.Is(err, errNotLeading) || says() {
		t.Errorf("by who does not lead: %v; it was said: %v", err, says())
	}
	leads = true
	if err := g.refuse(ctx, refused(now)); err != nil || !says() {
		t.Errorf("%v; it was said: %v", err, says())
	}
}

// Who says what is the matter with what cannot be read leaves what others say of it; and says it once.
func TestConditionsOfOthersStay(t *testing.T) {
	c := newKubeCluster(t)
	path := groupPath + "/ippools/odd"
	c.api.MustDo(t, http.MethodPost, groupPath+"/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "odd"}, "spec": map[string]any{"cidr": "10.9.0.0/24", "nodeSelector": "app === web"}})
	other := func(kind string) map[string]any {
		return map[string]any{"type": kind, "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2020-01-02T03:04:05Z"}
	}
	c.api.MustDo(t, http.MethodPatch, path+"/status", map[string]any{"status": map[string]any{"conditions": []any{other(v3.PoolConditionAllocatable), other("example.com/Seen")}}})
	var pool v3.IPPool
	read := func() string {
		t.Helper()
		pool = v3.IPPool{}
		if err := json.Unmarshal(c.api.MustDo(t, http.MethodGet, path, nil), &pool); err != nil {
			t.Fatal(err)
		}
		var types []string
		for _, c := range pool.Status.Conditions {
			types = append(types, c.Type+"="+string(c.Status))
		}
		return strings.Join(types, " ")
	}
	have := read()
	if have != "Allocatable=True example.com/Seen=True" {
		t.Fatalf("the pool begins with %q", have)
	}
	for _, round := range []struct {
		why     string
		written bool
	}{{"it is odd", true}, {"it is odd", false}, {"it is odder", true}} {
		said := []metav1.Condition{accept.Condition(accept.Refused(errors.New(round.why)).Problems, 0)}
		written, err := c.controllers.WriteConditions(t.Context(), datastore.Key{Kind: v3.KindIPPool, Name: "odd"}, pool.ResourceVersion, said)
		have := read()
		accepted := meta.FindStatusCondition(pool.Status.Conditions, v3.ConditionAccepted)
		if err != nil || written != round.written || have != "Allocatable=True example.com/Seen=True Accepted=False" || !strings.Contains(accepted.Message, round.why) {
			t.Errorf("%s: written: %v, %v; it has %q: %+v", round.why, written, err, have, pool.Status.Conditions)
		}
	}
}
