package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/bench/report"
	"weft/bench/result"
	"weft/internal/kernel"
	"weft/internal/testkit"
)

// commandVariable makes this test binary run `weft bench` with the arguments in it: a process of its own is the only
// thing that has a network namespace for all its goroutines, as a host's has.
const commandVariable = "WEFT_BENCH_TEST_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(commandVariable); ok {
		cmd := Command("test")
		cmd.SetArgs(strings.Fields(args))
		if cmd.Execute() != nil {
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

func inHost(t *testing.T, ns testkit.NS, args string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), commandVariable+"="+args)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := kernel.Do(ns.Path, cmd.Start); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// twoHosts are two network namespaces with a wire between them.
func twoHosts(t *testing.T) (a, b testkit.NS) {
	t.Helper()
	a, b = testkit.NewNetns(t), testkit.NewNetns(t)
	testkit.Wire(t, a, "eth0", b, "eth0")
	a.AddAddress(t, "eth0", "192.0.2.1/24")
	b.AddAddress(t, "eth0", "192.0.2.2/24")
	return a, b
}

const testToken = " --token a-token-of-the-tests "

// serve starts weft bench serve on a host.
func serve(t *testing.T, b testkit.NS) *exec.Cmd {
	t.Helper()
	server := inHost(t, b, "serve --listen 192.0.2.2"+testToken)
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	testkit.Eventually(t, 5*time.Second, "the server listens", func() bool {
		return strings.Contains(testkit.Run(t, b, "ss", "-ltn"), "192.0.2.2:7464")
	})
	return server
}

// measure measures for a moment from a host, and returns the MTU of each path and the report.
func measure(t *testing.T, a testkit.NS) (fits map[string]float64, md string) {
	t.Helper()
	dir := t.TempDir()
	if err := inHost(t, a, "mtu 192.0.2.2 --quick --rounds 1 --time 50ms --out "+dir+testToken).Wait(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "mtu.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := result.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	fits = map[string]float64{}
	for _, r := range records {
		if r.Metric == report.PathMTU {
			fits[r.Encapsulation] = r.Value
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	return fits, string(b)
}

// Where the kernel has IPIP, hosts without a tunnel of it are measured with one; a tunnel that is there keeps its packets.
func TestIPIPBetweenHosts(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.IPIP, testkit.IPRoute2)
	a, b := twoHosts(t)
	serve(t, b)
	links := func() string { return testkit.Run(t, a, "ip", "-br", "link") + testkit.Run(t, b, "ip", "-br", "link") }
	before := links()
	if fits, md := measure(t, a); fits["ipip"] != 1480 || strings.Contains(md, "ipip was not measured") {
		t.Errorf("what fits: %v, want 1480 by IPIP:\n%s", fits, md)
	}
	if after := links(); after != before {
		t.Errorf("links before:\n%s and after:\n%s", before, after)
	}
	for i, ns := range []testkit.NS{a, b} { // the device is in another namespace, and would be in the way here
		testkit.Run(t, ns, "ip", "link", "add", "same", "type", "ipip", "local", fmt.Sprintf("192.0.2.%d", i+1), "remote", fmt.Sprintf("192.0.2.%d", 2-i))
		testkit.Run(t, ns, "ip", "link", "delete", "same")
	}
	for i, ns := range []testkit.NS{a, b} {
		testkit.Run(t, ns, "ip", "link", "add", "tun9", "type", "ipip", "local", fmt.Sprintf("192.0.2.%d", i+1))
		testkit.Run(t, ns, "ip", "link", "set", "tun9", "up")
		testkit.Run(t, ns, "ip", "address", "add", fmt.Sprintf("198.51.100.%d/32", i+1), "dev", "tun9")
		testkit.Run(t, ns, "ip", "route", "add", fmt.Sprintf("198.51.100.%d", 2-i), "via", fmt.Sprintf("192.0.2.%d", 2-i), "dev", "tun9", "onlink")
	}
	without := func(host string) {
		t.Helper()
		fits, md := measure(t, a)
		if _, measured := fits["ipip"]; measured || !strings.Contains(md, "ipip was not measured: "+host+" has IPIP already, device tun9") {
			t.Errorf("beside a tunnel, what fits: %v:\n%s", fits, md)
		}
	}
	without("192.0.2.1")
	testkit.Run(t, a, "ping", "-c1", "-W2", "198.51.100.2")
	testkit.Run(t, a, "ip", "link", "set", "tun9", "down")
	without("192.0.2.2")
}

// Two namespaces are two hosts. Whatever is measured, the hosts have the links afterwards that they had before, also when
// the client or the server is killed in the middle.
func TestMTUBetweenHosts(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.VXLAN, testkit.IPRoute2)
	a, b := twoHosts(t)
	links := func() string {
		return testkit.Run(t, a, "ip", "-br", "link") + testkit.Run(t, b, "ip", "-br", "link")
	}
	before := links()
	server := serve(t, b)
	dir := t.TempDir()
	if err := inHost(t, a, "mtu 192.0.2.2 --token another-token --out "+dir).Wait(); err == nil {
		t.Error("another token is taken")
	}
	fits, md := measure(t, a)
	if fits["none"] != 1500 || fits["vxlan"] != 1450 {
		t.Errorf("what fits: %v, want 1500 plainly and 1450 by VXLAN", fits)
	}
	if _, measured := fits["ipip"]; measured == strings.Contains(md, "ipip was not measured: ") {
		t.Errorf("IPIP is measured or the report says why not, and not both: %v\n%s", fits, md)
	}
	if after := links(); after != before {
		t.Errorf("links before:\n%s and after:\n%s", before, after)
	}
	client := inHost(t, a, "mtu 192.0.2.2 --rounds 100 --out "+dir+testToken)
	vxlan := func() bool { return strings.Contains(testkit.Run(t, b, "ss", "-lun"), ":14789") }
	testkit.Eventually(t, 20*time.Second, "VXLAN's port is open", vxlan)
	_ = client.Process.Kill()
	_ = client.Wait()
	testkit.Eventually(t, 30*time.Second, "the server removed its ends", func() bool { return !vxlan() })
	client = inHost(t, a, "mtu 192.0.2.2 --rounds 100 --out "+dir+testToken)
	testkit.Eventually(t, 20*time.Second, "VXLAN's port is open again", vxlan)
	_ = server.Process.Kill()
	_ = server.Wait()
	_ = client.Wait() // it ends by itself
	testkit.Eventually(t, 10*time.Second, "nothing is left", func() bool { return !vxlan() && links() == before })
}
