package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

const (
	// binVariable names a directory with weft and weft-cni; without it the tests build them.
	binVariable = "WEFT_TEST_BIN"
	// crashVariable makes this test binary bring a lab up and kill itself at that step.
	crashVariable = "WEFT_LAB_TEST_CRASH"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(crashVariable); at != "" {
		os.Exit(upAndCrash(at, os.Args[1:]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		binaries.remove()
		os.Exit(code)
	}))
}

// binaries are the real programs, built once.
var binaries builder

type builder struct {
	once sync.Once
	dir  string
	temp bool
	err  error
}

// weft returns the path of the weft binary; weft-cni is beside it.
func (b *builder) weft(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir = os.Getenv(binVariable); b.dir != "" {
			return
		}
		if b.dir, b.err = os.MkdirTemp("", "weftlab-bin-"); b.err != nil {
			return
		}
		b.temp = true
		cmd := exec.Command("go", "build", "-o", b.dir+"/", "weft/cmd/weft", "weft/cmd/weft-cni")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "weft")
}

func (b *builder) remove() {
	if b.temp {
		os.RemoveAll(b.dir)
	}
}

var labs atomic.Int64

// newLab returns a lab of a name of its own, which is checked to leave nothing behind.
func newLab(t *testing.T, binary string) (*Lab, *bytes.Buffer) {
	t.Helper()
	testkit.RequireRoot(t)
	root, err := os.MkdirTemp("/tmp", "wl") // short: Unix sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("t%d-%d", os.Getpid(), labs.Add(1))
	var progress bytes.Buffer
	l, err := New(name, Options{Root: root, Binary: binary, Progress: &progress})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.hook = nil
		if _, err := l.Down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
		for _, left := range leftovers(t, l) {
			t.Errorf("left behind: %s", left)
		}
		if t.Failed() {
			t.Logf("progress:\n%s", progress.String())
		}
		os.RemoveAll(root)
	})
	return l, &progress
}

