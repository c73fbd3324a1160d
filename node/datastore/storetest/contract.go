package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Run runs what every Store has to do, each part on a store that open makes; it may hold what the parts before left.
func Run(t *testing.T, open func(testing.TB) datastore.Store) {
	t.Run("CreateGetUpdateDelete", func(t *testing.T) { testCreateGetUpdateDelete(t, open(t)) })
	t.Run("Errors", func(t *testing.T) { testErrors(t, open(t)) })
	t.Run("CompareAndSwapLosesNothing", func(t *testing.T) { testCompareAndSwap(t, open(t)) })
}

func testCreateGetUpdateDelete(t *testing.T, s datastore.Store) {
	ctx := t.Context()
	in := Node("n1", map[string]string{"rack": "1"})
	before := in.DeepCopy()
	made := Must[v3.Object](t)(s.Create(ctx, in))
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("Create changed its argument:\n%s", diff)
	}
	created := made.GetCreationTimestamp()
	if made.GetUID() == "" || created.IsZero() || made.GetGeneration() != 1 || made.GetResourceVersion() == "" {
		t.Errorf("created: %+v", made)
	}
	key := datastore.Key{Kind: v3.KindNode, Name: "n1"}
	got := Must[v3.Object](t)(s.Get(ctx, key))
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("Get differs from what Create returned (-made +got):\n%s", diff)
	}
	if got.GetObjectKind().GroupVersionKind().Kind != v3.KindNode {
		t.Errorf("no TypeMeta: %+v", got)
	}

	// A label is metadata: the generation stays.
	up := got.(*v3.Node).DeepCopy()
	up.Labels["rack"] = "2"
	up2 := Must[v3.Object](t)(s.Update(ctx, up))
	if up2.GetGeneration() != 1 || up2.GetUID() != made.GetUID() || up2.GetResourceVersion() == got.GetResourceVersion() {
		t.Errorf("after a change of labels: generation %d, UID %s (was %s), version %s (was %s)",
			up2.GetGeneration(), up2.GetUID(), made.GetUID(), up2.GetResourceVersion(), got.GetResourceVersion())
	}
	// The same again writes nothing.
	if same := Must[v3.Object](t)(s.Update(ctx, up2)); same.GetResourceVersion() != up2.GetResourceVersion() {
		t.Errorf("an update without a change wrote revision %s, had %s", same.GetResourceVersion(), up2.GetResourceVersion())
	}
	// The spec counts.
	spec := up2.(*v3.Node).DeepCopy()
	spec.Spec.IPv4VXLANTunnelAddr = "10.0.0.1"
	up3 := Must[v3.Object](t)(s.Update(ctx, spec))
	if up3.GetGeneration() != 2 {
		t.Errorf("generation after a change of the spec: %d, want 2", up3.GetGeneration())
	}
	// Without a version it replaces, and keeps what the store owns.
	forced := Must[v3.Object](t)(s.Update(ctx, Node("n1", nil)))
	if forced.GetUID() != made.GetUID() || !cmp.Equal(forced.GetCreationTimestamp(), made.GetCreationTimestamp()) || forced.GetGeneration() != 3 {
		t.Errorf("replaced: UID %s (want %s), generation %d (want 3)", forced.GetUID(), made.GetUID(), forced.GetGeneration())
	}
	if err := s.Delete(ctx, key, datastore.Precondition{ResourceVersion: forced.GetResourceVersion(), UID: string(forced.GetUID())}); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, key); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("Get after Delete: %v, want not found", err)
	}
}

