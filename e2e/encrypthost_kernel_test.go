package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/lab"
)

const (
	bothEncrypted  = "wireguardEnabled: true, wireguardEnabledV6: true"
	hostsEncrypted = "{" + bothEncrypted + ", wireguardHostEncryptionEnabled: true}"
)

// nodeHosts returns the nodes as ends of streams, one for each of their addresses.
func (c *cluster) nodeHosts() (hosts []traffic.Host) {
	for _, n := range labNodes {
		for _, a := range c.nodeAddresses(n) {
			hosts = append(hosts, traffic.Host{Name: n, Netns: c.nodeNetns(n).Path, Addr: a})
		}
	}
	return hosts
}

// hostRoutes waits until every node leads so many addresses of other nodes to its encrypting device.
func (c *cluster) hostRoutes(want int) time.Duration {
	c.t.Helper()
	var last string
	defer func() {
		if c.t.Failed() {
			c.t.Log(last)
		}
	}()
	return testkit.Eventually(c.t, 30*time.Second, fmt.Sprintf("every node has %d routes to encrypted hosts", want), func() bool {
		for _, n := range labNodes {
			out, err := c.weft("", "plan", "routing", "--run-dir", c.lab.NodeRunDir(n))
			have := 0
			for l := range strings.Lines(out) {
				if strings.Contains(l, " table 8787") && strings.Contains(l, " dev weft-wg") {
					have++
				}
			}
			if last = fmt.Sprintf("%s: %v\n%s", n, err, out); err != nil || have != want || strings.Count(out, " table 8787") != want {
				return false
			}
		}
		return true
	})
}

// leftOfHosts returns the rules and routes that the encryption of hosts has on a node, sorted.
func (c *cluster) leftOfHosts(node string) (left []string) {
	c.t.Helper()
	for _, family := range []string{"-4", "-6"} {
		for l := range strings.Lines(testkit.Run(c.t, c.nodeNetns(node), "ip", "-N", family, "rule", "show")) {
			if strings.Contains(l, "87") {
				left = append(left, strings.TrimSpace(l))
			}
		}
		out, _ := testkit.Try(c.t, c.nodeNetns(node), "ip", "-N", family, "route", "show", "table", "8787")
		for l := range strings.Lines(out) {
			if !strings.HasPrefix(l, "Error") && !strings.HasPrefix(l, "Dump") && strings.TrimSpace(l) != "" {
				left = append(left, strings.TrimSpace(l))
			}
		}
	}
	slices.Sort(left)
	return left
}

