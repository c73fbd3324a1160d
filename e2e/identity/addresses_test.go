package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit/kube"
	"weft/node/datastore"
	store "weft/node/datastore/kube"
	"weft/node/ipam"
)

// allocator is a node's, as the node service has it: with its own token.
func allocator(t *testing.T, c *kube.Cluster, bearer, node string, now func() time.Time) *ipam.Allocator {
	t.Helper()
	s := open(t, c, bearer, node)
	a := ipam.New(s, node, ipam.Options{Now: now})
	t.Cleanup(a.Close)
	return a
}

func open(t *testing.T, c *kube.Cluster, bearer, node string) datastore.Store {
	t.Helper()
	s, err := store.Open(store.Config{Kubeconfig: c.KubeconfigOf(t, bearer, ""), NodeName: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// What nodes do with addresses they may do, borrowing, taking idle blocks and giving all back included, with the roles
// and the policies that are shipped. A node that says it is another may not.
func TestAddresses(t *testing.T) {
	c := kube.Shared(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	pool := v3.IPPool{}
	pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = "addresses", "10.1.0.0/28", 30
	reader := open(t, c, c.Token(kube.Admin), "")
	if _, err := reader.Create(t.Context(), &pool); err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	now := func() time.Time { return clock }
	tokens := map[string]string{}
	nodes := map[string]*ipam.Allocator{}
	names := []string{"a1", "a2", "a3"}
	for _, n := range names {
		tokens[n] = c.NodeToken(t, n)
		nodes[n] = allocator(t, c, tokens[n], n, now)
	}
	held := map[string][]string{}
	assigned, released, full, borrowed := 0, 0, 0, 0
	for i := range 200 {
		n := names[random.IntN(len(names))]
		clock = clock.Add(time.Duration(random.IntN(20)) * time.Second)
		if phase := i / 50 % 2; random.IntN(4) >= 1+2*phase || len(held[n]) == 0 {
			id := fmt.Sprintf("k8s-pod-network.%s-%d", n, i)
			got, err := nodes[n].Assign(t.Context(), ipam.Request{HandleID: id, Namespace: "default", Pod: id, Families: nil})
			var exhausted *ipam.ExhaustedError
			switch {
			case errors.As(err, &exhausted):
				full++
				continue
			case err != nil:
				t.Fatal(err)
			}
			assigned++
			held[n] = append(held[n], id)
			o, err := reader.Get(t.Context(), datastore.Key{Kind: v3.KindIPAMBlock, Name: strings.NewReplacer(".", "-", "/", "-").Replace(got.Addresses[0].Block.String())})
			if err != nil {
				t.Fatal(err)
			}
			if *o.(*v3.IPAMBlock).Spec.Affinity != "host:"+n {
				borrowed++
			}
			continue
		}
		at := random.IntN(len(held[n]))
		if count, err := nodes[n].Release(t.Context(), held[n][at]); err != nil || count != 1 {
			t.Fatalf("release of %s: %d, %v", held[n][at], count, err)
		}
		released++
		held[n] = append(held[n][:at], held[n][at+1:]...)
	}
	for n, ids := range held {
		for _, id := range ids {
			if _, err := nodes[n].Release(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("0 writes refused in %d assignments, %d of them borrowed, %d releases and %d times that the pool was full", assigned, borrowed, released, full)
	if assigned < 50 || borrowed < 5 || released < 50 || full < 1 {
		t.Errorf("that is too few of something to say anything")
	}
	liar := allocator(t, c, tokens["a1"], "a2", now)
	_, err := liar.Assign(t.Context(), ipam.Request{HandleID: "k8s-pod-network.liar", Namespace: "default", Pod: "liar"})
	if err == nil || !strings.Contains(err.Error(), "node a1 may not ") {
		t.Errorf("a1 assigned an address to a pod of a2: %v", err)
	}
	if _, err := nodes["a2"].Assign(t.Context(), ipam.Request{HandleID: "k8s-pod-network.kept", Namespace: "default", Pod: "kept"}); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes["a1"].Release(t.Context(), "k8s-pod-network.kept"); err == nil || !strings.Contains(err.Error(), "node a1 may not update IPAMBlock") {
		t.Errorf("a1 released the address of a pod of a2: %v", err)
	}
}

// A block of the most addresses that one may have is written in spite of what the API server allows a policy to cost.
func TestLargestBlock(t *testing.T) {
	c := kube.Shared(t)
	bearer := c.NodeToken(t, "l1")
	third := 0
	for _, size := range []int{64, 4096} {
		for _, node := range []string{"l1", "l2"} {
			has := at{}
			for i := range size {
				has[i] = entry{node: []string{"l1", "l2"}[i%2], released: i%5 == 0}
			}
			delete(has, 7)
			length, name := 32-bits.TrailingZeros(uint(size)), fmt.Sprintf("10-2-%d-0", third)
			cidr := fmt.Sprintf("10.2.%d.0/%d", third, length)
			third += 16
			name = fmt.Sprintf("%s-%d", name, length)
			b := object{"apiVersion": group, "kind": "IPAMBlock", "metadata": object{"name": name},
				"spec": object{"cidr": cidr, "affinity": "host:" + node, "sequenceNumber": 5000, "deleted": false, "strictAffinity": false}}
			fill(b, size, has)
			made := c.MustDo(t, http.MethodPost, full("ipamblocks"), b)
			for _, tc := range []struct {
				what   string
				change at
				want   string
			}{{"free", at{7: {node: "l1"}}, ""}, {"another's", at{1: {node: "l1"}}, taking}} {
				var next object
				if err := json.Unmarshal(made, &next); err != nil {
					t.Fatal(err)
				}
				fill(next, size, has.with(tc.change))
				ask := func(bearer string) (time.Duration, error) {
					begin := time.Now()
					_, err := c.DoAs(t.Context(), bearer, http.MethodPut, full("ipamblocks/"+name)+"?dryRun=All", next)
					return time.Since(begin).Round(time.Millisecond / 10), err
				}
				took, err := ask(bearer)
				bare, bareErr := ask(c.Token(kube.Admin))
				t.Logf("taking an address that is %s, of the %d of a block of %s: %v, where there is no policy %v", tc.what, size, node, took, bare)
				switch {
				case tc.want == "" && err != nil || bareErr != nil:
					t.Errorf("%s: %.1000v, %.300v", tc.what, err, bareErr)
				case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
					t.Errorf("%s: %.1000v, want a refusal that says %q", tc.what, err, tc.want)
				}
			}
		}
	}
}
