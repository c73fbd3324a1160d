package nftables

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/internal/testkit"
	"weft/policy"
	"weft/policy/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDriver(t testing.TB, ns testkit.NS) *Driver {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.NFTables)
	d := New(ns.Open(t), slog.New(slog.DiscardHandler))
	t.Cleanup(d.Close)
	return d
}

func apply(t testing.TB, d *Driver, u policy.Update) {
	t.Helper()
	if _, err := d.Apply(context.Background(), u); err != nil {
		t.Fatal(err)
	}
}

// ruleset is what nft(8) prints of the table, each chain, set and map in its place by name, without what
// counts.
func ruleset(t testing.TB, ns testkit.NS) string {
	t.Helper()
	out := testkit.Run(t, ns, "nft", "--stateless", "list", "table", "inet", "weft")
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(out, "table inet weft {\n"), "}\n"), "\n\n")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n\n")
}

// TestDelta changes random worlds step by step. After each step the kernel must have what a new driver
// makes of the whole.
func TestDelta(t *testing.T) {
	testkit.LeakCheck(t)
	ns, other := testkit.NewNetns(t), testkit.NewNetns(t)
	ctx := context.Background()
	steps, byDelta := 0, 0
	for seed := range uint64(testkit.Count(4)) {
		w := policytest.New(seed, seed%2 == 1)
		k := policy.NewCompiler(policytest.Self)
		d := newDriver(t, ns)
		d.cutFrom = []int{3, manyMembers}[seed/2%2] // small worlds have small sets
		apply(t, d, k.Flush())
		for range 40 {
			var what []string
			for range 1 + w.IntN(3) {
				what = append(what, w.Step(k))
			}
			u := k.Flush()
			if u.Delta.Base == d.generation && d.state != nil && d.state.program == u.Program {
				byDelta++
			}
			if _, err := d.Apply(ctx, u); err != nil {
				t.Fatalf("seed %d: %s: %v\n%s", seed, strings.Join(what, "\n"), err, u.Program.Format())
			}
			fresh := newDriver(t, other)
			fresh.cutFrom = d.cutFrom
			apply(t, fresh, u)
			steps++
			if diff := cmp.Diff(ruleset(t, other), ruleset(t, ns)); diff != "" {
				t.Fatalf("seed %d: after %s (-whole +delta):\n%s", seed, strings.Join(what, "\n"), diff)
			}
			fresh.Close()
		}
	}
	if byDelta < steps {
		t.Errorf("%d of %d steps by difference", byDelta, steps)
	}
	t.Logf("%d steps of 1 to 3 changes, %d of them by difference: each left what writing the whole gives", steps, byDelta)
}

// TestInvalidate: to be asked to look makes no work where all is well, also beside a change; what an event did
// not tell is found.
func TestInvalidate(t *testing.T) {
	testkit.LeakCheck(t)
	ns := testkit.NewNetns(t)
	d := newDriver(t, ns)
	w := policytest.New(3, true)
	k := policy.NewCompiler(policytest.Self)
	for range 60 {
		w.Step(k)
	}
	u := k.Flush()
	ctx, cancel := context.WithCancel(context.Background())
	kicked, ended := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Watch(ctx, func() { kicked <- struct{}{} })
	}()
	defer func() { cancel(); <-ended }()
	<-kicked
	apply(t, d, u)
	for range 10 {
		var u policy.Update
		for u = k.Flush(); u.Delta.Empty(); u = k.Flush() {
			w.Step(k)
		}
		d.Invalidate()
		if res, err := d.Apply(ctx, u); err != nil || res.Repaired != 0 {
			t.Errorf("a change beside a look: %+v, %v", res, err)
		}
		d.Invalidate()
		if res, err := d.Apply(ctx, u); err != nil || !res.Zero() {
			t.Errorf("a look alone: %+v, %v", res, err)
		}
	}
	// Nobody applies what this event tells, but a look.
	want := ruleset(t, ns)
	testkit.Run(t, ns, "nft", "flush", "chain", "inet", "weft", "policy-forward")
	u = k.Flush()
	d.Invalidate()
	if res, err := d.Apply(ctx, u); err != nil || res.Repaired != 1 || ruleset(t, ns) != want {
		t.Errorf("a look at a flushed chain: %+v, %v", res, err)
	}
}
