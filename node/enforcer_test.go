package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
	"weft/policy"
)

// newTestEnforcer runs an enforcer over one driver that only remembers.
func newTestEnforcer(t *testing.T) (*enforcer, *kernelOf) {
	t.Helper()
	return newTestEnforcerWith(t, nil)
}

func newTestEnforcerWith(t *testing.T, ender connectionEnder) (*enforcer, *kernelOf) {
	t.Helper()
	k := &kernelOf{t: t, holds: map[string]uint64{}, fails: map[string]error{}, reports: map[string]error{}}
	log := slog.New(slog.DiscardHandler)
	b := newBackend("nftables", filepath.Join(t.TempDir(), policyFile), map[string]func() policyDriver{
		policyNFTables: func() policyDriver { return heldDriver{k, policyNFTables} }}, log)
	e := newEnforcer("n1", b, ender, newMetrics("test", func() int { return 0 }, func() map[string]int { return nil }), log, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the enforcer ended with %v", err)
		}
	})
	return e, k
}

func (e *enforcer) tell(t *testing.T, manifests string) {
	t.Helper()
	objects, err := v3.Decode([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	var changes []datastore.Change
	for _, o := range objects {
		v3.Default(o)
		changes = append(changes, datastore.Change{Key: datastore.KeyOf(o), Object: o})
	}
	e.OnChanges(changes)
}

const podRecord = `
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: c1, interfaceName: weft1, ipNetworks: [10.244.0.1/32], profiles: [kns.shop]}
`

func webPod() policies.Attachment {
	return policies.Attachment{ID: model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}, Container: "c1", Device: "weft1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.1")}}
}

// Before the store has told everything there is a barrier and nothing else; then the whole at once.
func TestEnforcerWaitsForTheStore(t *testing.T) {
	e, k := newTestEnforcer(t)
	e.Attach(webPod(), nil)
	e.tell(t, podRecord)
	if err := e.runner.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.running.Lock()
	for _, l := range k.log {
		if l != "nftables barrier" {
			t.Errorf("before the store is read: %q", l)
		}
	}
	e.running.Unlock()
	if err := e.ready(); err == nil {
		t.Error("ready before the store is read")
	}
	if _, ok := e.format(); ok {
		t.Error("there is a plan before the store is read")
	}
	e.OnState(datastore.StateInSync, nil)
	if err := e.runner.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.format(); ok || e.ready() == nil {
		t.Error("there is a plan, or it is ready, before the interfaces are known")
	}
	e.setLinks(nil)
	if err := e.Enforced(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, ok := e.format()
	if !ok || !strings.Contains(text, "pod shop/web/eth0 on weft1") {
		t.Errorf("the plan is\n%s", text)
	}
	st, problems := e.status()
	if st.Driver != "nftables" || st.Programmed != st.Generation || st.Pods != 1 || len(problems) > 0 {
		t.Errorf("status %+v, problems %v", st, problems)
	}
	if err := e.ready(); err != nil {
		t.Error(err)
	}
}

// A pod starts isolated when its policy cannot be programmed, and not at all when nothing closes it.
func TestEnforcedFailsClosed(t *testing.T) {
	e, k := newTestEnforcer(t)
	e.running.Lock()
	k.fails["nftables barrier"] = errors.New("no memory")
	e.running.Unlock()
	wait := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return e.Enforced(ctx)
	}
	e.setLinks(nil)
	e.OnState(datastore.StateInSync, nil)
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	e.running.Lock()
	for g := range uint64(10) {
		k.fails["nftables apply "+string('0'+byte(g))] = errors.New("no memory")
	}
	e.running.Unlock()
	e.Attach(webPod(), nil)
	e.tell(t, podRecord)
	if err := wait(); err != nil {
		t.Errorf("with a program of before in force, a pod does not start: %v", err)
	}
	if text, _ := e.lastError(); !strings.Contains(text, "no memory") {
		t.Errorf("the last error is %q", text)
	}
	e.mu.Lock()
	e.closed = false
	e.mu.Unlock()
	if err := wait(); err == nil {
		t.Error("a pod starts although nothing closes it")
	}
}

