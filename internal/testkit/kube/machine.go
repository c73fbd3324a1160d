package kube

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
)

//go:embed node
var nodeFiles embed.FS

// maxMachines is how many machines a Whole can have.
const maxMachines = 4

func machineName(i int) string { return fmt.Sprintf("node%d", i+1) }

// Machine is a host of a Whole: Debian's containerd and runc, the real kubelet and kube-proxy, in network, mount, UTS
// and PID namespaces of their own.
type Machine struct {
	Name    string
	Address netip.Addr
	NS      testkit.NS

	life   testing.TB // what it ends with
	w      *Whole
	index  int // among the machines of w, from 0 on
	proxy  bool
	dir    string
	cgroup string
	outer  *os.Process // ends with it
	first  int         // process of its PID namespace that is 1 inside
}

// AddMachine adds a host and starts its kubelet; images are files that its containerd imports. proxyMode is
// kube-proxy's, or empty: no kube-proxy.
func (w *Whole) AddMachine(t testing.TB, proxyMode string, images ...string) *Machine {
	t.Helper()
	for _, p := range []string{"containerd", "ctr", "runc", "unshare", "nsenter"} {
		if _, err := exec.LookPath(p); err != nil {
			absent(t, err)
		}
	}
	i := len(w.Machines)
	if i == maxMachines {
		t.Fatalf("a cluster has %d machines at most", maxMachines)
	}
	m := &Machine{Name: machineName(i), Address: underlay(i).Addr(), life: t, w: w, index: i, proxy: proxyMode != "", dir: t.TempDir()}
	m.cgroup = fmt.Sprintf("weft-%d-%s", os.Getpid(), m.Name)
	m.makeCgroups(t)
	m.writeFiles(t, w, proxyMode, images)
	m.makeDisk(t)
	m.boot()
	w.Machines = append(w.Machines, m)
	return m
}

// ips are the addresses that the kubelet tells of.
func (m *Machine) ips() string {
	if m.w.Dual {
		return m.Address.String() + "," + underlay6(m.index).Addr().String()
	}
	return m.Address.String()
}

// makeDisk makes what outlives the machine being off. It is memory: containers' file systems may not be on an overlay.
func (m *Machine) makeDisk(t testing.TB) {
	t.Helper()
	disk := filepath.Join(m.dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("disk", disk, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount the disk of %s: %v", m.Name, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the disk of %s: %v", m.Name, err)
		}
	})
}

// boot puts the machine on the network and starts it.
func (m *Machine) boot() {
	t := m.life
	t.Helper()
	m.NS = testkit.NewNetns(t)
	m.w.join(t, m.NS, m.Name, m.index)
	env := []string{"NODE_DIR=" + m.dir, "NODE_NAME=" + m.Name, "KUBE_BIN=" + filepath.Dir(Binary(t, "kubelet")), "NODE_IPS=" + m.ips()}
	config := ""
	if m.proxy {
		config = filepath.Join(m.dir, "proxy.yaml")
	}
	env = append(env, "PROXY_CONFIG="+config)
	args := []string{"--net=" + m.NS.Path, "env"}
	args = append(append(args, env...), "unshare", "--mount", "--propagation", "private", "--uts", "--pid", "--fork", "--kill-child=KILL",
		"bash", filepath.Join(m.dir, "run.sh"))
	m.outer = startProgram(t, filepath.Join(m.dir, "run.log"), "nsenter", args...)
	testkit.Eventually(t, 10*time.Second, m.Name+" starts", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.outer.Pid))
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(children), &m.first)
		return err == nil
	})
}

// writeFiles writes the machine's configuration.
func (m *Machine) writeFiles(t testing.TB, w *Whole, proxyMode string, images []string) {
	t.Helper()
	values := map[string]string{"NODE_DIR": m.dir, "NODE_NAME": m.Name, "NODE_ADDRESS": m.Address.String(), "CGROUP": m.cgroup, "PROXY_MODE": proxyMode}
	for _, name := range []string{"run.sh", "containerd.toml", "kubelet.yaml", "proxy.yaml"} {
		b, err := nodeFiles.ReadFile("node/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if filepath.Ext(name) != ".sh" {
			text = os.Expand(text, func(v string) string { return values[v] })
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, role := range map[string]string{"kubeconfig": m.Name, "proxy.kubeconfig": proxyUser} {
		if err := os.Rename(w.Kubeconfig(t, role, ""), filepath.Join(m.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(m.dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		path, err := filepath.Abs(image)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err == nil {
			err = os.Symlink(path, filepath.Join(m.dir, "images", filepath.Base(path)))
		}
		if err != nil {
			t.Fatalf("image for %s: %v", m.Name, err)
		}
	}
}

// cgroups are the hierarchies of this machine: one for each controller in cgroup v1, the only one in v2.
func cgroups() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	all, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for i, f := range all {
		all[i] = filepath.Dir(f)
	}
	return all
}

// removeStale removes cgroups of test programs that were killed.
func removeStale() {
	for _, root := range cgroups() {
		dirs, _ := filepath.Glob(filepath.Join(root, "weft-*-"+strings.TrimRight(machineName(0), "1")+"*"))
		for _, d := range dirs {
			var pid int
			if _, err := fmt.Sscanf(filepath.Base(d), "weft-%d-", &pid); err != nil {
				continue
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, fs.ErrNotExist) {
				_ = removeCgroup(d)
			}
		}
	}
}

// makeCgroups makes the machine's cgroup in each hierarchy, removed when the test ends. That fails while a process
// is in one: so it is the proof that no container is left.
func (m *Machine) makeCgroups(t testing.TB) {
	t.Helper()
	removeStale()
	for _, root := range cgroups() {
		dir := filepath.Join(root, m.cgroup)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			limit := time.Now().Add(10 * time.Second)
			err := removeCgroup(dir)
			for ; err != nil && time.Now().Before(limit); err = removeCgroup(dir) {
				time.Sleep(20 * time.Millisecond)
			}
			if err != nil {
				t.Errorf("left behind: %v", err)
			}
		})
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(filepath.Join(root, f)); err == nil {
				_ = os.WriteFile(filepath.Join(dir, f), b, 0)
			}
		}
		if root == "/sys/fs/cgroup" { // v2: a controller is there below only if it is said so
			_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+cpu +memory +pids +cpuset +io"), 0)
		}
	}
}

// removeCgroup removes a cgroup and those below it.
func removeCgroup(dir string) error {
	var errs []error
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // gone meanwhile
	})
	errs = append(errs, err)
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Try runs a command on the machine, in all its namespaces, and returns its standard output.
func (m *Machine) Try(t testing.TB, command ...string) (string, error) {
	t.Helper()
	args := append([]string{"-t", fmt.Sprint(m.first), "--net", "--mount", "--uts", "--pid"}, command...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a test that is over may ask too
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("on %s: %s: %w: %s", m.Name, strings.Join(command, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}
