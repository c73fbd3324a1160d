package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
)

// result is a testing.TB that notes what a check says instead of failing with it.
type result struct {
	testing.TB
	cleanups []func()
	errors   []string
	skipped  string
	fatal    string
}

func (r *result) Helper()                   {}
func (r *result) Setenv(k, v string)        { r.TB.Setenv(k, v) }
func (r *result) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *result) Logf(string, ...any)       {}
func (r *result) Errorf(f string, a ...any) { r.errors = append(r.errors, fmt.Sprintf(f, a...)) }
func (r *result) Skipf(f string, a ...any)  { r.skipped = fmt.Sprintf(f, a...) }
func (r *result) Fatalf(f string, a ...any) { r.fatal = fmt.Sprintf(f, a...) }

func (r *result) finish() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

// TestLeakCheckFinds: the check would see what is left behind.
func TestLeakCheckFinds(t *testing.T) {
	Require(t, Root, Netns)
	r := &result{TB: t}
	LeakCheck(r)
	name := namePrefix() + "leak"
	if _, err := kernel.NewNamedNetns(name); err != nil {
		t.Fatal(err)
	}
	defer kernel.DeleteNamedNetns(name)
	sleep := exec.Command("setsid", "sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	r.finish()
	all := strings.Join(r.errors, "\n")
	for _, want := range []string{"of the namespaces: " + name, "of the mounts: " + kernel.NetnsPath(name), "of the processes:"} {
		if !strings.Contains(all, want) {
			t.Errorf("the check does not say %q:\n%s", want, all)
		}
	}
	if len(r.errors) != 3 {
		t.Errorf("the check says %d things, want 3:\n%s", len(r.errors), all)
	}
}

func TestRequire(t *testing.T) {
	t.Setenv(HasVariable, "")
	absent := Feature("telepathy")
	r := &result{TB: t}
	if Require(r, absent); !strings.Contains(r.skipped, "telepathy") || r.fatal != "" {
		t.Errorf("an absent feature: %+v", r)
	}
	for _, has := range []string{"veth,telepathy", "all"} {
		t.Setenv(HasVariable, has)
		r = &result{TB: t}
		if Require(r, absent); r.fatal == "" {
			t.Errorf("%s=%s: the test is skipped although the feature must be here", HasVariable, has)
		}
	}
}

func TestNamespaces(t *testing.T) {
	Require(t, Root, Netns, Veth, IPRoute2)
	LeakCheck(t)
	own, _ := os.Readlink("/proc/self/ns/net")
	a, b := NewNetns(t), NewNetns(t)
	Wire(t, a, "eth0", b, "eth0")
	a.AddAddress(t, "eth0", "192.0.2.1/24", "fd00::1/64")
	b.AddAddress(t, "eth0", "192.0.2.2/24", "fd00::2/64")
	Eventually(t, 5*time.Second, "the wire carries IPv6", func() bool {
		_, err := Try(t, a, "ip", "-6", "route", "get", "fd00::2")
		return err == nil
	})
	Run(t, a, "ping", "-c1", "-W2", "192.0.2.2")
	Run(t, b, "ping", "-c1", "-W2", "fd00::1")
	if _, err := Try(t, a, "ip", "link", "show", "absent"); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a command that fails: %v", err)
	}
	if got, want := Routes(t, a, true), "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1\n"; !strings.Contains(got, want) || Routes(t, a, false) != "" {
		t.Errorf("routes: %s", got)
	}
	if now, _ := os.Readlink("/proc/self/ns/net"); now != own {
		t.Errorf("the test's own namespace went from %s to %s", own, now)
	}
}
