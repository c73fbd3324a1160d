package etcd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/node/datastore/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("WEFT_TEST_SERVER"); dir != "" {
		os.Exit(serveChild(dir))
	}
	if endpoint := os.Getenv("WEFT_TEST_FOLLOWER"); endpoint != "" {
		os.Exit(followChild(endpoint))
	}
	// What etcd leaves when it cannot open a damaged database; see startEtcd.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("go.etcd.io/etcd/server/v3/storage.OpenBackend"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/backend.(*backend).run"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/wal.(*filePipeline).run"))
}

// testServer starts an embedded server that is quick and careless, closed with the test.
func testServer(t testing.TB, dir string) *Server {
	t.Helper()
	s, err := StartServer(t.Context(), testConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func testConfig(t testing.TB, dir string) ServerConfig {
	return ServerConfig{DataDir: filepath.Join(dir, "d"), Socket: filepath.Join(dir, "s"), NoFsync: true,
		Tick: 10 * time.Millisecond, Logger: testLogger(t)}
}

// shortDir is t.TempDir with a path that leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func testStore(t testing.TB) *Store {
	t.Helper()
	return openStore(t, Config{Endpoints: []string{testServer(t, shortDir(t)).Endpoint()}})
}

// The suite's own, by short names.
var (
	pool        = storetest.Pool
	node        = storetest.Node
	reservation = storetest.Reservation
	follow      = storetest.Follow
	testLogger  = storetest.Logger
)

func must[T any](t testing.TB) func(T, error) T { return storetest.Must[T](t) }
