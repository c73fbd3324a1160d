package bench

import (
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

// Two namespaces are two hosts. Whatever is measured, the hosts have the links afterwards that they had before, also when
// the client or the server is killed in the middle.
func TestMTUBetweenHosts(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.VXLAN, testkit.IPRoute2)
	a, b := testkit.NewNetns(t), testkit.NewNetns(t)
	testkit.Wire(t, a, "eth0", b, "eth0")
	a.AddAddress(t, "eth0", "192.0.2.1/24")
	b.AddAddress(t, "eth0", "192.0.2.2/24")
	links := func() string {
		return testkit.Run(t, a, "ip", "-br", "link") + testkit.Run(t, b, "ip", "-br", "link")
	}
	before := links()
	const token = " --token a-token-of-the-tests "
	server := inHost(t, b, "serve --listen 192.0.2.2"+token)
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	testkit.Eventually(t, 5*time.Second, "the server listens", func() bool {
		return strings.Contains(testkit.Run(t, b, "ss", "-ltn"), "192.0.2.2:7464")
	})
	dir := t.TempDir()
	if err := inHost(t, a, "mtu 192.0.2.2 --token another-token --out "+dir).Wait(); err == nil {
		t.Error("another token is taken")
	}
	if err := inHost(t, a, "mtu 192.0.2.2 --quick --rounds 1 --time 50ms --out "+dir+token).Wait(); err != nil {
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
	fits := map[string]float64{}
	for _, r := range records {
		if r.Metric == report.PathMTU {
			fits[r.Encapsulation] = r.Value
		}
	}
	if fits["none"] != 1500 || fits["vxlan"] != 1450 {
		t.Errorf("what fits: %v, want 1500 plainly and 1450 by VXLAN", fits)
	}
	if md, err := os.ReadFile(filepath.Join(dir, "report.md")); err != nil || !strings.Contains(string(md), "IPIP was not measured: ") {
		t.Errorf("the report does not say why IPIP is missing: %v\n%s", err, md)
	}
	if after := links(); after != before {
		t.Errorf("links before:\n%s and after:\n%s", before, after)
	}
	client := inHost(t, a, "mtu 192.0.2.2 --rounds 100 --out "+dir+token)
	vxlan := func() bool { return strings.Contains(testkit.Run(t, b, "ss", "-lun"), ":14789") }
	testkit.Eventually(t, 20*time.Second, "VXLAN's port is open", vxlan)
	_ = client.Process.Kill()
	_ = client.Wait()
	testkit.Eventually(t, 30*time.Second, "the server removed its ends", func() bool { return !vxlan() })
	client = inHost(t, a, "mtu 192.0.2.2 --rounds 100 --out "+dir+token)
	testkit.Eventually(t, 20*time.Second, "VXLAN's port is open again", vxlan)
	_ = server.Process.Kill()
	_ = server.Wait()
	_ = client.Wait() // it ends by itself
	testkit.Eventually(t, 10*time.Second, "nothing is left", func() bool { return !vxlan() && links() == before })
}
