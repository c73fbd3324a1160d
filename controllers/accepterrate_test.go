package controllers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/node/datastore"
)

// What is to be said waits for its turn, the newest first; of what became unreadable, where no status of such can be
// written, and of what is gone nothing is left to be said.
func TestAccepterNext(t *testing.T) {
	store := startEtcd(t)
	a := newAccepter(Config{Store: store}, newMetrics("test"))
	change := func(name string) datastore.Change {
		p := policyNamed(name, "")
		return datastore.Change{Key: datastore.KeyOf(p), Object: p}
	}
	unreadable := func(name string) datastore.Change {
		c := change(name)
		return datastore.Change{Key: c.Key, Err: errors.New("it is odd"), Revision: "7"}
	}
	names := func(most int) (out []string) {
		for _, w := range a.next(most) {
			out = append(out, w.key.Name)
		}
		return out
	}
	a.OnChanges([]datastore.Change{change("a"), change("b"), change("c")})
	if got := names(9); got != nil {
		t.Errorf("before all is known %v are to be said", got)
	}
	a.OnState(datastore.StateInSync, nil)
	for _, step := range []struct {
		what    string
		changes []datastore.Change
		most    int
		want    string
	}{
		{"the newest first", nil, 1, "[c]"},
		{"one that comes meanwhile", []datastore.Change{change("d")}, 2, "[d b]"},
		{"the rest", nil, 9, "[a]"},
		{"all said", nil, 9, "[]"},
		{"readable", []datastore.Change{change("a")}, 9, "[a]"},
		{"readable, then unreadable", []datastore.Change{change("a"), unreadable("a")}, 9, "[]"},
		{"gone", []datastore.Change{change("b"), {Key: change("b").Key}}, 9, "[]"},
	} {
		a.OnChanges(step.changes)
		if got := fmt.Sprint(names(step.most)); got != step.want {
			t.Errorf("%s: %s are to be said, want %s", step.what, got, step.want)
		}
	}
	if _, there := a.seen[change("a").Key]; there || len(a.dirty) != 0 {
		t.Errorf("of what cannot be read something is kept: %v, %v", a.seen, a.dirty)
	}
}

// start has weft controllers tell for the first time what is honoured of so many policies on etcd. It returns how long that
// took, and what this process, etcd in it, used.
func start(t testing.TB, policies int, limit rate.Limit, meanwhile func(datastore.Store)) (took, used time.Duration, written float64) {
	t.Helper()
	store := startEtcd(t)
	for i := range policies {
		create(t, store, policyNamed(fmt.Sprintf("p%05d", i), "default"))
	}
	a := newAccepter(Config{Store: store}, newMetrics("test"))
	a.limit.SetLimit(limit)
	ctx, cancel := context.WithCancel(t.Context())
	begin, busy := time.Now(), testkit.ProcessorTime()
	ends := make(chan struct{}, 2)
	go func() { _ = a.follow(ctx, store); ends <- struct{}{} }()
	go func() { _ = a.runner.Run(ctx); ends <- struct{}{} }()
	defer func() { cancel(); <-ends; <-ends }()
	meanwhile(store)
	want := float64(policies)
	eventually(t, testkit.Patient(10*time.Minute), func() error {
		if written = (&acceptance{ctl: &controllers{metrics: a.metrics}}).written(); written < want {
			return fmt.Errorf("%v of %v conditions are written", written, want)
		}
		return nil
	})
	return time.Since(begin), testkit.ProcessorTime() - busy, written
}

// However many there are, they are told at accepterRate; what is new meanwhile need not wait for them. The control is told
// faster.
func TestAccepterRate(t *testing.T) {
	const policies = 6 * accepterRate
	var waited time.Duration
	took, _, written := start(t, policies, accepterRate, func(store datastore.Store) {
		begin, late := time.Now(), policyNamed("late", "default")
		time.Sleep(time.Second) // the others have begun
		create(t, store, late)
		(&acceptance{t: t, store: store}).says(datastore.KeyOf(late), metav1.ConditionTrue, v3.ReasonAccepted, "")
		waited = time.Since(begin) - time.Second
	})
	const least = (policies - accepterBurst) * time.Second / accepterRate
	t.Logf("%v conditions in %v; a new one after %v", written, took, waited)
	if took < least || waited > testkit.Patient(3*time.Second) {
		t.Errorf("%v conditions took %v, want %v or more; a new one %v, want 3 s at most", written, took, least, waited)
	}
	if testkit.Emulated() {
		return
	}
	if took, _, written := start(t, policies, rate.Inf, func(datastore.Store) {}); took > least {
		t.Errorf("control: without a limit %v conditions took %v: the limit is not what takes %v", written, took, least)
	}
}

// A first start of weft controllers with 10,000 policies.
func BenchmarkFirstAccepted(b *testing.B) {
	for name, limit := range map[string]rate.Limit{"limited": accepterRate, "unlimited": rate.Inf} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				took, used, written := start(b, 10_000, limit, func(datastore.Store) {})
				b.ReportMetric(took.Seconds(), "s")
				b.ReportMetric(used.Seconds(), "processor-s")
				b.ReportMetric(written, "writes")
			}
		})
	}
}
