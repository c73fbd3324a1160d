package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/lab"
)

// hostState is all of a host that a node changes: what a node keeps in the kernel, all links and addresses, traffic
// control, and every setting of the network.
func hostState(t testing.TB, ns testkit.NS) string {
	t.Helper()
	more := testkit.Run(t, ns, "sh", "-c", `ip -o link show; ip -o addr show; tc qdisc show; ipset save
for f in iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do $f-save; done | grep -v '^#'
sysctl -a 2>/dev/null | grep '^net' `)
	return nodeState(t, ns) + "\n" + moving.ReplaceAllString(more, "")
}

// moving is what changes on every host by itself, and addresses' lifetimes.
var moving = regexp.MustCompile(`(?m)^.*(nf_conntrack_count|nf_conntrack_hash|route.gc_|tcp_mem|udp_mem|stable_secret|_lft ).*\n|^\d+: `)

// emptyTables are what iptables makes around the first rule and leaves behind the last.
var emptyTables = regexp.MustCompile(`(?m)^\+ (table ip6? (raw|filter) \{|\t?\}|\tchain [A-Z]+ \{|\t\ttype filter hook .* policy accept;|\*raw|\*filter|:[A-Z]+ ACCEPT \[0:0\]|COMMIT)\n?`)

// before tells progress and takes the hosts' state once they are made and before a node runs on them.
type before struct {
	testWriter
	name  string
	state map[string]string
}

func (b before) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "underlay made") {
		for _, n := range labNodes {
			ns := testkit.NS{Path: "/run/netns/" + b.name + "." + n}
			// What the kernel changes together with forwarding, other than it does.
			testkit.Run(b.t, ns, "sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf."+uplink+".forwarding=1")
			b.state[n] = hostState(b.t, ns)
		}
	}
	return b.testWriter.Write(line)
}

// TestCleanup: a node that has had all that it can have on its host leaves it as it was.
func TestCleanup(t *testing.T) {
	testkit.Require(t, testkit.NFTables)
	const name = "e2ecleanup"
	dir, config := t.TempDir(), lab.DefaultConfig()
	bin, conf := filepath.Join(dir, "bin"), filepath.Join(dir, "net.d")
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--bgp"}
	}
	config.Nodes[0].Args = append(config.Nodes[0].Args, "--cni-bin-dir", bin, "--cni-conf-dir", conf)
	config.Nodes[1].Args = append(config.Nodes[1].Args, "--policy-driver", "iptables")
	was := before{testWriter{t}, name, map[string]string{}}
	c := newClusterTelling(t, name, config, was)
	c.apply(vxlanAlways.manifest() + "---\n" + felix(encrypted) + `---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: all(), types: [Ingress, Egress], ingress: [{action: Allow, source: {selector: all()}}, {action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/16}]}
`)
	c.pods()
	c.withIPIP()
	c.reaches("WireGuard")
	testkit.Eventually(t, 10*time.Second, "the CNI configuration is there", func() bool {
		_, err := os.Stat(filepath.Join(conf, "10-weft.conflist"))
		return err == nil
	})
	for _, x := range []struct {
		node, runDir string // as this host calls it
		want         []string
	}{
		{"n1", "/run/weft", []string{"10-weft.conflist", bin + "/weft-cni"}}, // another name of the directory that the processes were given
		{"n2", c.lab.NodeRunDir("n2"), []string{"chains and hooks of IPv4 in iptables (NFT)", " ipsets"}},
	} {
		node, want := x.node, append(x.want, "the BGP speaker", "pod link weft", "routes of protocol 87", "routing rules of protocol 87", "device weft-vxlan", "device weft-ipip", "device weft-wg",
			"nftables table inet weft", "sysctl net/ipv4/ip_forward = 1 (was 0)", "directory "+x.runDir)
		c.cleansUp(node, was.state[node], want, "--run-dir", x.runDir, "--cni-bin-dir", bin, "--cni-conf-dir", conf)
	}
	for _, gone := range []string{bin + "/weft-cni", conf + "/10-weft.conflist"} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
}

