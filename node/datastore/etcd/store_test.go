package etcd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

func TestContract(t *testing.T) {
	s := testStore(t)
	storetest.Run(t, func(testing.TB) datastore.Store { return s })
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
