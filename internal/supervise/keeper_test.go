package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// TestMain is also the process that is started: SUBCOMMAND --socket PATH.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "sleeper" {
		ready := Readiness()
		signal.Ignore(syscall.SIGHUP)
		l, err := net.Listen("unix", os.Args[3])
		Announce(ready, err)
		if err == nil {
			_, _ = l.Accept()
			time.Sleep(time.Minute) // longer than any test; it is ended by a signal
		}
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "keeper" {
		k := &Keeper{Socket: os.Args[3], Commands: []string{"sleeper"}, Log: slog.New(slog.DiscardHandler)}
		fmt.Fprintln(os.Stderr, k.Run(context.Background()))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type world struct {
	dir string
	ps  *Processes
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.RequireRoot(t)
	h, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	w := &world{dir: t.TempDir()}
	w.ps = &Processes{Handle: h, Log: slog.New(slog.DiscardHandler), Keeper: filepath.Join(w.dir, "keeper.sock"), Died: func(*Process) {}}
	return w
}

func (w *world) command(args ...string) Command {
	socket := filepath.Join(w.dir, "s")
	args = append(args, "--socket", socket)
	return Command{Name: "s", What: "sleeper", Args: args, Socket: socket, Log: filepath.Join(w.dir, "log"), Version: 1,
		Is: func(a []string) (int, bool) { return 1, len(a) == 4 && a[3] == socket }}
}

// keep runs a keeper until the test ends.
func (w *world) keep(t *testing.T) {
	t.Helper()
	w.keepWith(t, "")
}

func (w *world) keepWith(t *testing.T, executable string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{Socket: w.ps.Keeper, Commands: []string{"sleeper"}, Executable: executable, Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unixpacket", w.ps.Keeper)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(w.ps.Keeper); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keeper's socket is %v (%v), want mode 0600", info.Mode(), err)
	}
	if err := k.Run(ctx); err == nil {
		t.Error("a second keeper takes the socket of a living one")
	}
}

// A process that the keeper started is followed, adopted and ended like one's own; its parent is the keeper.
func TestKeeper(t *testing.T) {
	w := newWorld(t)
	w.keep(t)
	p, started, err := w.ps.Get(t.Context(), w.command("sleeper"))
	if err != nil || !started || p.Adopted {
		t.Fatalf("started %v, %v", started, err)
	}
	w.ps.Close() // the node service ends
	if unix.Kill(p.PID, 0) != nil {
		t.Fatal("the process ended with the node service")
	}
	next := &Processes{Handle: w.ps.Handle, Log: w.ps.Log, Keeper: w.ps.Keeper, Died: func(*Process) {}}
	defer next.Close()
	again, started, err := next.Get(t.Context(), w.command("sleeper"))
	if err != nil || started || !again.Adopted || again.PID != p.PID {
		t.Fatalf("the next node service has %+v, started %v, %v: want process %d adopted", again, started, err, p.PID)
	}
	if err := next.End(t.Context(), again); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(5 * time.Second); unix.Kill(p.PID, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the keeper does not reap what ended")
		}
	}
}

// keeperElsewhere is the socket of a keeper in a PID namespace that the test is not in.
const keeperElsewhere = "WEFT_TEST_KEEPER"