// cleansUp stops a node and cleans its host up, which then is as it was. want is what the dry run has to tell of.
func (c *cluster) cleansUp(node, was string, want []string, flags ...string) {
	t, ns := c.t, c.nodeNetns(node)
	t.Helper()
	run := func(args ...string) (string, error) {
		command := append([]string{"lab", "exec", "--name", c.lab.Name(), node, "--", filepath.Join(binaries, "weft"), "cleanup",
			"--data-dir", c.lab.NodeDataDir(node)}, flags...)
		return c.weft("", append(command, args...)...)
	}
	if out, err := run("--pods"); err == nil || !strings.Contains(out, "another weft node (pid ") {
		t.Errorf("cleanup beside a running node: %v\n%s", err, out)
	}
	if out, err := run("--dry-run"); err != nil || !strings.Contains(out, "pod link weft") {
		t.Errorf("dry run beside a running node: %v\n%s", err, out)
	}
	if _, err := c.lab.Stop(t.Context(), node, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, ns, "ip", "link", "add", "weft-lan", "type", "bridge")
	foreign := filepath.Join(c.lab.NodeRunDir(node), "precious")
	if err := os.WriteFile(foreign, []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := hostState(t, ns)
	if out, err := run(); err == nil || !strings.Contains(out, "2 pods are attached") {
		t.Errorf("cleanup with pods attached: %v\n%s", err, out)
	}
	out, err := run("--pods", "--dry-run")
	if err != nil {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	t.Log(out)
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("the dry run does not name %q", w)
		}
	}
	if d := difference(full, hostState(t, ns)); d != "" {
		t.Errorf("a dry run changed:\n%s", d)
	}
	if d := difference(was, full); len(strings.Split(d, "\n")) < 50 {
		t.Errorf("before the cleanup, the host differs from what it was only in\n%s", d)
	}
	c.remembers(node, func() (string, error) { return run("--pods", "--data") })
	if out, err := run("--pods", "--data"); err != nil || !strings.Contains(out, "things removed") {
		t.Errorf("cleanup: %v\n%s", err, out)
	}
	if b, err := os.ReadFile(foreign); err != nil || string(b) != "somebody else's" {
		t.Errorf("another's file: %v", err)
	}
	testkit.Run(t, ns, "ip", "link", "delete", "weft-lan")
	if err := os.Remove(foreign); err != nil {
		t.Error(err)
	}
	if err := os.Remove(c.lab.NodeRunDir(node)); err != nil {
		t.Errorf("there is more in the run directory than another's file: %v", err)
	}
	if d := emptyTables.ReplaceAllString(difference(was, hostState(t, ns)), ""); d != "" {
		t.Errorf("the host is not as it was (- before, + now):\n%s", d)
	}
	if _, err := os.Stat(c.lab.NodeDataDir(node)); !os.IsNotExist(err) {
		t.Errorf("the data directory is still there: %v", err)
	}
	if out, err := run(); err != nil || !strings.Contains(out, "nothing of weft is on this host") {
		t.Errorf("a second cleanup: %v\n%s", err, out)
	}
	if _, err := c.lab.Start(t.Context(), node); err != nil {
		t.Errorf("the node does not start again: %v", err)
	}
}

// remembers: where something cannot be put back, what it was is not forgotten.
func (c *cluster) remembers(node string, cleanup func() (string, error)) {
	c.t.Helper()
	file := filepath.Join(c.lab.NodeRunDir(node), "sysctls.json")
	sound, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	damaged := strings.Replace(string(sound), "{", `{"net/ipv4/conf/all/log_martians": {"was": "nonsense", "now": "0"},`, 1)
	if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if out, err := cleanup(); err == nil || !strings.Contains(out, "log_martians = nonsense") {
		c.t.Errorf("cleanup that cannot put a setting back: %v\n%s", err, out)
	}
	if _, err := os.Stat(file); err != nil {
		c.t.Errorf("after that, what settings were is lost: %v", err)
	}
	if err := os.WriteFile(file, sound, 0o600); err != nil {
		c.t.Fatal(err)
	}
}