// What cannot be understood is told, and a pod without a record too.
func TestEnforcerProblems(t *testing.T) {
	e, _ := newTestEnforcer(t)
	e.Attach(webPod(), nil)
	e.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: v3.KindGlobalNetworkPolicy, Name: "g"}, Err: errors.New("no JSON")}})
	e.setLinks(nil)
	e.OnState(datastore.StateInSync, nil)
	if err := e.Enforced(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, problems := e.status()
	if got := strings.Join(problems, "\n"); !strings.Contains(got, "GlobalNetworkPolicy g is rejected") || !strings.Contains(got, "pod shop/web/eth0 is attached, but the store has no") {
		t.Errorf("problems: %v", problems)
	}
	e.Detach(webPod().ID)
	if err := e.Enforced(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, problems := e.status(); len(problems) != 1 {
		t.Errorf("problems after the pod is gone: %v", problems)
	}
}

// A rule that the kernel refuses delays no pod: all else is in force.
func TestEnforcedWithARefusedRule(t *testing.T) {
	e, k := newTestEnforcer(t)
	e.running.Lock()
	for g := range 20 {
		k.reports[fmt.Sprint("nftables apply ", g)] = errors.New("rule 1: the kernel refuses it, " + leftOut)
	}
	e.running.Unlock()
	e.setLinks(nil)
	e.OnState(datastore.StateInSync, nil)
	e.Attach(webPod(), nil)
	e.tell(t, podRecord)
	began := time.Now()
	if err := e.Enforced(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > enforcePatience/2 {
		t.Errorf("the pod waited %v", took)
	}
	st, _ := e.status()
	if st.Programmed != st.Generation || st.Generation == 0 || !strings.Contains(st.Error, "rule 1") {
		t.Errorf("status %+v", st)
	}
	e.running.Lock()
	defer e.running.Unlock()
	if len(e.waiting) > 0 {
		t.Errorf("%d changes are still waited for", len(e.waiting))
	}
}

// slowEnder takes long to end connections.
type slowEnder struct {
	cutting, free chan struct{}
	followed      atomic.Uint64
	err           error
}

func (s *slowEnder) Follow(u policy.Update) { s.followed.Store(u.Generation) }
func (s *slowEnder) Cut(ctx context.Context) error {
	if s.followed.Load() == 0 {
		return nil
	}
	select {
	case s.cutting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.free:
	case <-ctx.Done():
	}
	return s.err
}
func (s *slowEnder) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() }
func (s *slowEnder) Invalidate()                               {}
func (s *slowEnder) Close()                                    {}

// Whoever ends connections may take long: no change of policy and no pod waits for it. Its errors are told.
func TestNobodyWaitsForConnections(t *testing.T) {
	s := &slowEnder{cutting: make(chan struct{}), free: make(chan struct{}), err: errors.New("no table")}
	e, _ := newTestEnforcerWith(t, s)
	e.setLinks(nil)
	e.OnState(datastore.StateInSync, nil)
	<-s.cutting
	e.Attach(webPod(), nil)
	e.tell(t, podRecord)
	began := time.Now()
	if err := e.Enforced(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > enforcePatience/2 {
		t.Errorf("the pod waited %v", took)
	}
	if st, _ := e.status(); st.Programmed != st.Generation || st.Pods != 1 || s.followed.Load() != st.Generation {
		t.Errorf("status %+v; the ender was told of %d", st, s.followed.Load())
	}
	s.free <- struct{}{}
	<-s.cutting // again, since there was an error
	if text, _ := e.lastError(); !strings.Contains(text, "end connections that policy denies: no table") {
		t.Errorf("the last error is %q", text)
	}
}

// What the store tells before it has told everything comes in many pages: the driver is not asked for its barrier at each, which
// costs a look at all rules that an earlier process left. It is asked again once somebody else changed rules.
func TestEnforcerLooksOnceForTheBarrier(t *testing.T) {
	e, k := newTestEnforcer(t)
	barriers := func() (n int) {
		t.Helper()
		if err := e.runner.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.running.Lock()
		defer e.running.Unlock()
		return len(k.log)
	}
	for k.watches.Load() == 0 { // whose beginning is a kick
		barriers()
		time.Sleep(time.Millisecond)
	}
	before := barriers()
	for range 20 {
		e.tell(t, podRecord)
		barriers()
	}
	if after := barriers(); after != before {
		t.Errorf("20 pages cost %d looks for the barrier: %v", after-before, k.log)
	}
	before = barriers()
	e.kick()
	if after := barriers(); after != before+1 {
		t.Errorf("after a change by somebody else %d looks for the barrier, want 1", after-before)
	}
	before = barriers()
	e.runner.KickFull()
	if after := barriers(); after != before+1 {
		t.Errorf("%d looks for the barrier in a full run, want 1", after-before)
	}
}
