// Package testkit is what tests of the kernel side share: network namespaces of their own, wires
// between them, canonical dumps of what the kernel holds, feature probes whose skips cannot rot,
// and leak checks. It owns no product code. Everything it makes is gone when the test ends, and
// nothing in it touches the network namespace that the test was started in.
package testkit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
)

// runTimeout bounds every command that a test starts.
const runTimeout = 30 * time.Second

// NS is a network namespace that a test made.
type NS struct {
	Name string // below /run/netns, for `ip netns exec`
	Path string
}

// namePrefix begins the name of every namespace of this process, so that a leak check can tell
// them from those of tests that run at the same time.
func namePrefix() string { return fmt.Sprintf("wt%d-", os.Getpid()) }

// NewNetns makes a network namespace with nothing but its loopback, which is up. It is deleted when
// the test ends.
func NewNetns(t testing.TB) NS {
	t.Helper()
	RequireRoot(t)
	var id [3]byte
	_, _ = rand.Read(id[:])
	ns := NS{Name: namePrefix() + hex.EncodeToString(id[:])}
	var err error
	if ns.Path, err = kernel.NewNamedNetns(ns.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kernel.DeleteNamedNetns(ns.Name); err != nil {
			t.Error(err)
		}
	})
	h := ns.Open(t)
	if err := h.LinkSetUp(context.Background(), "lo"); err != nil {
		t.Fatal(err)
	}
	return ns
}

// Open returns a handle on the namespace, closed when the test ends.
func (ns NS) Open(t testing.TB) *kernel.Handle {
	t.Helper()
	h, err := kernel.OpenAt(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// Do runs f in the namespace. f returns errors; it must not call t.Fatal, since it runs on another
// goroutine.
func (ns NS) Do(t testing.TB, f func() error) {
	t.Helper()
	if err := kernel.Do(ns.Path, f); err != nil {
		t.Fatalf("in namespace %s: %v", ns.Name, err)
	}
}

// Run runs a command in the namespace and returns what it printed on its standard output. A command
// that fails, or takes more than 30 s, fails the test.
func Run(t testing.TB, ns NS, command ...string) string {
	t.Helper()
	out, err := Try(t, ns, command...)
	if err != nil {
		t.Fatalf("in namespace %s: %v", ns.Name, err)
	}
	return out
}

// Try is Run for a command that may fail.
func Try(t testing.TB, ns NS, command ...string) (string, error) {
	t.Helper()
	return TryInput(t, ns, "", command...)
}

// TryInput is Try with a standard input.
func TryInput(t testing.TB, ns NS, input string, command ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	// The child is born on the thread that entered the namespace, and so inherits it.
	err := kernel.Do(ns.Path, cmd.Run)
	if err != nil {
		err = fmt.Errorf("run %s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// Wire joins two namespaces by a veth pair of MTU 1500 with the given names; both ends are up and
// have no address yet.
func Wire(t testing.TB, a NS, aName string, b NS, bName string) {
	t.Helper()
	err := kernel.AddWire(kernel.WireEnd{Namespace: a.Name, Name: aName}, kernel.WireEnd{Namespace: b.Name, Name: bName}, 1500)
	if err != nil {
		t.Fatal(err)
	}
}

// Dummy makes a link that leads nowhere and is up: one end of a veth pair whose other end, called
// name with an x after it, stays in the same namespace. (Not every kernel has the dummy driver.)
func (ns NS) Dummy(t testing.TB, name string) { t.Helper(); Wire(t, ns, name, ns, name+"x") }

// AddAddress gives a link addresses with prefix lengths, usable at once.
func (ns NS) AddAddress(t testing.TB, device string, addresses ...string) {
	t.Helper()
	h, err := kernel.OpenAt(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, a := range addresses {
		if err := h.AddAddress(device, netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
}

// Eventually waits until f returns true, which it asks every few milliseconds, and returns how long
// that took; after the limit, which Patient stretches, the test fails.
func Eventually(t testing.TB, limit time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !f() {
		if d := time.Since(start); d > limit && d > Patient(limit) {
			t.Fatalf("not within %v: %s", d.Round(time.Millisecond), what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}
