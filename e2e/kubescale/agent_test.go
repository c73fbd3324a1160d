package kubescale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/testkit/kube"
	"weft/node/status"
)

// binaries is the directory of weft and weft-cni, built once.
var binaries string

func TestMain(m *testing.M) {
	if !kube.Here() { // the test is skipped
		os.Exit(m.Run())
	}
	os.Exit(testkit.RunWithWeft(m, &binaries))
}

// agent is the node service of one host, which may be started several times on the same directories.
type agent struct {
	ns   testkit.NS
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *os.File
}

func newAgent(t *testing.T, ns testkit.NS, args ...string) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-k-") // a test's own is too long for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{ns: ns, dir: dir, args: args}
	if a.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.stop(t)
		if b, _ := os.ReadFile(a.log.Name()); t.Failed() {
			t.Logf("weft node:\n%s", b[max(0, len(b)-6000):])
		}
		_ = a.log.Close()
		_ = os.RemoveAll(dir)
	})
	return a
}

func (a *agent) runDir() string { return filepath.Join(a.dir, "run") }

func (a *agent) start(t *testing.T) {
	t.Helper()
	a.cmd = exec.Command(filepath.Join(binaries, "weft"), append([]string{"node", "--run-dir", a.runDir(), "--data-dir", filepath.Join(a.dir, "data")}, a.args...)...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := kernel.Do(a.ns.Path, a.cmd.Start); err != nil {
		t.Fatal(err)
	}
}

func (a *agent) stop(t *testing.T) {
	t.Helper()
	if a.cmd == nil {
		return
	}
	_ = a.cmd.Process.Signal(os.Interrupt)
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("weft node ends: %v", err)
	}
	a.cmd = nil
}

// get asks the node service's own socket.
func (a *agent) get(ctx context.Context, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(a.runDir(), status.SocketName))
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// goroutines counts those of the node service.
func (a *agent) goroutines(t *testing.T) int {
	t.Helper()
	text, err := a.get(t.Context(), "/debug/pprof/goroutine?debug=1")
	var n int
	if err == nil {
		_, err = fmt.Sscanf(text, "goroutine profile: total %d", &n)
	}
	if err != nil {
		t.Error(err)
	}
	return n
}

// keep writes a profile of the node service to $WEFT_PROFILES/name, where that is set.
func (a *agent) keep(t *testing.T, name, path string) {
	t.Helper()
	dir := os.Getenv("WEFT_PROFILES")
	if dir == "" {
		return
	}
	text, err := a.get(t.Context(), "/debug/pprof/"+path)
	for end := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // it may just start
		text, err = a.get(t.Context(), "/debug/pprof/"+path)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}

// memory is what a process has, in bytes.
type memory struct{ resident, peak, proportional int64 }

func (m memory) String() string {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf("resident %.0f MiB, proportional %.0f MiB, peak of resident %.0f MiB", mib(m.resident), mib(m.proportional), mib(m.peak))
}

func (a *agent) memory(t *testing.T) memory {
	t.Helper()
	field := func(file, name string) int64 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", a.cmd.Process.Pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, name+":"); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
				return n << 10
			}
		}
		t.Fatalf("/proc/PID/%s has no %s", file, name)
		return 0
	}
	return memory{field("status", "VmRSS"), field("status", "VmHWM"), field("smaps_rollup", "Pss")}
}

// cpu is what the process has used so far: fields 14 and 15 of /proc/PID/stat (proc(5)), in ticks of 10 ms.
func (a *agent) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if err != nil || len(f) < 13 {
		t.Fatalf("read the processor time: %v, %d fields", err, len(f))
	}
	user, err1 := strconv.Atoi(f[11])
	sys, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+sys) * 10 * time.Millisecond
}

// attach runs the plugin as a container runtime does, and returns the pod's address.
func (a *agent) attach(t *testing.T, namespace, name string) string {
	t.Helper()
	ns := testkit.NewNetns(t)
	plugin := func(command string) []byte {
		cmd := exec.Command(filepath.Join(binaries, "weft-cni"))
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + name + "0123456789", "CNI_NETNS=" + ns.Path, "CNI_IFNAME=eth0", "CNI_PATH=/",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + name}
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"weft","type":"weft-cni","socket":%q}`, filepath.Join(a.runDir(), "cni.sock")))
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("CNI %s of %s: %v: %s", command, name, err, out)
		}
		return out
	}
	var result struct{ IPs []struct{ Address string } }
	if out := plugin("ADD"); json.Unmarshal(out, &result) != nil || len(result.IPs) == 0 {
		t.Fatalf("ADD of %s answered %s", name, out)
	}
	ip, _, _ := strings.Cut(result.IPs[0].Address, "/")
	return ip
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
