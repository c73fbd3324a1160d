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
			b.state[n] = hostState(b.t, testkit.NS{Path: "/run/netns/" + b.name + "." + n})
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
	for node, more := range map[string][]string{
		"n1": {"10-weft.conflist", bin + "/weft-cni"},
		"n2": {"chains and hooks of IPv4 in iptables (NFT)", " ipsets"},
	} {
		want := append(more, "the BGP speaker", "pod link weft", "routes of protocol 87", "routing rules of protocol 87", "device weft-vxlan", "device weft-ipip", "device weft-wg",
			"nftables table inet weft", "sysctl net/ipv4/ip_forward = 1 (was 0)", "directory "+c.lab.NodeRunDir(node))
		c.cleansUp(node, was.state[node], want, "--cni-bin-dir", bin, "--cni-conf-dir", conf)
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
			"--run-dir", c.lab.NodeRunDir(node), "--data-dir", c.lab.NodeDataDir(node)}, flags...)
		return c.weft("", append(command, args...)...)
	}
	if out, err := run("--pods"); err == nil || !strings.Contains(out, "another weft node (pid ") {
		t.Errorf("cleanup beside a running node: %v\n%s", err, out)
	}
	if _, err := c.lab.Stop(t.Context(), node, unix.SIGTERM); err != nil {
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
	if out, err := run("--pods", "--data"); err != nil || !strings.Contains(out, "things removed") {
		t.Errorf("cleanup: %v\n%s", err, out)
	}
	if d := emptyTables.ReplaceAllString(difference(was, hostState(t, ns)), ""); d != "" {
		t.Errorf("the host is not as it was (- before, + now):\n%s", d)
	}
	for _, gone := range []string{c.lab.NodeRunDir(node), c.lab.NodeDataDir(node)} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	if out, err := run(); err != nil || !strings.Contains(out, "nothing of weft is on this host") {
		t.Errorf("a second cleanup: %v\n%s", err, out)
	}
	if _, err := c.lab.Start(t.Context(), node); err != nil {
		t.Errorf("the node does not start again: %v", err)
	}
}
