package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

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
