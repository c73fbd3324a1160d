package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func TestServerIsPrivate(t *testing.T) {
	dir := shortDir(t)
	before := listeners(t)
	s := testServer(t, dir)
	if diff := cmp.Diff(before, listeners(t)); diff != "" {
		t.Errorf("the server opened TCP or UDP sockets (-before +after):\n%s", diff)
	}
	for path, want := range map[string]os.FileMode{"s": 0o600 | os.ModeSocket, "d": 0o700 | os.ModeDir, "d/lock": 0o600} {
		st, err := os.Lstat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || left[0].Name() != "d" {
		t.Errorf("left beside the data after Close: %v", left)
	}
	// The control: a listener of our own is seen.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if cmp.Equal(before, listeners(t)) {
		t.Error("control: a listener opened on purpose is not seen")
	}
}

// listeners returns the inet sockets of this process.
func listeners(t *testing.T) []string {
	t.Helper()
	inet := map[string]bool{}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, _ := os.ReadFile("/proc/self/net/" + proto)
		for _, line := range strings.Split(string(b), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 9 {
				inet["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && inet[target] {
			out = append(out, target)
		}
	}
	return out
}

func TestServerConfigErrors(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	for _, tc := range []struct {
		name string
		cfg  ServerConfig
		want string
	}{
		{"relative", ServerConfig{DataDir: "d", Socket: "s"}, `data dir "d": want an absolute path`},
		{"long socket", ServerConfig{DataDir: dir, Socket: long}, fmt.Sprintf("has %d bytes, the kernel takes at most 107", len(long))},
		{"socket is a file", ServerConfig{DataDir: filepath.Join(dir, "d1"), Socket: file}, "is not a socket"},
		{"data dir is a file", ServerConfig{DataDir: file, Socket: filepath.Join(dir, "s")}, "not a directory"},
	} {
		s, err := StartServer(t.Context(), tc.cfg)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "mine" {
		t.Errorf("the file that was in the way now holds %q", b)
	}
	// 107 bytes is the longest path, and works.
	exact := filepath.Join(dir, strings.Repeat("y", maxSocketPath-len(dir)-1))
	cfg := testConfig(t, dir)
	cfg.Socket = exact
	s := must[*Server](t)(StartServer(t.Context(), cfg))
	store := must[*Store](t)(s.Store(t.Context()))
	if err := store.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(store.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestSecondServer(t *testing.T) {
	dir := shortDir(t)
	s := testServer(t, dir)
	other := testConfig(t, dir)
	other.Socket = filepath.Join(dir, "s2")
	begin := time.Now()
	_, err := StartServer(t.Context(), other)
	want := fmt.Sprintf("data dir %s: in use by process %d", other.DataDir, os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("second server on the data dir: %v; want %q", err, want)
	}
	other = testConfig(t, dir)
	other.DataDir = filepath.Join(dir, "d2")
	if _, err = StartServer(t.Context(), other); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("second server on the socket: %v; want in use", err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v to say so", d)
	}
	st := must[*Store](t)(s.Store(t.Context()))
	defer func() { _ = st.Close() }()
	if err := st.Ping(t.Context()); err != nil {
		t.Errorf("the first server after that: %v", err)
	}
}

func TestStaleSocketAndRestart(t *testing.T) {
	dir := shortDir(t)
	cfg := testConfig(t, dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	// Something else listens there: hands off.
	if _, err := StartServer(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("socket of another program: %v; want in use", err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for round := range 3 {
		s := must[*Server](t)(StartServer(t.Context(), cfg))
		st := openStore(t, Config{Endpoints: []string{s.Endpoint()}, DialTimeout: 100 * time.Millisecond})
		must[v3.Object](t)(st.Create(t.Context(), node(fmt.Sprintf("n%d", round), nil)))
		if got := len(must[*datastore.List](t)(st.List(t.Context(), v3.KindNode)).Items); got != round+1 {
			t.Errorf("round %d: %d nodes, want %d", round, got, round+1)
		}
		watching := make(chan error, 1)
		go func() {
			watching <- st.Watch(context.Background(), "1", []string{v3.KindNode}, func([]datastore.Change) error { return nil })
		}()
		begin := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > closeTimeout/2 {
			t.Errorf("Close with a client connected took %v", d)
		}
		if err := <-watching; !errors.Is(err, datastore.ErrUnavailable) {
			t.Errorf("watch after Close: %v; want unavailable", err)
		}
		if _, err := st.Get(t.Context(), datastore.Key{Kind: v3.KindNode, Name: "n0"}); !errors.Is(err, datastore.ErrUnavailable) {
			t.Errorf("get after Close of the server: %v; want unavailable", err)
		} else {
			t.Log(err)
		}
		_ = st.Close()
	}
}

// Whatever is broken in the data dir: an error that names the dir and what to do, no crash, no
// empty store in its place.
func TestDamagedDataDir(t *testing.T) {
	made := shortDir(t)
	s := testServer(t, made)
	st := must[*Store](t)(s.Store(t.Context()))
	fill(t, st, 300)
	_ = st.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage := map[string]func(t *testing.T, member string){
		"database is garbage": func(t *testing.T, m string) { overwrite(t, filepath.Join(m, "snap", "db"), 0, 64<<10) },
		"database is cut":     func(t *testing.T, m string) { truncate(t, filepath.Join(m, "snap", "db"), 5000) },
		"log is garbage":      func(t *testing.T, m string) { overwrite(t, firstOf(t, filepath.Join(m, "wal", "*.wal")), 0, 4096) },
		"log is garbage in the middle": func(t *testing.T, m string) {
			overwrite(t, firstOf(t, filepath.Join(m, "wal", "*.wal")), 20000, 4096)
		},
		"database is gone": func(t *testing.T, m string) { remove(t, filepath.Join(m, "snap", "db")) },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
				t.Fatal(err)
			}
			f(t, filepath.Join(dir, "d", "member"))
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			s, err := StartServer(ctx, testConfig(t, dir))
			if err == nil {
				st := must[*Store](t)(s.Store(ctx))
				n := len(must[*datastore.List](t)(st.List(ctx, v3.KindNode)).Items)
				_, _ = st.Close(), s.Close()
				if name == "database is gone" && n == 300 {
					return // all is in the log as well
				}
				t.Fatalf("it started, with %d of 300 nodes", n)
			}
			if !strings.Contains(err.Error(), filepath.Join(dir, "d")) || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("error does not help: %v", err)
			}
			t.Log(err)
			// The lock and the socket are free again.
			if err := os.Remove(filepath.Join(dir, "s")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("socket left behind: %v", err)
			}
		})
	}
}

func overwrite(t *testing.T, path string, at int64, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt([]byte(strings.Repeat("garbage!", n/8)), at); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := syscall.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func firstOf(t *testing.T, pattern string) string {
	t.Helper()
	m, err := filepath.Glob(pattern)
	if err != nil || len(m) == 0 {
		t.Fatalf("%s: %v, %v", pattern, m, err)
	}
	return m[0]
}

// A store that reached its quota refuses writes with a clear error, then makes room by itself
// when what fills it is history only.
func TestQuota(t *testing.T) {
	dir := shortDir(t)
	cfg := testConfig(t, dir)
	cfg.QuotaBytes = 8 << 20
	s := must[*Server](t)(StartServer(t.Context(), cfg))
	defer func() { _ = s.Close() }()
	st := openStore(t, Config{Endpoints: []string{s.Endpoint()}})
	o := node("fat", map[string]string{})
	must[v3.Object](t)(st.Create(t.Context(), o))
	var refused error
	for i := 0; i < 1000 && refused == nil; i++ {
		o.Annotations = map[string]string{"fat": strings.Repeat(fmt.Sprint(i%10), 200<<10)}
		_, refused = st.Update(t.Context(), o)
	}
	if !errors.Is(refused, datastore.ErrUnavailable) || !strings.Contains(fmt.Sprint(refused), "quota") {
		t.Fatalf("writing without end: %v; want unavailable, naming the quota", refused)
	}
	t.Log(refused)
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := st.Update(t.Context(), node("fat", nil))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still refused: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
