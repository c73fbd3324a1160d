package controllers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(candidateVar); name != "" {
		if err := candidate(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	testkube.StopShared()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-ctl-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// startEtcd starts a real embedded etcd that is gone when the test ends.
func startEtcd(t testing.TB) *etcd.Store {
	t.Helper()
	dir := shortDir(t)
	srv, err := etcd.StartServer(t.Context(), etcd.ServerConfig{DataDir: filepath.Join(dir, "data"),
		Socket: filepath.Join(dir, "s", "etcd.sock"), NoFsync: true, Tick: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	store, err := srv.Store(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func newObject(kind, name string) v3.Object {
	info, _ := v3.LookupKind(kind)
	o := info.New()
	o.SetName(name)
	return o
}

func pool(name, cidr string) *v3.IPPool {
	p := newObject(v3.KindIPPool, name).(*v3.IPPool)
	p.Spec.CIDR = cidr
	p.Spec.BlockSize = 28
	return p
}

func create(t testing.TB, store datastore.Store, objects ...v3.Object) {
	t.Helper()
	for _, o := range objects {
		if _, err := store.Create(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t testing.TB, store datastore.Store, k datastore.Key) {
	t.Helper()
	if err := store.Delete(context.Background(), k, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func sweeperOf(cfg Config) *sweeper {
	c := newControllers(cfg)
	return newSweeper(c.cfg, c.metrics)
}
