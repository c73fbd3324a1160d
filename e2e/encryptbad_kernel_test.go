package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/status"
)

// TestSharedKey: n2 gets the key of n3. All nodes name the two; none of them sends these anything, in whichever
// way; and with a key of its own n2 is back, and so is n3.
func TestSharedKey(t *testing.T) {
	c := encryptedCluster(t, "e2esharedkey")
	stop := c.tap()
	n2, n3 := c.keyFile("n2"), c.keyFile("n3")
	key, err := os.ReadFile(n3)
	if err != nil {
		t.Fatal(err)
	}
	c.restart("n2", func() error { return os.WriteFile(n2, key, 0o600) })
	c.settle(vxlanAlways, labNodes, map[string]string{"n1 n2": "Unreachable", "n1 n3": "Unreachable", "n2 n1": "Unreachable", "n2 n3": "Unreachable",
		"n3 n1": "Unreachable", "n3 n2": "Unreachable"})
	for _, n := range labNodes {
		c.tells(n, "[n2 n3] have published the same public key", "remove the key file of all but one")
	}
	if _, err := traffic.Start(t.Context(), traffic.Config{Hosts: c.hosts3(), Interval: time.Millisecond, Warm: time.Second}); err == nil ||
		!strings.Contains(err.Error(), "6 of 6 pairs were not heard") {
		t.Errorf("with a shared key: %v", err)
	}
	c.restart("n2", func() error { return os.Remove(n2) })
	t.Logf("all is well %v after the key was removed", c.reaches("WireGuard").Round(time.Millisecond))
	c.stillEncrypted("a shared key", stop)
}

// TestOldKeyLost: n2's key is lost. A rotation gives it another, and nobody waits for the old one.
func TestOldKeyLost(t *testing.T) {
	c := encryptedCluster(t, "e2eoldkey")
	if err := os.WriteFile(c.keyFile("n2"), []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := c.tap()
	c.apply(felix("{wireguardEnabled: true, wireguardKeyEpoch: 1}"))
	testkit.Eventually(t, 30*time.Second, "every pair talks by the new keys", func() bool {
		for _, n := range labNodes {
			st, err := status.Fetch(t.Context(), c.lab.NodeRunDir(n))
			if err != nil || slices.ContainsFunc(st.Peers, func(p status.Peer) bool {
				return slices.ContainsFunc(p.Paths, func(p status.Path) bool { return !strings.Contains(p.Why, "key 1") })
			}) {
				return false
			}
		}
		return c.mesh(everyPair()) == len(everyPair())
	})
	if err := os.Remove(c.keyFile("n2")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	c.keys(1)
	c.stillEncrypted("a lost key", stop)
}

// TestNodeThatCannot: n3 cannot have WireGuard at all. It publishes no key, so that the others know.
func TestNodeThatCannot(t *testing.T) {
	if _, err := testkit.Try(t, testkit.NewNetns(t), "ip", "link", "add", "probe0", "type", "wireguard"); err == nil {
		t.Skip("the kernel's way works here")
	}
	config := lab.DefaultConfig()
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--encryption-grace", "3s"}
	}
	config.Nodes[2].Args = append(config.Nodes[2].Args, "--wireguard-driver", "kernel")
	c := newClusterOf(t, "e2ecannot", config)
	c.apply(vxlanAlways.manifest() + "---\n" + felix(encrypted))
	c.pods()
	c.settle(vxlanAlways, labNodes, map[string]string{"n1 n2": "WireGuard", "n2 n1": "WireGuard", "n1 n3": "Unreachable", "n2 n3": "Unreachable",
		"n3 n1": "Unreachable", "n3 n2": "Unreachable"})
	c.tells("n1", "node n3 is not reachable over IPv4", "node n3 has published no public key")
	c.tells("n3", "WireGuard is not available", "--wireguard-driver kernel does not work on this host")
}

// TestStrangeRecords: a record with a key that is none is refused by the store; one that claims another node's pod as
// its tunnel address gets nothing by that.
func TestStrangeRecords(t *testing.T) {
	c := encryptedCluster(t, "e2estrange")
	victim := c.addrs["n3"]
	if _, err := c.lab.Stop(t.Context(), "n2", unix.SIGKILL); err != nil { // or it would correct its record
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, refused string
		change        func(*v3.Node)
	}{
		{"a short key", "status.wireguardKeys[0].publicKey: Invalid value: \"c2hvcnQ=\": want 32 bytes", func(n *v3.Node) { n.Status.WireguardKeys[0].PublicKey = "c2hvcnQ=" }},
		{"a key of zeros", "all zero", func(n *v3.Node) { n.Status.WireguardKeys[0].PublicKey = strings.Repeat("A", 43) + "=" }},
		{"another's pod", "", func(n *v3.Node) { n.Spec.Wireguard.InterfaceIPv4Address = victim.String() }},
	} {
		err := c.edit("n2", tc.change)
		if (err == nil) != (tc.refused == "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
			t.Errorf("%s: the store says %v, want %q", tc.what, err, tc.refused)
		}
		time.Sleep(200 * time.Millisecond) // until n1 would have followed
		for _, to := range []string{"n2", "n3"} {
			c.pings(tc.what, c.netns("n1"), c.addrs[to])
		}
		plan, err := c.weft("", "plan", "encryption", "--run-dir", c.lab.NodeRunDir("n1"))
		if err != nil || strings.Contains(plan, victim.String()) || strings.Count(plan, "peer ") != 2 {
			t.Errorf("%s: n1 plans (%v)\n%s", tc.what, err, plan)
		}
	}
	if _, err := c.lab.Start(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	c.reaches("WireGuard")
}

// TestPortTaken: another program has the port of n3's device. n3 says so, and is reached once the port is free.
func TestPortTaken(t *testing.T) {
	c := newCluster(t, "e2eporttaken")
	c.apply(vxlanAlways.manifest())
	c.pods()
	c.settle(vxlanAlways, labNodes, nil)
	var free func()
	c.nodeNetns("n3").Do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet6{Port: 51820})
		}
		free = func() { unix.Close(fd) }
		return err
	})
	c.apply(felix(encrypted))
	c.settle(vxlanAlways, labNodes, map[string]string{"n1 n2": "WireGuard", "n2 n1": "WireGuard"})
	c.tells("n3", "51820", "ss -")
	c.pings("n3 meanwhile", c.netns("n1"), c.addrs["n3"])
	free()
	t.Logf("all is encrypted %v after the port was free", c.reaches("WireGuard").Round(time.Millisecond))
}

