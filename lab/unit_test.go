package lab

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"weft/node/status"
)

func TestParseLabelChange(t *testing.T) {
	got, err := ParseLabelChange([]string{"app=web", "example.com/tier=", "old-"})
	want := LabelChange{Set: map[string]string{"app": "web", "example.com/tier": ""}, Remove: []string{"old"}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("error %v, (-want +got):\n%s", err, d)
	}
	labels := got.apply(map[string]string{"old": "x", "app": "db", "kept": "y"})
	if d := cmp.Diff(map[string]string{"app": "web", "example.com/tier": "", "kept": "y"}, labels); d != "" {
		t.Errorf("apply (-want +got):\n%s", d)
	}
	for _, bad := range [][]string{{"app"}, {"=x"}, {"-"}, {"a b=c"}, {"a=b c"}, {"a=b", "a-"}, {"a/b/c=d"}} {
		if _, err := ParseLabelChange(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestParsePorts(t *testing.T) {
	got, err := parsePorts([]string{"http:tcp:8080", "dns:UDP:53"})
	if d := cmp.Diff([]Port{{"http", "TCP", 8080}, {"dns", "UDP", 53}}, got); err != nil || d != "" {
		t.Errorf("error %v, (-want +got):\n%s", err, d)
	}
	for _, bad := range []string{"", "http:TCP", "http:TCP:0", "http:TCP:65536", "http:ICMP:1", "UPPER:TCP:1", "a:TCP:1:2"} {
		if _, err := parsePorts([]string{bad}); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{"KILL": unix.SIGKILL, "sigterm": unix.SIGTERM, "INT": unix.SIGINT} {
		if got, err := ParseSignal(s); got != want || err != nil {
			t.Errorf("%s: got %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "9", "STOP", "USR1"} {
		if _, err := ParseSignal(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestParsePodName(t *testing.T) {
	for _, bad := range []string{"", "web", "/web", "a/", "a/b/c", "a/../b", "A/b", "a/b.c", "a/" + strings.Repeat("x", 64)} {
		if _, _, err := ParsePodName(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
	if ns, name, err := ParsePodName("default/web-0"); ns != "default" || name != "web-0" || err != nil {
		t.Errorf("got %q, %q, %v", ns, name, err)
	}
}

// A pid that was given to another process is neither alive nor ever signalled.
func TestReusedPidIsNotOurs(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _, _ = cmd.Process.Wait() }()
	pid := cmd.Process.Pid
	start, dead, err := procStat(pid)
	if err != nil || dead {
		t.Fatalf("procStat: dead %v, %v", dead, err)
	}
	for name, r := range map[string]procRecord{
		"another start time": {PID: pid, Start: start - 1, Boot: bootID()},
		"another boot":       {PID: pid, Start: start, Boot: "other"},
		"no pid":             {Boot: bootID()},
	} {
		if r.alive() {
			t.Errorf("%s: taken for alive", name)
		}
		if err := r.signal(unix.SIGKILL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := procRecord{PID: pid, Start: start, Boot: bootID()}
	if !r.alive() {
		t.Fatal("the process was killed although no record was its own")
	}
	if err := r.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.waitGone(ctx); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ctx := context.Background()
	if _, err := lockFile(ctx, path, unix.LOCK_SH, false, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: got %v", err)
	}
	a, err := lockFile(ctx, path, unix.LOCK_EX, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 60*time.Millisecond)
	defer cancel()
	waits := 0
	if _, err := lockFile(short, path, unix.LOCK_SH, false, func() { waits++ }); !errors.Is(err, context.DeadlineExceeded) || waits != 1 {
		t.Errorf("held lock: got %v after %d notices, want a deadline and 1", err, waits)
	}
	// The holder removes the file and lets go: whoever waited must not hold a lock that nobody
	// else can see.
	got := make(chan error, 1)
	go func() {
		_, err := lockFile(ctx, path, unix.LOCK_EX, false, nil)
		got <- err
	}()
	time.Sleep(2 * lockPoll)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.release()
	if err := <-got; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed file: got %v, want that it does not exist", err)
	}
}

func TestFailedChecks(t *testing.T) {
	tests := []struct{ body, want string }{
		{"[+]store ok\n[-]kernel no route to it\n[-]cni starting\nnot ready\n", "kernel no route to it; cni starting"},
		{"starting\nmore", "starting"},
		{"", "503 Service Unavailable"},
	}
	for _, tt := range tests {
		if got := failedChecks(tt.body, "503 Service Unavailable"); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.body, got, tt.want)
		}
	}
}

func TestProbe(t *testing.T) {
	l, err := New("p", Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.probe(context.Background(), "n1"); err == nil {
		t.Error("a node without a socket is ready")
	}
	dir := l.NodeRunDir("n1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, status.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	code := http.StatusServiceUnavailable
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || !r.URL.Query().Has("verbose") {
			t.Errorf("asked for %v", r.URL)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte("[-]datastore wait-for-datastore\n"))
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	defer func() { srv.Close(); <-served }()
	if err := l.probe(context.Background(), "n1"); err == nil || err.Error() != "datastore wait-for-datastore" {
		t.Errorf("got %v, want the failed check", err)
	}
	code = http.StatusOK
	if err := l.probe(context.Background(), "n1"); err != nil {
		t.Errorf("got %v, want ready", err)
	}
}

func TestVerbsOfALabThatIsNotUp(t *testing.T) {
	root := t.TempDir()
	l, err := New("nope", Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	_, status := l.Status(ctx)
	_, env := l.Env()
	_, add := l.AddPod(ctx, PodSpec{Node: "n1", Namespace: "a", Name: "b"})
	_, rm := l.RemovePod(ctx, "a", "b")
	_, label := l.LabelPod(ctx, "a", "b", LabelChange{})
	_, stop := l.Stop(ctx, "n1", unix.SIGTERM)
	_, start := l.Start(ctx, "n1")
	for verb, err := range map[string]error{
		"status": status, "env": env, "pod add": add, "pod rm": rm, "pod label": label,
		"stop": stop, "start": start, "exec": l.Exec("n1", []string{"true"}),
	} {
		if err == nil || !strings.Contains(err.Error(), "lab nope is not up: start it with weft lab up --name nope") {
			t.Errorf("%s: got %v", verb, err)
		}
	}
	if r, err := l.Down(ctx); err != nil || r != (Removed{}) {
		t.Errorf("down: got %v, %v, want nothing to do", r, err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("%d files left, %v", len(left), err)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31mb\tc\u009bd\x7f"); got != "a[31mb\tcd" {
		t.Errorf("got %q", got)
	}
}