// leftovers lists what still exists of a lab.
func leftovers(t *testing.T, l *Lab) []string {
	t.Helper()
	var left []string
	named, err := filepath.Glob(kernel.NetnsPath(l.name + ".*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range named {
		left = append(left, "namespace "+n)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		env, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(env), idVariable+"="+l.name+"@") {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			left = append(left, fmt.Sprintf("process %s %q", p, cmdline))
		}
	}
	ms, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if strings.Contains(m.point, "/"+l.name) || strings.HasPrefix(m.point, l.root) {
			left = append(left, "mount "+m.point)
		}
	}
	err = filepath.WalkDir(l.root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			left = append(left, "file "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// underlayOnly builds the default lab without its processes.
func underlayOnly(t *testing.T) *Lab {
	t.Helper()
	l, _ := newLab(t, "/nonexistent/weft")
	c, err := DefaultConfig().Rename(l.name)
	if err != nil {
		t.Fatal(err)
	}
	p := Compile(c, l.dir)
	p.Processes = nil
	k, err := l.lockAlone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer k.release()
	if err := l.build(t.Context(), p, c); err != nil {
		t.Fatal(err)
	}
	return l
}

func in(t *testing.T, netns string, argv ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", netns}, argv...)...).CombinedOutput()
	return string(out), err
}

func TestUnderlayCarriesBothFamiliesAcrossRacks(t *testing.T) {
	l := underlayOnly(t)
	addresses := map[string][]string{
		"n1": {"172.31.1.1", "fd00:31:1::1"}, "n2": {"172.31.1.2", "fd00:31:1::2"}, "n3": {"172.31.2.1", "fd00:31:2::1"},
	}
	pairs := 0
	for from := range addresses {
		for to, addrs := range addresses {
			for _, a := range addrs {
				if out, err := in(t, l.Netns(from), "ping", "-q", "-c1", "-W2", a); err != nil {
					t.Errorf("%s to %s (%s): %v\n%s", from, to, a, err, out)
				}
				pairs++
			}
		}
	}
	t.Logf("%d pairs pinged", pairs)
	if out, err := in(t, l.Netns("n1"), "ping", "-q", "-c1", "-W2", "-Mdo", "-s1472", "172.31.2.1"); err != nil {
		t.Errorf("1500 bytes do not pass: %v\n%s", err, out)
	}
	if _, err := in(t, l.Netns("n1"), "ping", "-q", "-c1", "-W1", "-Mdo", "-s1473", "172.31.2.1"); err == nil {
		t.Error("1501 bytes pass an underlay of 1500")
	}
	for _, ns := range []string{"n1", "n2", "n3", routerName, storeName} {
		for _, family := range []string{"-4", "-6"} {
			out, err := in(t, l.Netns(ns), "ip", family, "route", "show", "default")
			if err != nil || strings.TrimSpace(out) != "" {
				t.Errorf("%s has a default route: %q, %v", ns, out, err)
			}
		}
	}
	if out, err := in(t, l.Netns(storeName), "ip", "-o", "link"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("the store's namespace has more than a loopback: %s, %v", out, err)
	}
}

// The machine's own namespace is the same before, during and after a lab.
func TestHostNetworkIsUntouched(t *testing.T) {
	testkit.RequireRoot(t)
	before := hostState(t)
	l := underlayOnly(t)
	if d := cmp.Diff(before, hostState(t)); d != "" {
		t.Errorf("changed while the lab is up (-before +now):\n%s", d)
	}
	if _, err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, hostState(t)); d != "" {
		t.Errorf("changed after the lab (-before +after):\n%s", d)
	}
	t.Logf("compared: %d bytes of links, addresses, routes, rules and sysctls", len(strings.Join(before, "\n")))
}

// hostState prints the network configuration of this process's namespace.
func hostState(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, argv := range [][]string{
		{"-d", "link"}, {"addr"}, {"-4", "route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"},
		{"-4", "rule"}, {"-6", "rule"}, {"neigh", "show", "nud", "permanent"},
	} {
		b, err := exec.Command("ip", argv...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v\n%s", argv, err, b)
		}
		out = append(out, strings.Split(string(b), "\n")...)
	}
	err := filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_count") {
			return nil // absent, or a counter of what flows
		}
		if b, err := os.ReadFile(path); err == nil {
			out = append(out, path+" = "+strings.TrimSpace(string(b)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// upAndCrash is the body of the process that TestDownAfterACrashAnywhere kills.
func upAndCrash(at string, args []string) int {
	k, err := strconv.Atoi(at)
	if err != nil || len(args) != 3 {
		fmt.Fprintln(os.Stderr, "want a step, and the name, root and binary of a lab")
		return 2
	}
	l, err := New(args[0], Options{Root: args[1], Binary: args[2], Progress: os.Stderr})
	if err == nil {
		steps := 0
		l.hook = func(step string) error {
			if steps++; steps == k {
				fmt.Println(step)
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		}
		err = l.Up(context.Background(), DefaultConfig(), true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A process that brings a lab up is killed (SIGKILL) at every step in turn; down then removes all.
func TestDownAfterACrashAnywhere(t *testing.T) {
	testkit.RequireRoot(t)
	binary := binaries.weft(t)
	made, crashes := 0, 0
	for k := 1; ; k++ {
		if k > 200 {
			t.Fatal("200 steps and no end")
		}
		l, _ := newLab(t, binary)
		cmd := exec.Command(os.Args[0], l.name, l.root, binary)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", crashVariable, k))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		step, err := cmd.Output()
		killed := false
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			killed = ws.Signaled()
		}
		if err != nil && !killed {
			t.Fatalf("step %d: %v\n%s", k, err, stderr.String())
		}
		n := len(leftovers(t, l))
		made += n
		if killed {
			crashes++
			if c, err := l.Status(t.Context()); err == nil && c.Up {
				t.Errorf("step %d (%s): the lab says that it is up", k, bytes.TrimSpace(step))
			}
		}
		if _, err := l.Down(t.Context()); err != nil {
			t.Errorf("step %d (%s): down: %v", k, bytes.TrimSpace(step), err)
		}
		for _, left := range leftovers(t, l) {
			t.Errorf("step %d (%s): left behind: %s", k, bytes.TrimSpace(step), left)
		}
		if !killed {
			break
		}
	}
	t.Logf("0 left of %d processes, namespaces, mounts and files made, over %d crashes", made, crashes)
	if crashes < 20 {
		t.Errorf("only %d steps were tried", crashes)
	}
}

// A down that is interrupted at any step is finished by the next one.
func TestDownAfterAnInterruptedDown(t *testing.T) {
	for k := 1; ; k++ {
		l := underlayOnly(t)
		steps := 0
		l.hook = func(string) error {
			if steps++; steps == k {
				return errInterrupted
			}
			return nil
		}
		_, err := l.Down(t.Context())
		l.hook = nil
		if _, again := l.Down(t.Context()); again != nil {
			t.Errorf("step %d: second down: %v", k, again)
		}
		for _, left := range leftovers(t, l) {
			t.Errorf("step %d: left behind: %s", k, left)
		}
		if err == nil {
			t.Logf("%d interruptions", k-1)
			return
		}
		if !errors.Is(err, errInterrupted) || k > 50 {
			t.Fatalf("step %d: %v", k, err)
		}
	}
}

// What somebody else made is refused by up and left alone by down.
func TestForeignNamespaceIsLeftAlone(t *testing.T) {
	l, _ := newLab(t, "/nonexistent/weft")
	foreign := l.Netns("n2")
	if _, err := kernel.NewNamedNetns(foreign); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := kernel.DeleteNamedNetns(foreign); err != nil {
			t.Error(err)
		}
	}()
	err := l.Up(t.Context(), DefaultConfig(), false)
	if err == nil || !strings.Contains(err.Error(), foreign+" exists already and is not of this lab") {
		t.Errorf("up: got %v", err)
	}
	if _, err := l.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if there, err := kernel.NetnsExists(foreign); err != nil || !there {
		t.Errorf("the foreign namespace is gone: %v", err)
	}
}

// A node that does not come up fails the lab with the reason and its log, and nothing stays.
func TestUpFailsWithTheReason(t *testing.T) {
	testkit.RequireRoot(t)
	l, _ := newLab(t, binaries.weft(t))
	c := DefaultConfig()
	c.Nodes[1].Args = []string{"--no-such-flag"}
	start := time.Now()
	err := l.Up(t.Context(), c, false)
	var e *NotReadyError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want that a node is not ready", err)
	}
	if e.Node != "n2" || !strings.Contains(strings.Join(e.Log, "\n"), "no-such-flag") {
		t.Errorf("got node %s, log %q", e.Node, e.Log)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v to find out that a process has ended", took)
	}
	for _, left := range leftovers(t, l) {
		t.Errorf("left behind: %s", left)
	}
}

func TestUpIsInterruptible(t *testing.T) {
	testkit.RequireRoot(t)
	l, _ := newLab(t, binaries.weft(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the user pressed ctrl-c")
	l.hook = func(step string) error {
		if step == "recorded n1" {
			cancel(stop)
		}
		return nil
	}
	if err := l.Up(ctx, DefaultConfig(), false); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
	for _, left := range leftovers(t, l) {
		t.Errorf("left behind: %s", left)
	}
}

// A state that cannot be read stops every verb but down.
func TestDownWithABrokenState(t *testing.T) {
	l := underlayOnly(t)
	if err := os.WriteFile(statePath(l.dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "weft lab down --name "+l.name) {
		t.Errorf("status: got %v, want a hint at down", err)
	}
	if err := l.Up(t.Context(), DefaultConfig(), false); err == nil || !strings.Contains(err.Error(), "half up") {
		t.Errorf("up: got %v, want that the lab is half up", err)
	}
	made := len(leftovers(t, l))
	if r, err := l.Down(t.Context()); err != nil || r.Namespaces != 5 {
		t.Errorf("down: %+v, %v, want 5 namespaces removed", r, err)
	}
	left := leftovers(t, l)
	for _, e := range left {
		t.Errorf("left behind: %s", e)
	}
	t.Logf("%d left of %d", len(left), made)
}

func BenchmarkUnderlay(b *testing.B) {
	testkit.RequireRoot(b)
	l, err := New(fmt.Sprintf("b%d", os.Getpid()), Options{Root: b.TempDir(), Progress: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	c, err := DefaultConfig().Rename(l.name)
	if err != nil {
		b.Fatal(err)
	}
	p := Compile(c, l.dir)
	p.Processes = nil
	for b.Loop() {
		k, err := l.lockAlone(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		err = l.build(b.Context(), p, c)
		k.release()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := l.Down(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
