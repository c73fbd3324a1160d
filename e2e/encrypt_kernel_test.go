package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/status"
)

const (
	encrypted = "{wireguardEnabled: true}"
	uplink    = "eth0" // of a lab's node
)

// reaches waits until every node reaches every peer by one way and returns how long it took.
func (c *cluster) reaches(way string) time.Duration {
	c.t.Helper()
	want := map[string]string{}
	for _, a := range labNodes {
		for _, b := range labNodes {
			want[a+" "+b] = way
		}
	}
	return c.settle(vxlanAlways, labNodes, want)
}

// tap reads what passes the uplink of every node; the returned function ends that, and tells what was seen.
func (c *cluster) tap() func() traffic.Seen {
	c.t.Helper()
	var taps []*traffic.Tap
	for _, n := range labNodes {
		t, err := traffic.OpenTap(c.nodeNetns(n).Path, uplink, traffic.Cookie)
		if err != nil {
			c.t.Fatal(err)
		}
		taps = append(taps, t)
	}
	stop := func() (sum traffic.Seen) {
		for _, t := range taps {
			seen, err := t.Stop()
			if err != nil {
				c.t.Error(err)
			}
			sum = sum.Add(seen)
		}
		return sum
	}
	c.t.Cleanup(func() { stop() })
	return stop
}

// nothingInClear judges what taps saw.
func (c *cluster) nothingInClear(what string, seen traffic.Seen) {
	c.t.Helper()
	c.t.Logf("%s: %d of %d packets on the wire in clear", what, seen.Clear, seen.Packets)
	figures.Write(c.t, "wire", figures.Share(what, "clear", int64(seen.Clear), "inspected", int64(seen.Packets))...)
	if seen.Clear > 0 {
		c.t.Errorf("%s: %d of %d packets on the wire hold the cookie, the first one\n%x", what, seen.Clear, seen.Packets, seen.First)
	}
	if seen.Packets < 1000 {
		c.t.Errorf("%s: only %d packets were read", what, seen.Packets)
	}
}

// apart are packets of which two processors with other work to do encrypt all in user space.
const apart = 5 * time.Millisecond

// encryptedLoad is traffic between any two pods of different nodes: one packet each 5 ms, or at 1 kHz each where
// WEFT_KHZ is set: two processors carry that in user space as long as they have nothing else to do.
func (c *cluster) encryptedLoad(hosts []traffic.Host) *traffic.Run {
	c.t.Helper()
	if os.Getenv("WEFT_KHZ") != "" {
		return c.loadEvery(hosts, time.Millisecond)
	}
	return c.loadEvery(hosts, apart)
}

func (c *cluster) loadEvery(hosts []traffic.Host, interval time.Duration) *traffic.Run {
	c.t.Helper()
	r, err := traffic.Start(c.t.Context(), traffic.Config{Hosts: hosts, Interval: interval, TCP: true, Warm: 20 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// TestEncryptionOnAndOff switches encryption on and off, and rotates keys and changes the pool meanwhile, in a
// living cluster under traffic: nothing is lost, and while it is on nothing is in clear on any uplink.
func TestEncryptionOnAndOff(t *testing.T) {
	c := newCluster(t, "e2ecrypt")
	c.apply(vxlanAlways.manifest())
	c.pods()
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	c.settle(vxlanAlways, labNodes, nil)
	way := func(what, spec, reach string) step {
		return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.reaches(reach) }}
	}
	on, off := way("on", encrypted, "WireGuard"), way("off", "{}", "VXLAN")
	c.whole("encryption on, off and on", c.through(c.encryptedLoad(hosts), []step{on, off, on}))

	r, stop := c.encryptedLoad(hosts), c.tap()
	pool := func(m poolMode) step {
		return step{what: "pool " + m.String(), manifest: m.manifest(), settle: func() time.Duration { return c.reaches("WireGuard") }}
	}
	rotate := func(epoch int) step {
		return step{what: fmt.Sprintf("key %d", epoch), manifest: felix(fmt.Sprintf("{wireguardEnabled: true, wireguardKeyEpoch: %d}", epoch)),
			settle: func() time.Duration { return c.keys(epoch) }}
	}
	c.whole("rotations of keys and changes of the pool, encrypted", c.through(r, []step{rotate(1), pool(ipipCross), pool(noneMode), rotate(2), pool(vxlanAlways)}))
	c.nothingInClear("rotations and changes of the pool", stop())
	for _, n := range labNodes {
		st, err := status.Fetch(t.Context(), c.lab.NodeRunDir(n))
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Problems) > 0 {
			t.Errorf("%s has problems: %v", n, st.Problems)
		}
	}
	off = way("off", "{wireguardEnabled: false, wireguardKeyEpoch: 2}", "VXLAN")
	c.whole("encryption off", c.through(c.encryptedLoad(hosts), []step{off}))
	for _, n := range labNodes {
		c.devices(n, "weft-vxlan")
		if rules := testkit.Run(t, c.nodeNetns(n), "nft", "list", "table", "inet", "weft"); strings.Contains(rules, "encryption-") {
			t.Errorf("%s is left with the guard:\n%s", n, rules)
		}
	}
}