func testErrors(t *testing.T, s datastore.Store) {
	ctx := t.Context()
	n1 := Must[v3.Object](t)(s.Create(ctx, Node("n1", nil)))
	Must[v3.Object](t)(s.Update(ctx, Node("n1", map[string]string{"a": "b"})))
	stale := n1.(*v3.Node).DeepCopy()
	stale.Labels = map[string]string{"c": "d"}
	reborn := n1.(*v3.Node).DeepCopy()
	reborn.UID, reborn.ResourceVersion = "other", ""
	key := datastore.Key{Kind: v3.KindNode, Name: "n1"}
	absent := datastore.Key{Kind: v3.KindNode, Name: "n9"}
	big := Node("big", map[string]string{})
	big.Annotations = map[string]string{"a": strings.Repeat("x", 1700000)}
	bigRes := Reservation("big")
	for i := range 120000 {
		bigRes.Spec.ReservedCIDRs = append(bigRes.Spec.ReservedCIDRs, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	create := func(o v3.Object) error { _, err := s.Create(ctx, o); return err }
	update := func(o v3.Object) error { _, err := s.Update(ctx, o); return err }
	get := func(k datastore.Key) error { _, err := s.Get(ctx, k); return err }
	for _, tc := range []struct {
		name string
		err  error
		want error
		text string
	}{
		{"create twice", create(Node("n1", nil)), datastore.ErrAlreadyExists, "create Node n1"},
		{"get absent", get(absent), datastore.ErrNotFound, "get Node n9"},
		{"get of an unknown kind", get(datastore.Key{Kind: "Elephant", Name: "x"}), datastore.ErrInvalid, "Elephant"},
		{"get of a path", get(datastore.Key{Kind: v3.KindNode, Name: "../ippools/x"}), datastore.ErrInvalid, "not allowed"},
		{"namespace on a cluster kind", get(datastore.Key{Kind: v3.KindNode, Namespace: "a", Name: "x"}), datastore.ErrInvalid, "not namespaced"},
		{"no namespace", get(datastore.Key{Kind: v3.KindWorkloadEndpoint, Name: "x"}), datastore.ErrInvalid, "namespace is empty"},
		{"update absent", update(Node("n9", nil)), datastore.ErrNotFound, "update Node n9"},
		{"update stale", update(stale), datastore.ErrConflict, "resource version"},
		{"update another life", update(reborn), datastore.ErrConflict, "UID"},
		{"create invalid", create(Pool("p", "10.0.0.1/8")), datastore.ErrInvalid, "cidr"},
		{"create too large", create(bigRes), datastore.ErrInvalid, "bytes"},
		{"create annotations too large", create(big), datastore.ErrInvalid, ""},
		{"delete absent", s.Delete(ctx, absent, datastore.Precondition{}), datastore.ErrNotFound, "delete Node n9"},
		{"delete absent with version", s.Delete(ctx, absent, datastore.Precondition{ResourceVersion: "5"}), datastore.ErrNotFound, ""},
		{"delete stale", s.Delete(ctx, key, datastore.Precondition{ResourceVersion: n1.GetResourceVersion()}), datastore.ErrConflict, ""},
		{"delete another life", s.Delete(ctx, key, datastore.Precondition{UID: "other"}), datastore.ErrConflict, ""},
	} {
		if !errors.Is(tc.err, tc.want) || !strings.Contains(fmt.Sprint(tc.err), tc.text) {
			t.Errorf("%s: %v; want %v with %q", tc.name, tc.err, tc.want, tc.text)
		}
	}
	if _, err := s.Get(ctx, key); err != nil {
		t.Errorf("the node that no call could delete: %v", err)
	}
}

// 8 writers add 1 to a counter 50 times each by compare-and-swap: the sum tells of lost updates.
func testCompareAndSwap(t *testing.T, s datastore.Store) {
	const writers, times = 8, 50
	ctx := t.Context()
	Must[v3.Object](t)(s.Create(ctx, Node("n", map[string]string{"count": "0"})))
	key := datastore.Key{Kind: v3.KindNode, Name: "n"}
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	for range writers {
		wg.Go(func() {
			for done := 0; done < times; {
				o, err := s.Get(ctx, key)
				if err != nil {
					t.Error(err)
					return
				}
				n := o.(*v3.Node)
				var count int
				_, _ = fmt.Sscan(n.Labels["count"], &count)
				n.Labels["count"] = fmt.Sprint(count + 1)
				switch _, err := s.Update(ctx, n); {
				case err == nil:
					done++
				case errors.Is(err, datastore.ErrConflict):
					conflicts.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := Must[v3.Object](t)(s.Get(ctx, key)).GetLabels()["count"]
	if got != fmt.Sprint(writers*times) {
		t.Errorf("count is %s after %d updates", got, writers*times)
	}
	t.Logf("0 lost of %d updates, %d conflicts", writers*times, conflicts.Load())
}
