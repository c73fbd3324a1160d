package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/node/datastore"
)

// TestCarry drives the pool through its modes on a live cluster: every pair that should talk does,
// by the path that the mode asks for, with the MTU of that path, and TCP flows.
func TestCarry(t *testing.T) {
	c := newCluster(t, "e2ecarry")
	c.pool("Always")
	c.pods()
	for _, tc := range []struct {
		mode, sameRack, crossRack string
		pairs                     [][2]string
	}{
		{"Always", "VXLAN", "VXLAN", everyPair()},
		{"CrossSubnet", "Direct", "VXLAN", everyPair()},
		{"Never", "Direct", "Direct", [][2]string{{"n1", "n2"}, {"n2", "n1"}}},
		{"Always", "VXLAN", "VXLAN", everyPair()},
	} {
		c.pool(tc.mode)
		for _, p := range everyPair() {
			want, mtu := tc.sameRack, 1500
			if p[0] == "n3" || p[1] == "n3" {
				want = tc.crossRack
			}
			if want == "VXLAN" {
				mtu = 1450
			}
			if path := c.reach(p[0], p[1], want); path.MTU != mtu || path.Why == "" {
				t.Errorf("%s: %s to %s: MTU %d (%s), want %d", tc.mode, p[0], p[1], path.MTU, path.Why, mtu)
			}
		}
		ok, streams := c.mesh(tc.pairs), 0
		if ok != len(tc.pairs) {
			t.Errorf("%s: %d of %d pairs talk", tc.mode, ok, len(tc.pairs))
		}
		for _, p := range tc.pairs[:2] {
			if err := c.stream(p[0], p[1]); err != nil {
				t.Errorf("%s: TCP from %s to %s: %v", tc.mode, p[0], p[1], err)
				continue
			}
			streams++
		}
		t.Logf("vxlanMode %s: %d of %d pairs talk, %d of 2 TCP streams of 20 MB arrived whole", tc.mode, ok, len(tc.pairs), streams)
	}
	if out := testkit.Run(t, c.nodeNetns("n1"), "ip", "-o", "link", "show", "type", "vxlan"); !strings.Contains(out, kernel.VXLANDevice) {
		t.Errorf("the device is not there after the way back to Always: %q", out)
	}
}