// keys waits until every node has a key of this epoch and no other, and reaches its peers by it.
func (c *cluster) keys(epoch int) time.Duration {
	c.t.Helper()
	var wrong []string
	defer func() {
		if c.t.Failed() {
			c.t.Log(strings.Join(wrong, "\n"))
		}
	}()
	return testkit.Eventually(c.t, 40*time.Second, fmt.Sprintf("only keys of epoch %d are left", epoch), func() bool {
		wrong = nil
		for _, n := range labNodes {
			out, err := c.weft("", "plan", "encryption", "--run-dir", c.lab.NodeRunDir(n))
			if err != nil || strings.Count(out, "device ") != 1 || !strings.Contains(out, fmt.Sprintf("epoch %d ", epoch)) {
				wrong = append(wrong, fmt.Sprintf("%s: %v\n%s", n, err, out))
			}
			files, err := os.ReadDir(filepath.Join(c.lab.NodeDataDir(n), "encryption"))
			var have []string
			for _, f := range files {
				if strings.HasPrefix(f.Name(), "key-") {
					have = append(have, f.Name())
				}
			}
			if err != nil || !slices.Equal(have, []string{fmt.Sprintf("key-%d", epoch)}) {
				wrong = append(wrong, fmt.Sprintf("%s has the key files %v, %v", n, have, err))
			}
		}
		return len(wrong) == 0
	})
}