// Keeper and node service are in two containers: neither sees the other's processes by number. Then the keeper says which
// process listens on a socket, and signals it.
func TestKeeperOfAnotherPIDNamespace(t *testing.T) {
	testkit.RequireRoot(t)
	inOwn := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "unshare", append([]string{"--pid", "--fork", "--kill-child=KILL", "--mount-proc", os.Args[0]}, args...)...)
	}
	if os.Getenv(keeperElsewhere) == "" {
		socket := filepath.Join(t.TempDir(), "keeper.sock")
		keeper := inOwn("keeper", "--socket", socket)
		if err := keeper.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = keeper.Process.Kill(); _ = keeper.Wait() }()
		testkit.Eventually(t, 5*time.Second, "the keeper listens", func() bool { _, err := os.Stat(socket); return err == nil })
		foreign := filepath.Join(filepath.Dir(socket), "foreign")
		other := inOwn("sleeper", "--socket", foreign)
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
		testkit.Eventually(t, 5*time.Second, "a process of a third PID namespace listens", func() bool { _, err := os.Stat(foreign); return err == nil })
		inner := inOwn("-test.run=^"+t.Name()+"$", "-test.v")
		inner.Env = append(os.Environ(), keeperElsewhere+"="+socket)
		if out, err := inner.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("in a PID namespace of its own: %v\n%s", err, out)
		}
		return
	}
	w := newWorld(t)
	w.ps.Keeper = os.Getenv(keeperElsewhere)
	p, started, err := w.ps.Get(t.Context(), w.command("sleeper"))
	if err != nil || !started || !p.Far || !p.Alive() {
		t.Fatalf("%+v, started %v, %v: want one in the keeper's PID namespace", p, started, err)
	}
	answers(t, p, filepath.Join(filepath.Dir(w.ps.Keeper), "foreign"), w.ps.Keeper)
	w.ps.Close() // the node service ends
	alone := &Processes{Handle: w.ps.Handle, Log: w.ps.Log, Died: func(*Process) {}}
	if got, err := alone.Adopt(t.Context(), w.command("sleeper")); !errors.Is(err, errElsewhere) {
		t.Errorf("without a keeper %+v is adopted, error %v; want %v", got, err, errElsewhere)
	}
	died := make(chan *Process, 1)
	next := &Processes{Handle: w.ps.Handle, Log: w.ps.Log, Keeper: w.ps.Keeper, Died: func(p *Process) { died <- p }}
	defer next.Close()
	again, started, err := next.Get(t.Context(), w.command("sleeper"))
	if err != nil || started || !again.Adopted || !again.Far || again.PID != p.PID {
		t.Fatalf("the next node service has %+v, started %v, %v: want process %d adopted", again, started, err, p.PID)
	}
	if err := unix.PidfdSendSignal(number(again.fd), unix.SIGTERM, nil, 0); err == nil {
		t.Error("the process can be signalled without the keeper: it is in no other PID namespace")
	}
	// One that ends by itself is noticed; here somebody else ends it.
	if err := next.signalByKeeper(t.Context(), again, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-died:
	case <-time.After(5 * time.Second):
		t.Fatal("the end of the process was not noticed")
	}
	if err := os.Remove(p.Socket); err != nil {
		t.Fatal(err)
	}
	if p, _, err = next.Get(t.Context(), w.command("sleeper")); err != nil || p.PID == again.PID {
		t.Fatalf("%+v, %v: want another process", p, err)
	}
	if err := next.End(t.Context(), p); err != nil || p.Alive() {
		t.Errorf("end it: %v, alive %v", err, p.Alive())
	}
	if err := next.signalByKeeper(t.Context(), p, unix.SIGKILL); err == nil {
		t.Error("a process that has ended can be signalled")
	}
}

