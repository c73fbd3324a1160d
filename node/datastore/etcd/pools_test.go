package etcd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func nodeAt(name, addr string) *v3.Node {
	n := node(name, nil)
	n.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: addr}
	return n
}

func TestAddressesOfNodesAndPools(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	refused := func(what string, err error, text string) {
		t.Helper()
		if !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s: %v; want invalid with %q", what, err, text)
		}
	}
	create := func(o v3.Object) error { _, err := s.Create(ctx, o); return err }
	update := func(o v3.Object) error { _, err := s.Update(ctx, o); return err }
	must[v3.Object](t)(s.Create(ctx, nodeAt("n1", "172.31.1.1/24")))
	must[v3.Object](t)(s.Create(ctx, pool("pods", "10.244.0.0/16")))

	refused("a pool around a node", create(pool("p", "172.31.0.0/16")), "of node n1")
	refused("a pool inside a node's subnet", create(pool("p", "172.31.1.128/26")), "subnet 172.31.1.0/24 of node n1")
	refused("a node inside a pool", create(nodeAt("n2", "10.244.7.7/24")), "IPPool pods")
	refused("a second node with the address", create(nodeAt("n2", "172.31.1.1")), "node n1 has this address")
	must[v3.Object](t)(s.Create(ctx, nodeAt("n2", "172.31.1.2/24")))
	refused("taking the address of another node", update(nodeAt("n2", "172.31.1.1/24")), "node n1 has this address")

	// An address that its node gave up, or left behind when it was deleted, is free.
	must[v3.Object](t)(s.Update(ctx, nodeAt("n1", "172.31.1.9/24")))
	must[v3.Object](t)(s.Update(ctx, nodeAt("n2", "172.31.1.1/24")))
	if err := s.Delete(ctx, datastore.Key{Kind: v3.KindNode, Name: "n2"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	must[v3.Object](t)(s.Create(ctx, nodeAt("n3", "172.31.1.1/24")))
	// What concerns no address is not held up by one.
	labelled := nodeAt("n3", "172.31.1.1/24")
	labelled.Labels = map[string]string{"rack": "1"}
	must[v3.Object](t)(s.Update(ctx, labelled))
}

// TestAddressRaces lets writes meet of which each is fine by itself: one of each pair may win.
func TestAddressRaces(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	const rounds = 100
	for _, c := range []struct {
		name string
		of   func(i int) [2]v3.Object
	}{
		{"two nodes", func(i int) [2]v3.Object {
			a := fmt.Sprintf("172.16.%d.1/24", i)
			return [2]v3.Object{nodeAt(fmt.Sprintf("a%d", i), a), nodeAt(fmt.Sprintf("b%d", i), a)}
		}},
		{"a node and a pool", func(i int) [2]v3.Object {
			return [2]v3.Object{nodeAt(fmt.Sprintf("c%d", i), fmt.Sprintf("172.17.%d.1/24", i)), pool(fmt.Sprintf("p%d", i), fmt.Sprintf("172.17.%d.0/24", i))}
		}},
	} {
		var both, none atomic.Int64
		for i := range rounds {
			var wg sync.WaitGroup
			var won atomic.Int64
			for _, o := range c.of(i) {
				wg.Go(func() {
					switch _, err := s.Create(ctx, o); {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, datastore.ErrInvalid):
						t.Errorf("%s, round %d: %v", c.name, i, err)
					}
				})
			}
			wg.Wait()
			switch won.Load() {
			case 0:
				none.Add(1)
			case 2:
				both.Add(1)
			}
		}
		if both.Load() > 0 || none.Load() > 0 {
			t.Errorf("%s: both were written in %d and none in %d of %d rounds, want 0 and 0", c.name, both.Load(), none.Load(), rounds)
		}
	}
}
