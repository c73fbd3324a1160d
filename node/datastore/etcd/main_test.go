package etcd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
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

func testLogger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
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

func pool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: v3.KindIPPool},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.IPPoolSpec{CIDR: cidr},
	}
}

func node(name string, labels map[string]string) *v3.Node {
	return &v3.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: v3.KindNode},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
	}
}

func reservation(name string, cidrs ...string) *v3.IPReservation {
	return &v3.IPReservation{
		TypeMeta:   metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: v3.KindIPReservation},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.IPReservationSpec{ReservedCIDRs: cidrs},
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// proxy is a wire between a client and a server's Unix socket that can be cut.
type proxy struct {
	t        testing.TB
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	frozen chan struct{} // closed: bytes pass; open: they are held
	refuse bool
	cuts   int
}

func newProxy(t testing.TB, dir, target string) *proxy {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: target, conns: map[net.Conn]bool{}, frozen: make(chan struct{})}
	close(p.frozen)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) endpoint() string { return "unix://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		up, err := net.Dial("unix", p.target)
		if err != nil || refuse {
			_ = c.Close()
			if up != nil {
				_ = up.Close()
			}
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[up] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(c, up) })
		p.wg.Go(func() { p.copy(up, c) })
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		gate := p.frozen
		p.mu.Unlock()
		<-gate
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = dst.Close(), src.Close()
	p.mu.Lock()
	delete(p.conns, dst)
	delete(p.conns, src)
	p.mu.Unlock()
}

// cut breaks every connection; new ones are possible.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.cuts++
}

func (p *proxy) setRefuse(r bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = r
}

// freeze holds all bytes until the returned function is called: the peer is there and silent.
func (p *proxy) freeze() (thaw func()) {
	gate := make(chan struct{})
	p.mu.Lock()
	p.frozen = gate
	p.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.wg.Wait()
}

// recorder is a Sink that keeps everything.
type recorder struct {
	mu      sync.Mutex
	states  []string
	changes []datastore.Change
	batches int
	notify  chan struct{}
}

func newRecorder() *recorder { return &recorder{notify: make(chan struct{}, 1)} }

func (r *recorder) OnState(s datastore.State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := string(s)
	if err != nil {
		text += " (away)"
	}
	r.states = append(r.states, text)
	r.wake()
}

func (r *recorder) OnChanges(c []datastore.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches++
	r.changes = append(r.changes, c...)
	r.wake()
}

func (r *recorder) wake() {
	select {
	case r.notify <- struct{}{}:
	default:
	}
}

// wait blocks until ok, which sees the recorder locked.
func (r *recorder) wait(t testing.TB, what string, limit time.Duration, ok func(*recorder) bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		done := ok(r)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.notify:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("%s: not within %v; states %v, %d changes", what, limit, r.states, len(r.changes))
		}
	}
}

func (r *recorder) lastState() string {
	if len(r.states) == 0 {
		return ""
	}
	return r.states[len(r.states)-1]
}

// follow runs Follow until the test ends, or until stop is called.
func follow(t testing.TB, s datastore.Store, sink datastore.Sink, kinds ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- datastore.Follow(ctx, s, kinds, sink, datastore.FollowOptions{Logger: testLogger(t)}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow returned %v, want context canceled", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