// answers compares who is at the other end with a process in the keeper's PID namespace, by either way: the process itself, one of
// a third PID namespace, which looks the same by its credentials, the keeper, and this one.
func answers(t *testing.T, p *Process, foreign, keeper string) {
	t.Helper()
	own, err := net.Listen("unix", filepath.Join(t.TempDir(), "own"))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	inode := true
	for _, tc := range []struct {
		what, network, socket string
		far, want             bool
	}{
		{"the process", "unix", p.Socket, true, true},
		{"one of a third PID namespace", "unix", foreign, true, false},
		{"the keeper", "unixpacket", keeper, true, false},
		{"this process", "unix", own.Addr().String(), false, false},
	} {
		conn, err := net.Dial(tc.network, tc.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := conn.(*net.UnixConn)
		if pid, err := PeerPID(c); err != nil || (pid == 0) != tc.far {
			t.Fatalf("%s is process %d, %v: want one of another PID namespace: %v", tc.what, pid, err, tc.far)
		}
		if got, err := p.Answers(t.Context(), c); err != nil || got != tc.want {
			t.Errorf("%s answers as the process: %v, %v", tc.what, got, err)
		}
		if got, err := p.isPeer(c); errors.Is(err, errors.ErrUnsupported) {
			inode = false
		} else if err != nil || got != tc.want {
			t.Errorf("%s by its pidfd: %v, %v", tc.what, got, err)
		}
		if got, err := p.isPeerByKeeper(t.Context(), c); err != nil || got != tc.want {
			t.Errorf("%s by the keeper: %v, %v", tc.what, got, err)
		}
	}
	var release unix.Utsname
	if err := unix.Uname(&release); err != nil {
		t.Fatal(err)
	}
	if major, minor := 0, 0; !inode {
		if _, err := fmt.Sscanf(unix.ByteSliceToString(release.Release[:]), "%d.%d", &major, &minor); err != nil || major > 6 || major == 6 && minor >= 9 {
			t.Errorf("pidfds have no inodes of their own on Linux %d.%d (%v)", major, minor, err)
		}
	}
	t.Logf("by pidfd: %v", inode)
}

// Who connects and says nothing keeps nobody waiting.
func TestKeeperServesAtOnce(t *testing.T) {
	w := newWorld(t)
	defer w.ps.Close()
	w.keep(t)
	for range maxAsking - 1 {
		c, err := net.Dial("unixpacket", w.ps.Keeper)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	begin := time.Now()
	p, _, err := w.ps.Get(t.Context(), w.command("sleeper"))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > keeperTimeout/2 {
		t.Errorf("a start took %v beside %d that say nothing", took, maxAsking-1)
	}
	if err := w.ps.End(t.Context(), p); err != nil {
		t.Error(err)
	}
}

// What is none of its commands a keeper does not start, whoever asks, and it goes on.
func TestKeeperRefuses(t *testing.T) {
	w := newWorld(t)
	w.keep(t)
	for _, args := range [][]string{{"node"}, nil} {
		c := w.command()
		c.Args = args
		if _, err := w.ps.throughKeeper(t.Context(), c, os.Stderr, os.Stderr); err == nil || errors.Is(err, errNoKeeper) {
			t.Errorf("%q: error %v, want a refusal", args, err)
		}
	}
	for _, junk := range []string{"", "junk", strings.Repeat("x", 2*maxRequest)} {
		c, err := net.Dial("unixpacket", w.ps.Keeper)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(junk))
		c.Close()
	}
	if p, _, err := w.ps.Get(t.Context(), w.command("sleeper")); err != nil {
		t.Errorf("after requests that are junk: %v", err)
	} else if err := w.ps.End(t.Context(), p); err != nil {
		t.Error(err)
	}
	w.ps.Close()
}

// A keeper that is not there yet is waited for, one that does not come is done without.
func TestKeeperIsLate(t *testing.T) {
	w := newWorld(t)
	if _, _, err := w.ps.Get(t.Context(), w.command("sleeper")); !errors.Is(err, errNoKeeper) {
		t.Fatalf("without a keeper: %v", err)
	}
	w.ps.away = time.Now().Add(-keeperPatience)
	p, started, err := w.ps.Get(t.Context(), w.command("sleeper"))
	if err != nil || !started {
		t.Fatal(started, err)
	}
	if err := w.ps.End(t.Context(), p); err != nil {
		t.Error(err)
	}
	w.ps.Close()
}

// A keeper of another release starts what does not get ready: then there is none.
func TestKeeperIsOld(t *testing.T) {
	w := newWorld(t)
	w.keepWith(t, "/bin/false")
	p, _, err := w.ps.Get(t.Context(), w.command("sleeper"))
	if err != nil { // it may also have ended before it could be followed
		p, _, err = w.ps.Get(t.Context(), w.command("sleeper"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ps.End(t.Context(), p); err != nil {
		t.Error(err)
	}
	w.ps.Close()
}

// What a keeper that knows the command starts too late, or what says why it cannot be, is no reason to do without it; what
// ends without a word is, for a while.
func TestKeeperIsAskedAgain(t *testing.T) {
	old := filepath.Join(t.TempDir(), "old") // it lives for long enough to be followed
	if err := os.WriteFile(old, []byte("#!/bin/sh\nsleep 0.5\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, executable string
		alone            bool
	}{
		{"it says why", "", false},
		{"it ends without a word", old, true},
	} {
		t.Run(tc.what, func(t *testing.T) {
			w := newWorld(t)
			defer w.ps.Close()
			w.keepWith(t, tc.executable)
			c := w.command("sleeper")
			c.Args[2] = filepath.Join(w.dir, "none", "s") // it cannot listen there
			if _, err := w.ps.start(t.Context(), c); err == nil {
				t.Fatal("it started")
			} else if errors.Is(err, errWordless) != tc.alone {
				t.Fatal(err)
			}
			if got := time.Now().Before(w.ps.alone); got != tc.alone {
				t.Errorf("it is done without the keeper: %v", got)
			}
			if left := time.Until(w.ps.alone); left > alonePause {
				t.Errorf("for %v", left)
			}
		})
	}
	// While the time runs the process is started without it; then it is asked again.
	w := newWorld(t)
	defer w.ps.Close()
	w.keepWith(t, old)
	w.ps.alone = time.Now().Add(time.Hour)
	p, err := w.ps.start(t.Context(), w.command("sleeper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ps.End(t.Context(), p); err != nil {
		t.Error(err)
	}
	w.ps.alone = time.Now().Add(-time.Millisecond)
	if _, err := w.ps.start(t.Context(), w.command("sleeper")); !errors.Is(err, errWordless) {
		t.Errorf("when the time is over: %v; want that the keeper is asked", err)
	}
}

// A request that is read but makes no sense gets an answer that says what is the matter, and of nothing else.
func TestKeeperSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	defer w.ps.Close()
	w.keep(t)
	for _, tc := range []struct {
		request string
		files   int
		want    string
	}{
		{`junk`, 2, "the request cannot be understood: invalid character"},
		{`{"start":7}`, 2, "the request cannot be understood: json"},
		{`{}`, 2, "the request has 0 arguments and 2 open files, want some and 2"},
		{`{"start":["sleeper"]}`, 0, "the request has 1 arguments and 0 open files, want some and 2"},
		{`{"start":["sleeper"]}`, 1, "the request has 1 arguments and 1 open files, want some and 2"},
		{`{"start":["sleeper"]}`, 3, "the request has 1 arguments and 3 open files, want some and 2"},
		{`{"find":"/nowhere"}`, 1, "the request has 0 arguments and 1 open files, want some and 2"},
		{`{"signal":15}`, 0, "the request has 0 arguments and 0 open files, want some and 2"},
		{`{"signal":1}`, 1, "signal 1 is none that it sends"},
		{`{"signal":15}`, 1, "send terminated: "},
		{`{"start":["node"]}`, 2, `"node" is none of the commands`},
	} {
		conn, err := net.Dial("unixpacket", w.ps.Keeper)
		if err != nil {
			t.Fatal(err)
		}
		u := conn.(*net.UnixConn)
		var rights []byte
		if tc.files > 0 {
			rights = unix.UnixRights([]int{2, 2, 2}[:tc.files]...)
		}
		b := make([]byte, maxRequest)
		n := 0
		if _, _, err = u.WriteMsgUnix([]byte(tc.request), rights, nil); err == nil {
			n, err = u.Read(b)
		}
		u.Close()
		var r keepReply
		if err == nil {
			err = json.Unmarshal(b[:n], &r)
		}
		if err != nil || !strings.HasPrefix(r.Error, tc.want) || strings.Contains(r.Error, "%!") {
			t.Errorf("%s with %d files: %q, %v; want %q", tc.request, tc.files, r.Error, err, tc.want)
		}
	}
}