// TestPortChanged changes the port of the devices of a living cluster, there and back.
func TestPortChanged(t *testing.T) {
	c := newCluster(t, "e2ewgport")
	c.apply(vxlanAlways.manifest() + "---\n" + felix(encrypted))
	c.pods()
	c.reaches("WireGuard")
	for _, port := range []int{51910, 51820, 51910, 51820} {
		c.apply(felix(fmt.Sprintf("{wireguardEnabled: true, wireguardListeningPort: %d}", port)))
		testkit.Eventually(t, 15*time.Second, fmt.Sprintf("every pair talks by port %d", port), func() bool {
			for _, n := range labNodes {
				plan, err := c.weft("", "plan", "encryption", "--run-dir", c.lab.NodeRunDir(n))
				if err != nil || strings.Count(plan, fmt.Sprintf(":%d ", port)) != 2 {
					return false
				}
			}
			return c.mesh(everyPair()) == len(everyPair())
		})
	}
}

// encryptedCluster is a lab with a pod on each node, in which encryption is on for good.
func encryptedCluster(t *testing.T, name string) *cluster {
	t.Helper()
	c := newCluster(t, name)
	c.apply(vxlanAlways.manifest() + "---\n" + felix(encrypted))
	c.pods()
	c.reaches("WireGuard")
	c.forGood()
	return c
}

// stillEncrypted lets all pods talk again, and judges what the taps have seen since they were opened.
func (c *cluster) stillEncrypted(what string, stop func() traffic.Seen) {
	c.t.Helper()
	r := c.loadEvery(c.hosts3(), apart)
	time.Sleep(time.Second)
	c.whole("after "+what, r.Stop())
	c.nothingInClear(what, stop())
}

