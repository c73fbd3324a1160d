package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

// Changes of one resource by many at once are all kept: each is made on what the others left.
func TestConcurrentChangesAreKept(t *testing.T) {
	const writers, each = 10, 5
	ctx, dir := context.Background(), t.TempDir()
	server, err := etcd.StartServer(ctx, etcd.ServerConfig{
		DataDir: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "etcd.sock"), NoFsync: true, Tick: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	store, err := server.Store(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	kind, _ := v3.LookupKind(v3.KindNode)
	node := kind.New()
	node.SetName("n1")
	if _, err := store.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				changes := []labelChange{{key: fmt.Sprintf("w%d-%d", i, j), value: "x"}}
				_, err := writer{store}.modify(ctx, "label", input{object: node, kind: kind}, "labeled", func(o v3.Object) (v3.Object, error) {
					return o, setLabels(o, changes, false)
				})
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	got, err := store.Get(ctx, datastore.KeyOf(node))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetLabels()); n != writers*each {
		t.Errorf("got %d labels of %d", n, writers*each)
	}
}

// What the cluster reports of a resource stays, whatever a file says of it; a new resource begins without.
func TestConditionsStay(t *testing.T) {
	kind, _ := v3.LookupKind(v3.KindNetworkPolicy)
	policy := func(selector, message string) *v3.NetworkPolicy {
		p := kind.New().(*v3.NetworkPolicy)
		p.Name, p.Namespace, p.Spec.Selector = "a", "default", selector
		v3.Default(p)
		if message != "" {
			p.Status.Conditions = []metav1.Condition{{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted, Message: message}}
		}
		return p
	}
	for _, c := range []struct {
		what       string
		file, live *v3.NetworkPolicy
		same       bool
		message    string
	}{
		{"a file without a status", policy("b", ""), policy("a", "live"), false, "live"},
		{"a file with an old one", policy("b", "old"), policy("a", "live"), false, "live"},
		{"nothing new but the status", policy("a", "old"), policy("a", "live"), true, "live"},
		{"a status where there is none", policy("a", "old"), policy("a", ""), true, ""},
	} {
		o, same, err := adopt(input{object: c.file, kind: kind}, c.live)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, is := range o.(*v3.NetworkPolicy).Status.Conditions {
			got = is.Message
		}
		if same != c.same || got != c.message {
			t.Errorf("%s: same %v, says %q; want %v, %q", c.what, same, got, c.same, c.message)
		}
	}
	if o := fresh(policy("a", "old")).(*v3.NetworkPolicy); len(o.Status.Conditions) > 0 {
		t.Errorf("a new resource says %+v", o.Status)
	}
}
