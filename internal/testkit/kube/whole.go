package kube

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// Whole is a Cluster with Kubernetes' controllers and scheduler, on a network that machines can be added to. Its API
// server is reached from the test's own network namespace, which has one end of a wire to that network meanwhile: so
// it has to be one that leads nowhere, which hack/in-netns makes.
type Whole struct {
	*Cluster
	Machines []*Machine
	// Dual tells that hosts have IPv6 addresses too, and Services of both families.
	Dual bool

	kubectl    string
	kubeconfig string
	wires      testkit.NS // has the bridge
}

const (
	uplink    = "kube0"      // of the test's own namespace
	proxyUser = "kube-proxy" // system:kube-proxy, as Kubernetes binds its role
	mask      = 24
)

// underlay is where machine i is; the control plane is the last.
func underlay(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 78, 0, byte(i + 1)}), mask)
}

// underlay6 is the same for IPv6, where there is that.
func underlay6(i int) netip.Prefix {
	a := netip.MustParseAddr("fd78::").As16()
	a[15] = byte(i + 1)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// last is what of underlay the control plane has.
const last = 253

var controlPlane = underlay(last)

// StartWhole starts a cluster without machines, that ends with the test.
func StartWhole(t testing.TB) *Whole { t.Helper(); return startWhole(t, false) }

// StartDual is StartWhole with both address families.
func StartDual(t testing.TB) *Whole { t.Helper(); return startWhole(t, true) }

func startWhole(t testing.TB, dual bool) *Whole {
	t.Helper()
	w := startHosts(t, dual)
	at := func(name string) string { return filepath.Join(w.dir, name) }
	common := []string{"--kubeconfig=" + w.kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1"}
	startProgram(t, at("controllers.log"), Binary(t, "kube-controller-manager"), append(common, "--secure-port=10257", "--cert-dir="+at("controllers"),
		"--service-account-private-key-file="+at("sa.key"), "--root-ca-file="+w.CAFile(), "--use-service-account-credentials=true",
		"--node-monitor-period=2s")...)
	startProgram(t, at("scheduler.log"), Binary(t, "kube-scheduler"), append(common, "--secure-port=10259", "--cert-dir="+at("scheduler"))...)
	return w
}

// StartHosts starts the API server alone, on a network that hosts can be added to: nothing writes into it but the test
// and what it starts there.
func StartHosts(t testing.TB) *Whole { t.Helper(); return startHosts(t, false) }

func startHosts(t testing.TB, dual bool) *Whole {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.Bridge)
	bin := Binary(t, "kube-apiserver")
	w := &Whole{wires: testkit.NewNetns(t), kubectl: Binary(t, "kubectl"), Dual: dual}
	w.wire(t)
	var err error
	if w.Cluster, err = start(bin, controlPlane.Addr(), dual); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	w.kubeconfig = w.Kubeconfig(t, Admin, "")
	return w
}

// wire makes the network and joins the test's own namespace to it.
func (w *Whole) wire(t testing.TB) {
	t.Helper()
	testkit.Run(t, w.wires, "ip", "link", "add", "br0", "type", "bridge")
	testkit.Run(t, w.wires, "ip", "link", "set", "br0", "up")
	own := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := exec.Command("ip", "route", "show", "default").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("this network namespace leads somewhere (%s, %v): run the test by hack/in-netns", strings.TrimSpace(string(out)), err)
	}
	own("link", "add", uplink, "type", "veth", "peer", "name", "control", "netns", w.wires.Name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", uplink).Run() })
	testkit.Run(t, w.wires, "ip", "link", "set", "control", "master", "br0", "up")
	own("address", "add", controlPlane.String(), "dev", uplink)
	if w.Dual {
		own("address", "add", underlay6(last).String(), "dev", uplink, "nodad")
	}
	own("link", "set", uplink, "up")
}

// startProgram starts a program that is killed when the test ends; it returns its process.
func startProgram(t testing.TB, log, name string, args ...string) *os.Process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	ended, err := spawn(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = f.Close()
	})
	return cmd.Process
}

// Kubectl runs kubectl as the administrator; an error ends the test.
func (w *Whole) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := w.TryKubectl(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Apply applies manifests that are given as text.
func (w *Whole) Apply(t testing.TB, manifests string) {
	t.Helper()
	if _, err := w.TryKubectl(t, manifests, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// TryKubectl runs kubectl with a standard input, and returns its standard output.
func (w *Whole) TryKubectl(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // a test that is over may ask too
	defer cancel()
	cmd := exec.CommandContext(ctx, w.kubectl, append([]string{"--kubeconfig=" + w.kubeconfig, "--cache-dir=" + filepath.Join(w.dir, "kubectl")}, args...)...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// Logs writes the ends of all programs' logs to the test's, for one that failed.
func (w *Whole) Logs(t testing.TB) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(w.dir, "*.log"))
	for _, m := range w.Machines {
		more, _ := filepath.Glob(filepath.Join(m.dir, "*.log"))
		files = append(files, more...)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f)
		t.Logf("%s ends:\n%s", f, b[max(0, len(b)-3000):])
	}
}

// AwaitNodes waits until every machine's node is ready.
func (w *Whole) AwaitNodes(t testing.TB, limit time.Duration) time.Duration {
	t.Helper()
	return testkit.Eventually(t, limit, "all nodes are ready", func() bool {
		time.Sleep(200 * time.Millisecond)
		out, err := w.TryKubectl(t, "", "get", "nodes", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		return err == nil && strings.Count(out, "True") == len(w.Machines)
	})
}

// AddHost adds a network namespace to the cluster's network, without a kubelet, and returns it with its address. i tells
// such hosts from each other, from 0 on.
func (w *Whole) AddHost(t testing.TB, i int) (testkit.NS, netip.Addr) {
	t.Helper()
	ns, address := testkit.NewNetns(t), underlay(200+i)
	w.join(t, ns, fmt.Sprintf("host%d", i), 200+i)
	return ns, address.Addr()
}

// join puts a namespace on the network, as host i.
func (w *Whole) join(t testing.TB, ns testkit.NS, port string, i int) {
	t.Helper()
	err := kernel.AddWire(kernel.WireEnd{Namespace: w.wires.Name, Name: port, Bridge: "br0"}, kernel.WireEnd{Namespace: ns.Name, Name: "eth0"}, 1500)
	if err != nil {
		t.Fatal(err)
	}
	// A host that boots again has the network card that it had.
	testkit.Run(t, ns, "ip", "link", "set", "eth0", "address", fmt.Sprintf("02:00:00:00:78:%02x", i))
	ns.AddAddress(t, "eth0", underlay(i).String())
	// Towards service addresses a host has to have a route, before the service proxy translates them.
	testkit.Run(t, ns, "ip", "route", "add", "default", "via", controlPlane.Addr().String())
	if w.Dual {
		testkit.Run(t, ns, "ip", "address", "add", underlay6(i).String(), "dev", "eth0", "nodad")
		testkit.Run(t, ns, "ip", "route", "add", "default", "via", underlay6(last).Addr().String())
	}
}
