package router

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testkit"
)

// FRR is an FRR with zebra, bfdd and bgpd in a namespace.
type FRR struct {
	testkit.NS
	dir string
}

// StartFRR runs FRR with the configuration of bgpd, on a listening address, until the test ends.
func StartFRR(t testing.TB, ns testkit.NS, listen, config string) *FRR {
	t.Helper()
	testkit.Require(t, testkit.FRR)
	f := &FRR{NS: ns, dir: t.TempDir()}
	// Its daemons give up root.
	if err := os.Chmod(f.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for d := f.dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	zserv := filepath.Join(f.dir, "zserv.api")
	f.daemon(t, "zebra", "hostname zebra\n", "-z", zserv)
	testkit.Eventually(t, 10*time.Second, "zebra listens", func() bool { _, err := os.Stat(zserv); return err == nil })
	f.daemon(t, "bfdd", "hostname bfdd\n", "-z", zserv, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	f.daemon(t, "bgpd", config, "-z", zserv, "-l", listen)
	return f
}

func (f *FRR) daemon(t testing.TB, name, config string, args ...string) {
	t.Helper()
	path := filepath.Join(f.dir, name+".conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-f", path, "-i", filepath.Join(f.dir, name+".pid"), "--vty_socket", f.dir, "-A", "127.0.0.1"}, args...)
	cmd := exec.Command(filepath.Join(testkit.FRRDir, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	f.Do(t, cmd.Start)
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s said: %s", name, out.String())
		}
	})
	testkit.Eventually(t, 10*time.Second, name+" answers", func() bool {
		select {
		case <-exited:
			t.Fatalf("%s ended: %s", name, out.String())
		default:
		}
		_, err := os.Stat(filepath.Join(f.dir, name+".vty"))
		return err == nil
	})
}

// Ask runs a command of vtysh in bgpd.
func (f *FRR) Ask(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("vtysh", "--vty_socket", f.dir, "-d", "bgpd", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("vtysh %s: %v: %s", command, err, out)
	}
	return string(out)
}
