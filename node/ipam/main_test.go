package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startEtcd starts a real embedded etcd that is gone when the test ends.
func startEtcd(t testing.TB, fsync bool) *etcd.Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipam-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	srv, err := etcd.StartServer(t.Context(), etcd.ServerConfig{
		DataDir: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "s", "etcd.sock"), NoFsync: !fsync, Tick: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("stop etcd: %v", err)
		}
	})
	store, err := srv.Store(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return store
}

// wipe empties a store, so that one etcd serves many cases.
func wipe(t testing.TB, store datastore.Store) {
	t.Helper()
	ctx := context.Background()
	l, err := store.List(ctx, v3.KindIPPool, v3.KindIPReservation, v3.KindIPAMConfiguration, v3.KindIPAMBlock,
		v3.KindBlockAffinity, v3.KindIPAMHandle, v3.KindWorkloadEndpoint, v3.KindNode)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Items {
		if err := store.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{}); err != nil && !errors.Is(err, datastore.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

func addPool(t testing.TB, store datastore.Store, name, cidr string, change func(*v3.IPPoolSpec)) {
	t.Helper()
	p := &v3.IPPool{TypeMeta: typeMeta(v3.KindIPPool)}
	p.Name, p.Spec.CIDR = name, cidr
	if change != nil {
		change(&p.Spec)
	}
	create(t, store, p)
}

func addConfig(t testing.TB, store datastore.Store, spec v3.IPAMConfigurationSpec) {
	t.Helper()
	c := &v3.IPAMConfiguration{TypeMeta: typeMeta(v3.KindIPAMConfiguration), Spec: spec}
	c.Name = configName
	create(t, store, c)
}

func create(t testing.TB, store datastore.Store, o v3.Object) {
	t.Helper()
	if _, err := store.Create(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

func newAllocator(t testing.TB, store datastore.Store, node string, o Options) *Allocator {
	t.Helper()
	if testing.Verbose() && os.Getenv("IPAM_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", node)
	}
	a := New(store, node, o)
	t.Cleanup(a.Close)
	return a
}

var podCount atomic.Int64

// pod is a request of a new pod.
func pod(change ...func(*Request)) Request {
	n := podCount.Add(1)
	r := Request{HandleID: fmt.Sprintf("k8s-pod-network.%064x", n), Namespace: "default", Pod: fmt.Sprint("pod-", n)}
	for _, f := range change {
		f(&r)
	}
	return r
}

func mustAssign(t testing.TB, a *Allocator, r Request) Assignment {
	t.Helper()
	as, err := a.Assign(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// noProblems fails unless everything in the store fits together. Endpoints are not written by these
// tests, so allocations without one are counted instead.
func noProblems(t testing.TB, store datastore.Store, allocations int) {
	t.Helper()
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(time.Hour)
	r := s.check()
	for _, p := range r.Problems {
		if p.Kind != ProblemLeak {
			t.Errorf("%s: %s", p.Kind, p.Detail)
		}
	}
	if r.Allocations != allocations {
		t.Errorf("%d addresses are in use, want %d", r.Allocations, allocations)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
