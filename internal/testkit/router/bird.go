// Package router runs the BGP routers BIRD and FRR in network namespaces, as neighbours for tests. It
// knows how they are started and asked, not what they are told.
package router

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testkit"
)

// Bird is a BIRD in a namespace.
type Bird struct {
	testkit.NS
	dir    string
	config string
	cmd    *exec.Cmd
	exited chan struct{}
}

// StartBird runs BIRD 2 with a configuration until the test ends.
func StartBird(t testing.TB, ns testkit.NS, config string) *Bird {
	t.Helper()
	testkit.Require(t, testkit.BIRD)
	b := &Bird{NS: ns, dir: t.TempDir(), config: config}
	b.Start(t)
	t.Cleanup(func() { b.Kill(t) })
	return b
}

// Start runs it again after Kill or Stop.
func (b *Bird) Start(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "bird.conf"), []byte(b.config), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(b.socket())
	b.cmd = exec.Command("bird", "-f", "-c", filepath.Join(b.dir, "bird.conf"), "-s", b.socket(), "-P", filepath.Join(b.dir, "bird.pid"))
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out strings.Builder
	b.cmd.Stdout, b.cmd.Stderr = &out, &out
	b.Do(t, b.cmd.Start)
	cmd, exited := b.cmd, make(chan struct{})
	b.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	testkit.Eventually(t, 10*time.Second, "BIRD answers", func() bool {
		select {
		case <-exited:
			t.Fatalf("BIRD ended: %s", out.String())
		default:
		}
		_, err := b.try("show status")
		return err == nil
	})
}

func (b *Bird) socket() string { return filepath.Join(b.dir, "bird.ctl") }

// Kill ends it at once, as a crash would.
func (b *Bird) Kill(t testing.TB) {
	t.Helper()
	_ = b.cmd.Process.Kill()
	<-b.exited
}

// Reconfigure gives it another configuration.
func (b *Bird) Reconfigure(t testing.TB, config string) {
	t.Helper()
	b.config = config
	if err := os.WriteFile(filepath.Join(b.dir, "bird.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := b.Ask(t, "configure"); !strings.Contains(out, "econfigur") {
		t.Fatalf("BIRD does not take the configuration: %s", out)
	}
}

func (b *Bird) try(command string) (string, error) {
	out, err := exec.Command("birdc", "-s", b.socket(), command).CombinedOutput()
	return string(out), err
}

// Ask runs a command of birdc.
func (b *Bird) Ask(t testing.TB, command string) string {
	t.Helper()
	out, err := b.try(command)
	if err != nil {
		t.Fatalf("birdc %s: %v: %s", command, err, out)
	}
	return out
}

// Established tells whether a protocol of BIRD's is up.
func (b *Bird) Established(t testing.TB, protocol string) bool {
	t.Helper()
	return strings.Contains(b.Ask(t, "show protocols "+protocol), "Established")
}

// Route returns all that it says of a prefix; empty where it has no route.
func (b *Bird) Route(t testing.TB, prefix string) string {
	t.Helper()
	out, err := b.try("show route all " + prefix)
	if strings.Contains(out, "Network not found") {
		return ""
	}
	if err != nil {
		t.Fatalf("birdc show route %s: %v: %s", prefix, err, out)
	}
	return out
}

var count = regexp.MustCompile(`(\d+) of (\d+) routes for (\d+) networks`)

// Count returns how many networks it has that match what follows "show route".
func (b *Bird) Count(t testing.TB, which string) int {
	t.Helper()
	total := 0
	for _, m := range count.FindAllStringSubmatch(b.Ask(t, "show route count "+which), -1) {
		n := 0
		_, _ = fmt.Sscan(m[1], &n)
		total += n
	}
	return total
}