func (c *cluster) keyFile(node string) string {
	return filepath.Join(c.lab.NodeDataDir(node), "encryption", "key-0")
}

func (c *cluster) hosts3() []traffic.Host {
	return slices.Concat(c.hosts("n1"), c.hosts("n2"), c.hosts("n3"))
}

// restart stops a node service, and its device's process, for the time of a change.
func (c *cluster) restart(node string, change func() error) {
	c.t.Helper()
	if _, err := c.lab.Stop(c.t.Context(), node, unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	if err := change(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.lab.Start(c.t.Context(), node); err != nil {
		c.t.Fatal(err)
	}
}

// tells waits until a node's status has all the words among its problems and errors.
func (c *cluster) tells(node string, words ...string) {
	c.t.Helper()
	var told string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%s tells %s", node, told)
		}
	}()
	testkit.Eventually(c.t, 10*time.Second, node+" tells "+strings.Join(words, " ... "), func() bool {
		st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
		if err != nil {
			return false
		}
		told = fmt.Sprint(st.Problems, st.LastErrors)
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(told, w) })
	})
}

// edit changes a Node record in the store.
func (c *cluster) edit(node string, change func(*v3.Node)) error {
	c.t.Helper()
	o, err := c.store.Get(c.t.Context(), datastore.Key{Kind: v3.KindNode, Name: node})
	if err != nil {
		c.t.Fatal(err)
	}
	n := o.(*v3.Node)
	change(n)
	_, err = c.store.Update(c.t.Context(), n)
	return err
}

// TestEncryptionUnderAttack: whatever somebody takes away of what makes traffic go through the devices, it is put back,
// and what is sent meanwhile is lost rather than sent in clear, although the underlay would carry it: the routers know
// the way to the pods. The control is the same without encryption.
func TestEncryptionUnderAttack(t *testing.T) {
	c := encryptedCluster(t, "e2ecryptattack")
	hosts := c.hosts3()
	kinds := [][]string{
		{"ip", "route", "flush", "proto", "87"},
		{"ip", "link", "delete", "weft-wg"},
		{"ip", "link", "set", "weft-wg", "down"},
		{"nft", "flush", "ruleset"},
		// A node that is quicker with putting back than this command with looking makes it give up.
		{"sh", "-c", "ip address flush dev weft-wg || true"},
	}
	// A host whose other processes know the way would use it.
	for _, n := range labNodes {
		for _, o := range labNodes {
			if n != o {
				testkit.Run(t, c.nodeNetns(n), "ip", "route", "add", netip.PrefixFrom(c.addrs[o], 24).Masked().String(), "via", c.nodeAddresses(o)[0].String(), "onlink", "dev", uplink, "metric", "5000")
			}
		}
	}
	attack := func() (traffic.Pair, traffic.Seen) {
		r, stop := c.loadEvery(hosts, apart), c.tap()
		for i := range 3 * len(kinds) {
			testkit.Run(t, c.nodeNetns(labNodes[i%len(labNodes)]), kinds[i%len(kinds)]...)
			time.Sleep(400 * time.Millisecond)
		}
		return r.Stop().Total(), stop()
	}
	total, seen := attack()
	c.nothingInClear(fmt.Sprintf("%d attacks, %d of %d packets lost", 3*len(kinds), total.Lost, total.Sent), seen)
	c.reaches("WireGuard")
	for _, p := range everyPair() {
		c.pings("after the attacks", c.netns(p[0]), c.addrs[p[1]])
	}
	c.apply(felix("{}"))
	c.reaches("VXLAN")
	r, stop := c.loadEvery(hosts, apart), c.tap()
	testkit.Run(t, c.nodeNetns("n1"), kinds[0]...)
	time.Sleep(400 * time.Millisecond)
	r.Stop()
	if seen := stop(); seen.Clear == 0 {
		t.Errorf("control: 0 of %d packets are in clear without encryption", seen.Packets)
	} else {
		t.Logf("control: %d of %d packets in clear without encryption", seen.Clear, seen.Packets)
	}
}
