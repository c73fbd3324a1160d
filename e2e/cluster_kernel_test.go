package e2e

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/lab"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

// binaries is the directory of weft and weft-cni, built once.
var binaries string

func TestMain(m *testing.M) { os.Exit(testkit.RunWithWeft(m, &binaries)) }

// cluster is a lab that is taken down, and checked for leaks, when the test ends.
type cluster struct {
	t     *testing.T
	lab   *lab.Lab
	store *etcd.Store
	addrs map[string]netip.Addr   // by pod, the first
	every map[string][]netip.Addr // by pod, of both families
}

func newCluster(t *testing.T, name string) *cluster {
	t.Helper()
	return newClusterOf(t, name, lab.DefaultConfig())
}

// newClusterOf makes a lab whose nodes speak no BGP unless their arguments say so: its processes and packets are not
// what most tests are about.
func newClusterOf(t *testing.T, name string, config lab.Config) *cluster {
	t.Helper()
	return newClusterTelling(t, name, config, testWriter{t})
}

// newClusterTelling is newClusterOf that tells how far it is, line by line, while it waits for the reader.
func newClusterTelling(t *testing.T, name string, config lab.Config, progress io.Writer) *cluster {
	t.Helper()
	for i := range config.Nodes {
		config.Nodes[i].Args = append([]string{"--bgp=false"}, config.Nodes[i].Args...)
	}
	testkit.RequireRoot(t)
	testkit.LeakCheck(t)
	l, err := lab.New(name, lab.Options{Binary: filepath.Join(binaries, "weft"), Progress: progress})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := l.Down(context.Background()); err != nil {
			t.Errorf("lab down: %v", err)
		}
	})
	if err := l.Up(t.Context(), config, false); err != nil {
		t.Fatal(err)
	}
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{l.StoreEndpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &cluster{t: t, lab: l, store: store, addrs: map[string]netip.Addr{}, every: map[string][]netip.Addr{}}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// apply runs weft apply against the lab's store.
func (c *cluster) apply(manifest string) {
	c.t.Helper()
	if out, err := c.weft(manifest, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("weft apply: %v\n%s", err, out)
	}
}

func (c *cluster) weft(stdin string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(binaries, "weft"), args...)
	cmd.Env = append(os.Environ(), "WEFT_ETCD_ENDPOINTS="+c.lab.StoreEndpoint())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pool applies the pool with a mode.
func (c *cluster) pool(mode string) {
	c.t.Helper()
	c.apply(`
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: default-ipv4-ippool}
spec: {cidr: 10.244.0.0/16, blockSize: 26, vxlanMode: ` + mode + `, ipipMode: Never, natOutgoing: true, nodeSelector: all()}
`)
}

// pods attaches one pod to each node, named as the node.
func (c *cluster) pods() {
	c.t.Helper()
	for _, n := range []string{"n1", "n2", "n3"} {
		c.pod(n, n)
	}
}

func (c *cluster) pod(node, name string) { c.t.Helper(); c.podOf(node, name, "default-ipv4-ippool") }

// podOf attaches a pod with an IPv4 address of a pool.
func (c *cluster) podOf(node, name, pool string) {
	c.t.Helper()
	res, err := c.lab.AddPod(c.t.Context(), lab.PodSpec{Node: node, Namespace: "default", Name: name,
		Annotations: map[string]string{"cni.projectcalico.org/ipv4pools": `["` + pool + `"]`}})
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := types100.GetResult(res)
	if err != nil || len(r.IPs) == 0 {
		c.t.Fatalf("CNI result %v: %v", res, err)
	}
	c.every[name] = nil
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		c.every[name] = append(c.every[name], a.Unmap())
	}
	c.addrs[name] = c.every[name][0]
}

func (c *cluster) netns(pod string) testkit.NS {
	name := c.lab.PodNetns("default", pod)
	return testkit.NS{Name: name, Path: kernel.NetnsPath(name)}
}

func (c *cluster) nodeNetns(node string) testkit.NS {
	name := c.lab.Netns(node)
	return testkit.NS{Name: name, Path: kernel.NetnsPath(name)}
}

// reach waits until a node reaches a peer as wanted and returns the path.
func (c *cluster) reach(node, peer, want string) status.Path {
	c.t.Helper()
	var last status.Path
	testkit.Eventually(c.t, 10*time.Second, fmt.Sprintf("%s reaches %s by %s", node, peer, want), func() bool {
		st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
		if err != nil {
			return false
		}
		for _, p := range st.Peers {
			if p.Node == peer && len(p.Paths) > 0 {
				last = p.Paths[0]
				return last.Reach == want
			}
		}
		return false
	})
	return last
}

var pingCounts = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// stream is a ping that runs while something else happens.
type stream struct {
	cmd *exec.Cmd
	out *strings.Builder
	t   *testing.T
}

// ping starts echo requests from one pod to another, one each interval.
func (c *cluster) ping(from, to string, count int, interval time.Duration) *stream {
	c.t.Helper()
	s := &stream{out: &strings.Builder{}, t: c.t}
	s.cmd = exec.Command("ping", "-q", "-n", "-i", fmt.Sprintf("%.3f", interval.Seconds()), "-c", strconv.Itoa(count), "-W", "1", c.addrs[to].String())
	s.cmd.Stdout = s.out
	if err := kernel.Do(c.netns(from).Path, s.cmd.Start); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// wait returns how many were sent and how many were not answered.
func (s *stream) wait() (sent, lost int) {
	s.t.Helper()
	_ = s.cmd.Wait() // exits 1 when nothing was answered
	m := pingCounts.FindStringSubmatch(s.out.String())
	if m == nil {
		s.t.Fatalf("ping said %q", s.out)
	}
	sent, _ = strconv.Atoi(m[1])
	got, _ := strconv.Atoi(m[2])
	return sent, sent - got
}

// mesh pings every ordered pair of the three pods and returns how many pairs answered.
func (c *cluster) mesh(pairs [][2]string) (ok int) {
	c.t.Helper()
	var all []*stream
	for _, p := range pairs {
		all = append(all, c.ping(p[0], p[1], 5, 20*time.Millisecond))
	}
	for _, s := range all {
		if _, lost := s.wait(); lost == 0 {
			ok++
		}
	}
	return ok
}

func everyPair() [][2]string {
	var out [][2]string
	for _, a := range []string{"n1", "n2", "n3"} {
		for _, b := range []string{"n1", "n2", "n3"} {
			if a != b {
				out = append(out, [2]string{a, b})
			}
		}
	}
	return out
}
