package etcd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func TestCreateGetUpdateDelete(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	in := node("n1", map[string]string{"rack": "1"})
	before := in.DeepCopy()
	made := must[v3.Object](t)(s.Create(ctx, in))
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("Create changed its argument:\n%s", diff)
	}
	if made.GetUID() == "" || ptr(made.GetCreationTimestamp()).IsZero() || made.GetGeneration() != 1 || made.GetResourceVersion() == "" {
		t.Errorf("created: %+v", made)
	}
	key := datastore.Key{Kind: v3.KindNode, Name: "n1"}
	got := must[v3.Object](t)(s.Get(ctx, key))
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("Get differs from what Create returned (-made +got):\n%s", diff)
	}
	if got.GetObjectKind().GroupVersionKind().Kind != v3.KindNode {
		t.Errorf("no TypeMeta: %+v", got)
	}

	// A label is metadata: the generation stays.
	up := got.(*v3.Node).DeepCopy()
	up.Labels["rack"] = "2"
	up2 := must[v3.Object](t)(s.Update(ctx, up))
	if up2.GetGeneration() != 1 || up2.GetUID() != made.GetUID() || up2.GetResourceVersion() == got.GetResourceVersion() {
		t.Errorf("after a change of labels: generation %d, UID %s (was %s), version %s (was %s)",
			up2.GetGeneration(), up2.GetUID(), made.GetUID(), up2.GetResourceVersion(), got.GetResourceVersion())
	}
	// The same again writes nothing.
	if same := must[v3.Object](t)(s.Update(ctx, up2)); same.GetResourceVersion() != up2.GetResourceVersion() {
		t.Errorf("an update without a change wrote revision %s, had %s", same.GetResourceVersion(), up2.GetResourceVersion())
	}
	// The spec counts.
	spec := up2.(*v3.Node).DeepCopy()
	spec.Spec.IPv4VXLANTunnelAddr = "10.0.0.1"
	up3 := must[v3.Object](t)(s.Update(ctx, spec))
	if up3.GetGeneration() != 2 {
		t.Errorf("generation after a change of the spec: %d, want 2", up3.GetGeneration())
	}
	// Without a version it replaces, and keeps what the store owns.
	forced := must[v3.Object](t)(s.Update(ctx, node("n1", nil)))
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

func ptr[T any](v T) *T { return &v }

func TestErrors(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	n1 := must[v3.Object](t)(s.Create(ctx, node("n1", nil)))
	must[v3.Object](t)(s.Update(ctx, node("n1", map[string]string{"a": "b"})))
	stale := n1.(*v3.Node).DeepCopy()
	stale.Labels = map[string]string{"c": "d"}
	reborn := n1.(*v3.Node).DeepCopy()
	reborn.UID, reborn.ResourceVersion = "other", ""
	key := datastore.Key{Kind: v3.KindNode, Name: "n1"}
	absent := datastore.Key{Kind: v3.KindNode, Name: "n9"}
	big := node("big", map[string]string{})
	big.Annotations = map[string]string{"a": strings.Repeat("x", 1700000)}
	bigRes := reservation("big")
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
		{"create twice", create(node("n1", nil)), datastore.ErrAlreadyExists, "create Node n1"},
		{"get absent", get(absent), datastore.ErrNotFound, "get Node n9"},
		{"get of an unknown kind", get(datastore.Key{Kind: "Elephant", Name: "x"}), datastore.ErrInvalid, "Elephant"},
		{"get of a path", get(datastore.Key{Kind: v3.KindNode, Name: "../ippools/x"}), datastore.ErrInvalid, "not allowed"},
		{"namespace on a cluster kind", get(datastore.Key{Kind: v3.KindNode, Namespace: "a", Name: "x"}), datastore.ErrInvalid, "not namespaced"},
		{"no namespace", get(datastore.Key{Kind: v3.KindWorkloadEndpoint, Name: "x"}), datastore.ErrInvalid, "namespace is empty"},
		{"update absent", update(node("n9", nil)), datastore.ErrNotFound, "update Node n9"},
		{"update stale", update(stale), datastore.ErrConflict, "resource version"},
		{"update another life", update(reborn), datastore.ErrConflict, "UID"},
		{"create invalid", create(pool("p", "10.0.0.1/8")), datastore.ErrInvalid, "cidr"},
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

func TestNamespaced(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	for _, ns := range []string{"a", "b"} {
		o := &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "n1-k8s-p-eth0"}}
		o.Spec.Node, o.Spec.Pod, o.Spec.Endpoint, o.Spec.Orchestrator = "n1", "p", "eth0", "k8s"
		o.Spec.InterfaceName, o.Spec.IPNetworks = "weft01234567890", []string{"10.0.0.1/32"}
		must[v3.Object](t)(s.Create(ctx, o)) // without TypeMeta: the Go type tells the kind
	}
	l := must[*datastore.List](t)(s.List(ctx, v3.KindWorkloadEndpoint))
	if len(l.Items) != 2 || l.Items[0].GetNamespace() != "a" || l.Items[1].GetNamespace() != "b" {
		t.Errorf("list: %+v", l.Items)
	}
	if err := s.Delete(ctx, datastore.KeyOf(l.Items[0]), datastore.Precondition{}); err != nil {
		t.Error(err)
	}
	if l = must[*datastore.List](t)(s.List(ctx, v3.KindWorkloadEndpoint)); len(l.Items) != 1 || l.Items[0].GetNamespace() != "b" {
		t.Errorf("list after one delete: %+v", l.Items)
	}
}