// TestEncryptionOutlivesTheNode kills node services and the processes of the devices at random moments under
// traffic: the former loses nothing, and neither lets anything out in clear.
func TestEncryptionOutlivesTheNode(t *testing.T) {
	c := newCluster(t, "e2ecryptkill")
	c.apply(vxlanCross.manifest() + "---\n" + felix(encrypted))
	c.pods()
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	c.reaches("WireGuard")
	c.forGood()
	r, stop := c.loadEvery(hosts, apart), c.tap() // a node that starts takes its time, too
	kills := often("WEFT_KILLS", 20)
	for i := range kills {
		n := labNodes[i%len(labNodes)]
		if _, err := c.lab.Stop(t.Context(), n, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := c.lab.Start(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	c.reaches("WireGuard")
	c.whole(fmt.Sprintf("%d kills of node services, encrypted", kills), r.Stop())
	c.nothingInClear("kills", stop())

	r, stop = c.loadEvery(hosts, apart), c.tap()
	var took []time.Duration
	for i := range often("WEFT_PROCESS_KILLS", 6) {
		n := labNodes[i%len(labNodes)]
		to, pid, begin := c.addrs[labNodes[(i+1)%len(labNodes)]], c.deviceProcess(n), time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatalf("kill the process %d of the device of %s: %v", pid, n, err)
		}
		testkit.Eventually(t, 10*time.Second, "the device of "+n+" carries again", func() bool {
			_, err := testkit.Try(t, c.netns(n), "ping", "-n", "-q", "-c", "1", "-W", "0.2", to.String())
			return err == nil && c.deviceProcess(n) != pid
		})
		took = append(took, time.Since(begin))
		time.Sleep(400 * time.Millisecond) // one that ends within a second of its start, again and again, is started later and later
	}
	total := r.Stop().Total()
	slices.Sort(took)
	t.Logf("%d kills of a device's process: it carries again after %v (median), %v (longest); %d of %d packets lost", len(took), took[len(took)/2], took[len(took)-1],
		total.Lost, total.Sent)
	figures.Write(t, "wire", figures.Seconds("carries_again", "", took...)...)
	if limit := testkit.Patient(time.Second); total.Lost == 0 || took[len(took)/2] > limit {
		t.Errorf("half of the killed processes were away for %v and more, want %v at most; %d packets were lost, want some", took[len(took)/2], limit, total.Lost)
	}
	c.nothingInClear("kills of processes", stop())
}

// often is how often a test does something: as an environment variable says, else n times.
func often(variable string, n int) int {
	if v, err := strconv.Atoi(os.Getenv(variable)); err == nil && v > 0 {
		return v
	}
	return testkit.Count(n)
}

// deviceProcess finds the process of a node's WireGuard device; 0: there is none.
func (c *cluster) deviceProcess(node string) int {
	c.t.Helper()
	for _, f := range strings.Fields(testkit.Run(c.t, c.nodeNetns(node), "ip", "netns", "pids", c.nodeNetns(node).Name)) {
		cmd, _ := os.ReadFile("/proc/" + f + "/cmdline")
		if pid, err := strconv.Atoi(f); err == nil && strings.Contains(string(cmd), "wireguard-userspace") {
			return pid
		}
	}
	return 0
}

// forGood waits until no node sends in clear any more, whatever happens.
func (c *cluster) forGood() {
	c.t.Helper()
	testkit.Eventually(c.t, 20*time.Second, "encryption is on for good", func() bool {
		for _, n := range labNodes {
			b, err := os.ReadFile(filepath.Join(c.lab.NodeDataDir(n), "encryption", "rollout.json"))
			if err != nil || !strings.Contains(string(b), `"over":true`) {
				return false
			}
		}
		return true
	})
}

// TestWithoutAKey: n3's key file is corrupt. In the mode Preferred its traffic goes in clear, which the taps
// show: that is the control. In the mode Required it does so until the grace period is over, and then not at
// all; the other two encrypt, and n3 joins them when it has a key.
func TestWithoutAKey(t *testing.T) {
	config := lab.DefaultConfig()
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--encryption-grace", "4s"}
	}
	c := newClusterOf(t, "e2enokey", config)
	c.apply(vxlanAlways.manifest())
	c.pods()
	c.settle(vxlanAlways, labNodes, nil)
	dir := filepath.Join(c.lab.NodeDataDir("n3"), "encryption")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key-0")
	if err := os.WriteFile(key, []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ends := func(a, b string) []traffic.Host { return slices.Concat(c.hosts(a), c.hosts(b)) }
	c.apply(felix("{wireguardEnabled: true, encryptionMode: Preferred}"))
	c.settle(vxlanAlways, labNodes, map[string]string{"n1 n2": "WireGuard", "n2 n1": "WireGuard"})
	r, stop := c.encryptedLoad(ends("n1", "n3")), c.tap()
	time.Sleep(time.Second)
	rep := r.Stop()
	c.whole("encryption Preferred, to the node without a key", rep)
	seen := stop()
	t.Logf("control, Preferred: %d of %d packets on the wire in clear", seen.Clear, seen.Packets)
	figures.Write(t, "wire", figures.Share("control: a node without a key, Preferred", "clear", int64(seen.Clear), "inspected", int64(seen.Packets))...)
	if seen.Clear < int(rep.Total().Sent) {
		t.Errorf("control: only %d of %d packets are seen in clear where all are", seen.Clear, seen.Packets)
	}

	c.apply(felix("{wireguardEnabled: true}"))
	c.settle(vxlanAlways, labNodes, map[string]string{"n1 n2": "WireGuard", "n2 n1": "WireGuard", "n1 n3": "Unreachable", "n2 n3": "Unreachable",
		"n3 n1": "Unreachable", "n3 n2": "Unreachable"})
	r, stop = c.encryptedLoad(ends("n1", "n2")), c.tap()
	if _, err := traffic.Start(t.Context(), traffic.Config{Hosts: ends("n1", "n3"), Interval: time.Millisecond, Warm: time.Second}); err == nil ||
		!strings.Contains(err.Error(), "2 of 2 pairs were not heard") {
		t.Errorf("to the node without a key: %v", err)
	}
	c.whole("encryption Required, between the others", r.Stop())
	c.nothingInClear("Required", stop())
	st, err := status.Fetch(t.Context(), c.lab.NodeRunDir("n3"))
	if err != nil {
		t.Fatal(err)
	}
	if told := fmt.Sprint(st.LastErrors); !strings.Contains(told, key) || !strings.Contains(told, "want 45") || !strings.Contains(told, "remove it") {
		t.Errorf("status of n3 tells %s", told)
	}
	if st, err = status.Fetch(t.Context(), c.lab.NodeRunDir("n1")); err != nil {
		t.Fatal(err)
	}
	if told := fmt.Sprint(st.Problems); !strings.Contains(told, "node n3 is not reachable") || !strings.Contains(told, "no public key") {
		t.Errorf("status of n1 tells %s", told)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	t.Logf("n3 is back %v after its key file was removed", c.reaches("WireGuard").Round(time.Millisecond))
}
