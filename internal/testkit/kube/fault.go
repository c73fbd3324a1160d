package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// PauseAPI stops the API server without ending it: it answers nobody, and its connections stay. The function that it
// returns lets it go on.
func (c *Cluster) PauseAPI(t testing.TB) (goOn func()) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.api.Process
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn = func() { _ = p.Signal(syscall.SIGCONT) }
	t.Cleanup(goOn)
	return goOn
}

// Off ends all that runs on the machine at once, as when its power is cut: its network namespace and /run are gone, what
// containers left in cgroups too, its disk stays. The kernel's boot ID stays as well, which a real boot changes.
func (m *Machine) Off(t testing.TB) {
	t.Helper()
	if p, err := os.FindProcess(m.first); err == nil {
		_ = p.Kill()
	}
	testkit.Eventually(t, 20*time.Second, m.Name+" is off", func() bool {
		return m.outer.Signal(syscall.Signal(0)) != nil
	})
	testkit.Run(t, m.w.wires, "ip", "link", "delete", m.Name)
	if err := kernel.DeleteNamedNetns(m.NS.Name); err != nil {
		t.Fatal(err)
	}
	for _, root := range cgroups() {
		testkit.Eventually(t, 10*time.Second, "the cgroups of "+m.Name+" are empty", func() bool {
			dirs, _ := filepath.Glob(filepath.Join(root, m.cgroup, "*/"))
			for _, d := range dirs {
				if info, err := os.Stat(d); err == nil && info.IsDir() && removeCgroup(d) != nil {
					return false
				}
			}
			return true
		})
	}
}

// On boots a machine that is off. It ends with the test that AddMachine had, as before.
func (m *Machine) On() { m.boot() }

// Kill ends processes of the machine by SIGKILL: those of a program, whose command line has all the arguments. It
// returns how many.
func (m *Machine) Kill(t testing.TB, program string, args ...string) (n int) {
	t.Helper()
	out, err := m.Try(t, "pidof", program)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(out) {
		if _, err := strconv.Atoi(pid); err != nil {
			t.Fatalf("pidof %s on %s: %q", program, m.Name, out)
		}
		line, err := m.Try(t, "cat", fmt.Sprintf("/proc/%s/cmdline", pid))
		if err != nil {
			continue // it ended
		}
		has := map[string]bool{}
		for _, w := range strings.Split(line, "\x00") {
			has[w] = true
		}
		all := true
		for _, a := range args {
			all = all && has[a]
		}
		if !all {
			continue
		}
		if _, err := m.Try(t, "kill", "-KILL", pid); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// KillSandbox ends the process that holds a pod's namespaces, of the namespace default.
func (m *Machine) KillSandbox(t testing.TB, pod string) {
	t.Helper()
	list := func(args ...string) []string {
		t.Helper()
		out, err := m.Try(t, append([]string{"ctr", "-n", "k8s.io"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(out)
	}
	live := list("tasks", "list", "-q")
	n := 0
	for _, id := range list("containers", "list", "-q", fmt.Sprintf(`labels."io.kubernetes.pod.name"==%s,labels."io.cri-containerd.kind"==sandbox`, pod)) {
		if slices.Contains(live, id) {
			list("tasks", "kill", "-s", "SIGKILL", id)
			n++
		}
	}
	if n != 1 {
		t.Fatalf("pod %s on %s has %d sandboxes, want 1", pod, m.Name, n)
	}
}