// 8 writers add 1 to a counter 50 times each by compare-and-swap: the sum tells of lost updates.
func TestCompareAndSwapLosesNothing(t *testing.T) {
	const writers, times = 8, 50
	ctx, s := t.Context(), testStore(t)
	must[v3.Object](t)(s.Create(ctx, node("n", map[string]string{"count": "0"})))
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
	got := must[v3.Object](t)(s.Get(ctx, key)).GetLabels()["count"]
	if got != fmt.Sprint(writers*times) {
		t.Errorf("count is %s after %d updates", got, writers*times)
	}
	t.Logf("0 lost of %d updates, %d conflicts", writers*times, conflicts.Load())
}

// Pairs of resources of two kinds are written with the same number, the node first. A list of both
// at one revision can see the node one ahead, never the reservation.
func TestListIsOneRevision(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	const rounds, extra = 400, 1500 // extra: more than one page, so that a list takes several calls
	fill(t, s, extra)
	label := func(i int) map[string]string { return map[string]string{"i": fmt.Sprint(i)} }
	must[v3.Object](t)(s.Create(ctx, node("zz", label(0))))
	r := reservation("zz", "10.0.0.0/24")
	r.Labels = label(0)
	must[v3.Object](t)(s.Create(ctx, r))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; i <= rounds; i++ {
			r := reservation("zz", "10.0.0.0/24")
			r.Labels = label(i)
			_, err1 := s.Update(ctx, node("zz", label(i)))
			_, err2 := s.Update(ctx, r)
			if err := errors.Join(err1, err2); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	lists, moved := 0, map[int]bool{}
	for running := true; running; lists++ {
		select {
		case <-done:
			running = false
		default:
		}
		l := must[*datastore.List](t)(s.List(ctx, v3.KindIPReservation, v3.KindNode))
		if len(l.Items) != extra+2 {
			t.Fatalf("list has %d items, want %d", len(l.Items), extra+2)
		}
		at := map[string]int{}
		for _, o := range l.Items {
			if o.GetName() == "zz" {
				var i int
				_, _ = fmt.Sscan(o.GetLabels()["i"], &i)
				at[datastore.KeyOf(o).Kind] = i
			}
		}
		n, r := at[v3.KindNode], at[v3.KindIPReservation]
		if n != r && n != r+1 {
			t.Errorf("list sees node %d and reservation %d: not one revision", n, r)
		}
		moved[n] = true
	}
	if len(moved) < 5 {
		t.Errorf("only %d different states were seen in %d lists: the writer did not run beside", len(moved), lists)
	}
	t.Logf("0 torn of %d lists, %d states seen", lists, len(moved))
}

// fill creates n nodes.
func fill(t testing.TB, s *Store, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < n; i += 32 {
				o := node(fmt.Sprintf("node-%05d", i), map[string]string{"rack": fmt.Sprint(i % 40)})
				o.Spec.IPv4VXLANTunnelAddr = fmt.Sprintf("10.%d.%d.1", 64+i>>8, i&255)
				o.Spec.VXLANTunnelMACAddr = fmt.Sprintf("66:00:00:00:%02x:%02x", i>>8, i&255)
				if _, err := s.Create(t.Context(), o); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestPoolOverlap(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	must[v3.Object](t)(s.Create(ctx, pool("a", "10.0.0.0/16")))
	must[v3.Object](t)(s.Create(ctx, pool("b", "10.1.0.0/16")))
	if _, err := s.Create(ctx, pool("c", "10.1.128.0/20")); !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "b") {
		t.Errorf("create of an overlapping pool: %v; want invalid, naming pool b", err)
	}
	off := pool("c", "10.1.128.0/20")
	off.Spec.Disabled = true
	if _, err := s.Create(ctx, off); !errors.Is(err, datastore.ErrInvalid) {
		t.Errorf("create of a disabled pool inside an enabled one: %v; want invalid", err)
	}
	off.Spec.CIDR = "10.1.0.0/16"
	must[v3.Object](t)(s.Create(ctx, off))
	if _, err := s.Update(ctx, pool("c", "10.1.0.0/16")); !errors.Is(err, datastore.ErrInvalid) {
		t.Errorf("enabling an overlapping pool: %v; want invalid", err)
	}
	a := pool("a", "10.0.0.0/16")
	a.Spec.VXLANMode = v3.EncapAlways
	must[v3.Object](t)(s.Update(ctx, a)) // does not overlap itself

	// 32 pools of which each overlaps each are created at once, 20 times: one may win.
	const rounds, contenders = 20, 32
	for round := range rounds {
		var wg sync.WaitGroup
		var won atomic.Int64
		for i := range contenders {
			wg.Go(func() {
				_, err := s.Create(ctx, pool(fmt.Sprintf("r%d-%d", round, i), fmt.Sprintf("172.16.0.0/%d", 12+i%12)))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, datastore.ErrInvalid):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("round %d: %d of %d overlapping pools were created, want 1", round, won.Load(), contenders)
		}
		for _, o := range must[*datastore.List](t)(s.List(ctx, v3.KindIPPool)).Items {
			if strings.HasPrefix(o.GetName(), "r") {
				if err := s.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	t.Logf("0 overlaps in %d rounds of %d concurrent creates", rounds, contenders)
}