// stream sends 20 MB by TCP and wants every byte to arrive in order.
func (c *cluster) stream(from, to string) error {
	c.t.Helper()
	const size = 20 << 20
	var l net.Listener
	var conn net.Conn
	err := kernel.Do(c.netns(to).Path, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(c.addrs[to], 0).String())
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	received := make(chan error, 1)
	go func() {
		in, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer in.Close()
		_ = in.SetDeadline(time.Now().Add(30 * time.Second))
		got, want := sha256.New(), sha256.New()
		n, err := io.Copy(got, in)
		_, _ = io.CopyN(want, pattern(), size)
		if err == nil && !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			err = fmt.Errorf("%d bytes arrived, not the %d that were sent", n, size)
		}
		received <- err
	}()
	err = kernel.Do(c.netns(from).Path, func() (err error) {
		conn, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = io.CopyN(conn, pattern(), size)
	return errors.Join(err, conn.Close(), <-received)
}

// pattern is an endless stream of bytes, the same each time.
func pattern() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// TestNodeServiceKilled kills and restarts a node service under traffic. The control cuts the link
// for a moment, which the same stream does notice.
func TestNodeServiceKilled(t *testing.T) {
	c := newCluster(t, "e2ekill")
	c.pool("CrossSubnet")
	c.pods()
	for _, p := range everyPair() {
		want := "Direct"
		if p[0] == "n3" || p[1] == "n3" {
			want = "VXLAN"
		}
		c.reach(p[0], p[1], want)
	}
	const count = 3000
	streams := []*stream{c.ping("n1", "n2", count, 2*time.Millisecond), c.ping("n2", "n3", count, 2*time.Millisecond), c.ping("n3", "n1", count, 2*time.Millisecond)}
	events := watchRoutes(t, c.nodeNetns("n2").Path)
	time.Sleep(time.Second)
	if _, err := c.lab.Stop(t.Context(), "n2", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if _, err := c.lab.Start(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "n2 is ready again", func() bool { return c.ready("n2") })
	sent, lost := 0, 0
	for _, s := range streams {
		n, l := s.wait()
		sent, lost = sent+n, lost+l
	}
	if lost != 0 {
		t.Errorf("%d of %d packets lost over kill and start of a node service", lost, sent)
	}
	if got := events.stop(); len(got) != 0 {
		t.Errorf("%d route events on the node over kill and start, want 0: %v", len(got), got)
	}
	t.Logf("%d of %d packets lost, 0 route events over kill -9 and start", lost, sent)

	control := c.ping("n1", "n2", 500, 2*time.Millisecond)
	time.Sleep(200 * time.Millisecond)
	testkit.Run(t, c.nodeNetns("n2"), "ip", "link", "set", "eth0", "down")
	time.Sleep(200 * time.Millisecond)
	testkit.Run(t, c.nodeNetns("n2"), "ip", "link", "set", "eth0", "up")
	if sent, lost := control.wait(); lost == 0 {
		t.Errorf("control: 0 of %d packets lost although the link was cut: the stream measures nothing", sent)
	} else {
		t.Logf("control: %d of %d packets lost while the link was cut", lost, sent)
	}
}

func (c *cluster) ready(node string) bool {
	st, err := c.lab.Status(c.t.Context())
	if err != nil {
		return false
	}
	for _, n := range st.Nodes {
		if n.Name == node {
			return n.Ready
		}
	}
	return false
}

// TestStoreAway takes the store away under traffic, changes nothing meanwhile in the kernel, and
// catches up with what was written after it returned.
func TestStoreAway(t *testing.T) {
	c := newCluster(t, "e2estore")
	c.pool("Always")
	c.pods()
	c.reach("n1", "n3", "VXLAN")
	c.reach("n3", "n1", "VXLAN")
	events := watchRoutes(t, c.nodeNetns("n1").Path)
	traffic := c.ping("n1", "n3", 1500, 2*time.Millisecond)
	if _, err := c.lab.Stop(t.Context(), "store", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 15*time.Second, "n1 says that the store is away", func() bool { return !c.ready("n1") })
	sent, lost := traffic.wait()
	if got := events.stop(); lost != 0 || len(got) != 0 {
		t.Errorf("store away: %d of %d packets lost, route events %v", lost, sent, got)
	}
	if _, err := c.lab.Start(t.Context(), "store"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 15*time.Second, "n1 is in sync again", func() bool { return c.ready("n1") })
	if _, err := c.store.Get(t.Context(), datastore.Key{Kind: "IPPool", Name: "default-ipv4-ippool"}); err != nil {
		t.Errorf("the pool after kill -9 of the store: %v", err)
	}
	c.pool("CrossSubnet")
	c.reach("n1", "n2", "Direct")
	c.pod("n3", "late")
	if _, lost := c.ping("n1", "late", 5, 20*time.Millisecond).wait(); lost != 0 {
		t.Errorf("%d of 5 pings to a pod attached after the store returned were lost", lost)
	}
	t.Logf("%d of %d packets lost, 0 route events while the store was away", lost, sent)
}

// TestNodeGone removes a node's record while its block is still known: traffic to it is refused, not
// sent to wherever the host's other routes lead, and flows again when the node is back.
func TestNodeGone(t *testing.T) {
	c := newCluster(t, "e2egone")
	c.pool("Always")
	c.pods()
	c.reach("n1", "n3", "VXLAN")
	c.reach("n3", "n1", "VXLAN")
	if _, err := c.lab.Stop(t.Context(), "n3", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.store.Delete(t.Context(), datastore.Key{Kind: "Node", Name: "n3"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	n1, to := c.nodeNetns("n1"), c.addrs["n3"].String()
	testkit.Eventually(t, 5*time.Second, "n1 refuses what is for n3's pods", func() bool {
		return strings.Contains(testkit.Run(t, n1, "ip", "route", "show", "type", "unreachable"), "proto 87")
	})
	if out, _ := testkit.Try(t, c.netns("n1"), "ping", "-c", "1", "-W", "1", to); !strings.Contains(out, "Unreachable") {
		t.Errorf("the pod is not told that the other is unreachable: %s", out)
	}
	if _, err := c.lab.Start(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	c.reach("n1", "n3", "VXLAN")
	c.reach("n3", "n1", "VXLAN")
	if sent, lost := c.ping("n1", "n3", 5, 20*time.Millisecond).wait(); lost != 0 {
		t.Errorf("%d of %d pings lost after n3 is back", lost, sent)
	}
}

// TestStatusAndPlan asks a real node, as an operator on that host does.
func TestStatusAndPlan(t *testing.T) {
	c := newCluster(t, "e2estatus")
	c.pool("CrossSubnet")
	c.pods()
	c.reach("n1", "n2", "Direct")
	c.reach("n1", "n3", "VXLAN")
	for args, wants := range map[string][]string{
		"status":         {"n1, ready", "172.31.1.1/24", "Direct", "VXLAN", "behind gateway 172.31.1.254", "weft-vxlan", "1450"},
		"status -o json": {`"node": "n1"`, `"ready": true`, `"reach": "VXLAN"`},
		"plan tunnel":    {"weft-vxlan", "172.31.2.1"},
		"plan routing":   {"blackhole", "dev weft-vxlan", "via 172.31.1.2 dev eth0"},
		"ipam show":      {"default-ipv4-ippool"},
		"ipam check":     {"0 problems"},
	} {
		out, err := c.weft("", append([]string{"lab", "exec", "--name", "e2estatus", "n1", "--", filepath.Join(binaries, "weft")}, strings.Fields(args)...)...)
		if err != nil {
			t.Errorf("weft %s: %v\n%s", args, err, out)
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("weft %s does not say %q:\n%s", args, want, out)
			}
		}
	}
	// A second node on the same directories is refused, and says who is in the way.
	out, err := c.weft("", "lab", "exec", "--name", "e2estatus", "n1", "--", filepath.Join(binaries, "weft"), "node",
		"--run-dir", c.lab.NodeRunDir("n1"), "--node-name", "n1", "--etcd-endpoints", c.lab.StoreEndpoint())
	if err == nil || !strings.Contains(out, "another weft node (pid ") {
		t.Errorf("a second node: %v\n%s", err, out)
	}
}