// TestHostEncryption switches the encryption of hosts on and off under traffic between the nodes' own addresses of
// both families: nothing is lost; while it is on nothing of it is in clear on any uplink, as it is without; pods and
// hosts reach each other; and nothing is left when it is off.
func TestHostEncryption(t *testing.T) {
	c := newCluster(t, "e2ehostenc")
	c.dualPods(vxlanCross)
	c.apply(felix("{" + bothEncrypted + "}"))
	c.reaches("WireGuard")
	c.forGood()
	hosts := c.nodeHosts()
	if len(hosts) != 6 {
		t.Fatalf("%d addresses of nodes, want 6: %v", len(hosts), hosts)
	}
	r, stop := c.encryptedLoad(hosts), c.tap()
	time.Sleep(time.Second)
	c.whole("control, without", r.Stop())
	if seen := stop(); seen.Clear < 1000 {
		t.Errorf("control: %d of %d packets in clear, want all of them to be", seen.Clear, seen.Packets)
	} else {
		t.Logf("control: %d of %d packets in clear", seen.Clear, seen.Packets)
	}

	way := func(what, spec string, routes int) step {
		return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.hostRoutes(routes) }}
	}
	on, off := way("on", hostsEncrypted, 4), way("off", "{"+bothEncrypted+"}", 0)
	c.whole("hosts on, off and on", c.through(c.encryptedLoad(hosts), []step{on, off, on}))

	all := slices.Concat(hosts, c.hosts("n1"), c.hosts("n2"), c.hosts("n3"))
	// A pod may not speak to the node that it is on (defaultEndpointToHostAction), and is not encrypted to it.
	elsewhere := func(from, to traffic.Host) bool { return from.Name != to.Name }
	r, err := traffic.Start(t.Context(), traffic.Config{Hosts: all, Pair: elsewhere, Interval: apart, TCP: true, Warm: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stop = c.tap()
	time.Sleep(2 * time.Second)
	c.whole("hosts and pods", r.Stop())
	c.nothingInClear("hosts and pods", stop())
	c.hostsAndPods()

	c.whole("all off", c.through(c.encryptedLoad(hosts), []step{way("all off", "{}", 0)}))
	for _, n := range labNodes {
		if left := c.leftOfHosts(n); len(left) > 0 {
			t.Errorf("%s is left with\n%s", n, strings.Join(left, "\n"))
		}
	}
}

// hostsAndPods pings in all directions between them.
func (c *cluster) hostsAndPods() {
	c.t.Helper()
	for _, from := range labNodes {
		for _, to := range labNodes {
			if from == to {
				continue
			}
			for i, a := range c.every[to] {
				own := c.nodeAddresses(to)[i]
				c.pings("from node "+from+" to node "+to, c.nodeNetns(from), own)
				c.pings("from node "+from+" to the pod of "+to, c.nodeNetns(from), a)
				c.pings("from the pod of "+from+" to node "+to, c.netns(from), own)
			}
		}
		c.pings("from node "+from+" to the outside", c.nodeNetns(from), netip.MustParseAddr("172.31.1.254"))
		c.pings("from the pod of "+from+" to the outside", c.netns(from), netip.MustParseAddr("172.31.1.254"))
	}
}

// storeAt is where the nodes of storeOnNode find their store.
const storeAt = "172.31.1.1:2379"

// storeOnNode is a lab whose nodes reach the store at an address of n1, where it is encrypted like any other, but for the
// exceptions.
func storeOnNode(t *testing.T, name string) *cluster {
	t.Helper()
	testkit.RequireRoot(t)
	l, err := lab.New(name, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := serveStore(t, kernel.NetnsPath(name+".n1"), strings.TrimPrefix(l.StoreEndpoint(), "unix://"))
	config := lab.DefaultConfig()
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--etcd-endpoints", "http://" + storeAt}
	}
	c := newClusterOf(t, name, config)
	if n := served(); n < 3 {
		t.Fatalf("the nodes made %d connections to the store at %s, want 3 or more", n, storeAt)
	}
	return c
}

// serveStore passes on connections at storeAt in a namespace, as soon as that is there, to the store's socket. The returned
// function counts them.
func serveStore(t *testing.T, netns, socket string) (served func() int) {
	t.Helper()
	var mu sync.Mutex
	var open []io.Closer
	count, ended := 0, false
	keep := func(c io.Closer) bool { // false: it is over
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		return !ended
	}
	var wg sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}
	wg.Go(func() {
		var ln net.Listener
		for limit := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			err := kernel.Do(netns, func() (err error) { ln, err = net.Listen("tcp", storeAt); return err })
			if err == nil {
				break
			}
			if mu.Lock(); ended || time.Now().After(limit) {
				mu.Unlock()
				return
			}
			mu.Unlock()
		}
		for keep(ln) {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			u, err := net.Dial("unix", socket)
			if err != nil {
				_ = c.Close()
				continue
			}
			mu.Lock()
			count++
			mu.Unlock()
			if keep(c); !keep(u) {
				return
			}
			wg.Go(func() { pass(u, c) })
			wg.Go(func() { pass(c, u) })
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		ended = true
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// connects tells whether a TCP connection from a node's namespace is accepted.
func (c *cluster) connects(node, to string) error {
	c.t.Helper()
	return kernel.Do(c.nodeNetns(node).Path, func() error {
		conn, err := net.DialTimeout("tcp", to, 2*time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

// TestHostEncryptionFromNothing: node services are killed under traffic between hosts, which loses nothing; keys rotate; rules
// and routes that somebody removes come back; and a node that has lost all that it had finds the store, which
// another node serves, while nothing else passes between the two.
func TestHostEncryptionFromNothing(t *testing.T) {
	c := storeOnNode(t, "e2ehostencnew")
	c.apply(vxlanCross.manifest() + "---\n" + felix(hostsEncrypted))
	c.hostRoutes(4)
	hosts := c.nodeHosts()

	r, stop := c.loadEvery(hosts, apart), c.tap()
	for _, n := range labNodes {
		before := c.leftOfHosts(n)
		if _, err := c.lab.Stop(t.Context(), n, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if left := c.leftOfHosts(n); len(left) < 20 || !slices.Equal(left, before) {
			t.Errorf("%s: when the service is killed, of\n%s\nthere is left\n%s", n, strings.Join(before, "\n"), strings.Join(left, "\n"))
		}
		if _, err := c.lab.Start(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	c.apply(felix("{" + bothEncrypted + ", wireguardHostEncryptionEnabled: true, wireguardKeyEpoch: 1}"))
	testkit.Eventually(t, 40*time.Second, "all go by the new keys", func() bool {
		return !slices.ContainsFunc(labNodes, func(n string) bool {
			out, err := c.weft("", "plan", "routing", "--run-dir", c.lab.NodeRunDir(n))
			return err != nil || strings.Count(out, " table 8787 ") != 4 || strings.Count(out, "dev weft-wg2") < 4
		})
	})
	c.whole("3 kills and a rotation", r.Stop())
	c.nothingInClear("3 kills and a rotation", stop())

	for _, s := range []string{"ip rule flush protocol 87", "ip -6 rule flush protocol 87", "ip route flush table 8787", "ip -6 route flush table 8787"} {
		before := c.leftOfHosts("n1")
		testkit.Run(t, c.nodeNetns("n1"), "sh", "-c", s)
		t.Logf("%-30s repaired after %v", s, testkit.Eventually(t, 10*time.Second, "repaired: "+s, func() bool { return slices.Equal(before, c.leftOfHosts("n1")) }))
	}

	c.fromNothing("n2")
	r, stop = c.loadEvery(hosts, apart), c.tap()
	time.Sleep(time.Second)
	c.whole("with the new node", r.Stop())
	c.nothingInClear("with the new node", stop())
}

// fromNothing takes all from a node but its underlay, and starts it.
func (c *cluster) fromNothing(node string) {
	c.t.Helper()
	t := c.t
	var other net.Listener // another program on n1, that may be reached in cipher text only
	c.nodeNetns("n1").Do(t, func() (err error) { other, err = net.Listen("tcp", "172.31.1.1:8080"); return err })
	defer other.Close()
	if err := c.connects(node, "172.31.1.1:8080"); err != nil {
		t.Errorf("control: another port before: %v", err)
	}
	if _, err := c.lab.Stop(t.Context(), node, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, c.nodeNetns(node), "sh", "-c", `for d in $(ip -o link | grep -o 'weft-[^:@]*'); do ip link del $d 2>/dev/null; done
for f in -4 -6; do ip $f rule flush protocol 87; ip $f route flush proto 87; done; nft flush ruleset`)
	if left := c.leftOfHosts(node); len(left) > 0 {
		t.Fatalf("%s still has\n%s", node, strings.Join(left, "\n"))
	}
	entries, err := os.ReadDir(c.lab.NodeDataDir(node))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d entries in the data directory, %v", len(entries), err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(c.lab.NodeDataDir(node), e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.connects(node, storeAt); err != nil {
		t.Errorf("the store is not reached from nothing: %v", err)
	}
	// What is answered goes to where the node was, in cipher text, and nobody is there.
	if err := c.connects(node, "172.31.1.1:8080"); err == nil {
		t.Error("another program of n1 answers in clear")
	}
	begin := time.Now()
	if _, err := c.lab.Start(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	ready := time.Since(begin)
	c.hostRoutes(4)
	testkit.Eventually(t, 20*time.Second, "another program is reached again", func() bool { return c.connects(node, "172.31.1.1:8080") == nil })
	t.Logf("%s from nothing: ready after %v, encrypts with all after %v", node, ready.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

// TestKernelHostEncryption does the same with the kernel's own devices on two nodes and a process on the third: on and off
// under traffic between the nodes' own addresses. (What a kernel has of IPIP is loaded by the probe, and leaves a device of
// its own.)
func TestKernelHostEncryption(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.IPIP, testkit.WireGuard)
	config := lab.DefaultConfig()
	config.Nodes[2].Args = []string{"--wireguard-driver", "userspace"}
	c := newClusterOf(t, "e2ehostenckern", config)
	c.dualPods(vxlanAlways)
	c.apply(felix("{" + bothEncrypted + "}"))
	c.reaches("WireGuard")
	c.forGood()
	hosts := c.nodeHosts()
	way := func(what, spec string, routes int) step {
		return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.hostRoutes(routes) }}
	}
	c.whole("hosts on", c.through(c.loadEvery(hosts, 4*apart), []step{way("on", hostsEncrypted, 4)}))
	r, stop := c.loadEvery(hosts, 4*apart), c.tap()
	testkit.Eventually(t, 60*time.Second, "packets", func() bool { return r.Mark() >= chances })
	c.whole("hosts encrypted", r.Stop())
	c.nothingInClear("hosts encrypted", stop())
	c.hostsAndPods()
	c.whole("hosts off", c.through(c.loadEvery(hosts, 4*apart), []step{way("off", "{"+bothEncrypted+"}", 0)}))
}
