package etcd

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Writes of many callers share calls to the server, and each has its own outcome all the same.
func TestConcurrentWritesShareCalls(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	const callers, names = 96, 8
	stale := must[v3.Object](t)(s.Create(ctx, node("stale", nil)))
	must[v3.Object](t)(s.Update(ctx, node("stale", map[string]string{"a": "b"})))
	before := must[revision](t)(parseRevision(must[*datastore.List](t)(s.List(ctx, v3.KindNode)).Revision))
	var created, refused, conflicts, writes atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			own := node(fmt.Sprintf("own-%d", i), nil)
			made, err := s.Create(ctx, own)
			if err != nil {
				t.Error(err)
				return
			}
			switch _, err := s.Create(ctx, node(fmt.Sprintf("shared-%d", i%names), nil)); {
			case err == nil:
				created.Add(1)
			case errors.Is(err, datastore.ErrAlreadyExists):
				refused.Add(1)
			default:
				t.Error(err)
			}
			late := stale.(*v3.Node).DeepCopy()
			late.Labels = map[string]string{"i": fmt.Sprint(i)}
			if _, err := s.Update(ctx, late); errors.Is(err, datastore.ErrConflict) {
				conflicts.Add(1)
			}
			if err := s.Delete(ctx, datastore.KeyOf(made), datastore.Precondition{ResourceVersion: made.GetResourceVersion()}); err != nil {
				t.Error(err)
			}
			writes.Add(2)
		})
	}
	wg.Wait()
	if created.Load() != names || refused.Load() != callers-names || conflicts.Load() != callers {
		t.Errorf("%d of %d shared names created, %d refused (want %d), %d conflicts (want %d)",
			created.Load(), names, refused.Load(), callers-names, conflicts.Load(), callers)
	}
	l := must[*datastore.List](t)(s.List(ctx, v3.KindNode))
	if len(l.Items) != names+1 {
		t.Errorf("%d nodes are left, want %d", len(l.Items), names+1)
	}
	steps := must[revision](t)(parseRevision(l.Revision)).rev - before.rev
	done := writes.Load() + created.Load()
	if steps >= done {
		t.Errorf("%d writes took %d revisions: they did not share any", done, steps)
	}
	t.Logf("%d writes of %d callers took %d revisions", done, callers, steps)
}

// An update that follows on this process's own needs no read, and keeps what the store owns.
func TestUpdateOfOwnWrite(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	made := must[v3.Object](t)(s.Create(ctx, node("n", nil)))
	o := must[v3.Object](t)(s.Update(ctx, node("n", map[string]string{"i": "0"})))
	k := must[string](t)(s.keys.key(datastore.KeyOf(o)))
	for i := range 5 {
		was := s.recent.get(k, o.GetResourceVersion())
		if was == nil {
			t.Fatalf("round %d: what was written just now is not known", i)
		}
		next := o.(*v3.Node).DeepCopy()
		next.Labels["i"], next.Spec.IPv4VXLANTunnelAddr = fmt.Sprint(i), fmt.Sprintf("10.0.0.%d", i+1)
		next.Generation, next.CreationTimestamp.Time = 77, next.CreationTimestamp.AddDate(1, 0, 0)
		o.(*v3.Node).Labels["i"] = "the caller may change what it got"
		o = must[v3.Object](t)(s.Update(ctx, next))
		if o.GetUID() != made.GetUID() || !cmp.Equal(o.GetCreationTimestamp(), made.GetCreationTimestamp()) || o.GetGeneration() != int64(i+2) {
			t.Errorf("round %d: UID %s, created %v, generation %d", i, o.GetUID(), o.GetCreationTimestamp(), o.GetGeneration())
		}
		if got := must[v3.Object](t)(s.Get(ctx, datastore.KeyOf(o))); !cmp.Equal(got, o) {
			t.Errorf("round %d: stored differs from returned:\n%s", i, cmp.Diff(o, got))
		}
	}
	if same := must[v3.Object](t)(s.Update(ctx, o)); same.GetResourceVersion() != o.GetResourceVersion() {
		t.Error("an update without a change wrote")
	}
	other := openStore(t, s.cfg)
	theirs := must[v3.Object](t)(other.Update(ctx, node("n", map[string]string{"i": "theirs"})))
	if _, err := s.Update(ctx, o); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("an update without a change of what another has changed since: %v, want a conflict", err)
	}
	ours := theirs.(*v3.Node).DeepCopy()
	ours.Labels["i"] = "ours"
	o = must[v3.Object](t)(s.Update(ctx, ours))
	reborn := o.(*v3.Node).DeepCopy()
	reborn.UID = "other"
	if _, err := s.Update(ctx, reborn); !errors.Is(err, datastore.ErrConflict) {
		t.Errorf("another UID: %v, want a conflict", err)
	}
	if err := s.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	gone := o.(*v3.Node).DeepCopy()
	gone.Labels["i"] = "too-late"
	if _, err := s.Update(ctx, gone); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("update of what was deleted behind our back: %v, want not found", err)
	}
	for i := range 2 * maxRecent {
		must[v3.Object](t)(s.Create(ctx, node(fmt.Sprintf("m%d", i), nil)))
		must[v3.Object](t)(s.Update(ctx, node(fmt.Sprintf("m%d", i), map[string]string{"i": "1"})))
	}
	if len(s.recent.m) > maxRecent {
		t.Errorf("%d resources are remembered, want at most %d", len(s.recent.m), maxRecent)
	}
}
