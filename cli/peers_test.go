package cli

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"weft/node/status"
)

func samplePeers() []status.EncryptionPeer {
	met := now().Add(-12 * time.Second)
	key := "f9w/wp4OZKsaecuO8gmEUf1Ua1xZ1wnTZ/tC/+r/lkQ="
	return []status.EncryptionPeer{
		{Device: "weft-wg", Driver: "userspace", PublicKey: key, Why: []string{"another program added this peer: no node has this key"}},
		{Node: "n2", Device: "weft-wg", Driver: "userspace", PublicKey: key, Endpoint: "172.31.1.2:51820", LastHandshake: &met, Rx: 124, Tx: 5 << 20,
			AllowedIPs: []string{"10.244.53.0/26", "fd00:244::1:cd99:c780/122"}, Reach: []string{"WireGuard"}, Why: []string{"encrypted, WireGuard over IPv4, key 0, UDP 51820"}},
		{Node: "n3\x1b[2J", Device: "weft-wg", Driver: "userspace", PublicKey: key, Endpoint: "172.31.2.1:51820", AllowedIPs: []string{"10.244.225.192/26"}, Reach: []string{"VXLAN"},
			Why: []string{"not encrypted, since node n3 has not answered by WireGuard over IPv4, key 0, UDP 51820 yet; pool pods has vxlanMode Always"}},
		{Node: "n4", Reach: []string{"Unreachable"}, Why: []string{"traffic to node n4 must be encrypted, and node n4 has published no public key"}},
	}
}

func TestPeersView(t *testing.T) {
	for _, width := range []int{80, 160, 0} {
		v := peersView{now: now(), width: width, wide: width == 0}
		var b bytes.Buffer
		if err := v.print(&b, samplePeers()); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("peers-%d.txt", width), b.Bytes())
		for _, l := range strings.Split(b.String(), "\n") {
			if n := utf8.RuneCountInString(l); width >= 160 && n > width {
				t.Errorf("width %d: a line has %d columns: %q", width, n, l)
			}
		}
		if bytes.ContainsRune(b.Bytes(), 0x1b) {
			t.Errorf("width %d: an escape of the cluster's data reached the screen", width)
		}
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "now", 999 * time.Millisecond: "now", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago", 60 * time.Second: "1 minute ago",
		119 * time.Minute: "1 hour ago", 23*time.Hour + 59*time.Minute: "23 hours ago", 49 * time.Hour: "2 days ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1<<30 - 1: "1.0 GiB", 1 << 40: "1.0 TiB", math.MaxUint64: "16.0 EiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestEncryptionLine(t *testing.T) {
	on := status.Encryption{On: true, Families: []string{"IPv4"}, Driver: "kernel", Mode: "Required", Nodes: 1, Ready: 1, Encrypted: []string{"n2"}}
	with := func(f func(*status.Encryption)) *status.Encryption {
		c := on
		f(&c)
		return &c
	}
	for _, c := range []struct {
		e    *status.Encryption
		want string
		weak bool
	}{
		{&status.Encryption{}, "off", false},
		{&status.Encryption{Driver: "kernel", Encrypted: []string{"n2"}}, "off; 1 node still reached by WireGuard, until it takes clear text again", false},
		{&on, "WireGuard (kernel) for IPv4, Required, key epoch 0, rolling out: 1 of 1 peer ready, clear-text peers: 0, refused packets: 0 out, 0 in", false},
		{with(func(e *status.Encryption) { e.OnForGood, e.RefusedIn = true, 3 }),
			"WireGuard (kernel) for IPv4, Required, key epoch 0, on for good (1 of 1 peer ready), clear-text peers: 0, refused packets: 0 out, 3 in", false},
		{with(func(e *status.Encryption) { e.OnForGood, e.Nodes = true, 2 }),
			"WireGuard (kernel) for IPv4, Required, key epoch 0, on for good (1 of 2 peers ready), clear-text peers: 0, refused packets: 0 out, 0 in", true},
		{with(func(e *status.Encryption) { e.OnForGood, e.KeyEpoch, e.OtherEpochs = true, 1, []int{0} }),
			"WireGuard (kernel) for IPv4, Required, key epoch 1 (and 0 until nothing is sent by it), on for good (1 of 1 peer ready), clear-text peers: 0, refused packets: 0 out, 0 in", false},
		{with(func(e *status.Encryption) { e.Mode, e.Clear = "Preferred", []string{"n2"} }),
			"WireGuard (kernel) for IPv4, Preferred, key epoch 0, 1 of 1 peer ready, clear-text peers: 1", true},
		{with(func(e *status.Encryption) {
			e.OnForGood, e.Hosts = true, &status.HostEncryption{Encrypted: []string{"n2"}}
		}),
			"WireGuard (kernel) for IPv4, Required, key epoch 0, on for good (1 of 1 peer ready), clear-text peers: 0, hosts too: 1 of 1, refused packets: 0 out, 0 in", false},
		{with(func(e *status.Encryption) { e.OnForGood, e.Hosts = true, &status.HostEncryption{Clear: []string{"n2"}} }),
			"WireGuard (kernel) for IPv4, Required, key epoch 0, on for good (1 of 1 peer ready), clear-text peers: 0, hosts too: 0 of 1, refused packets: 0 out, 0 in", true},
		{with(func(e *status.Encryption) { e.Driver, e.Ready, e.Unreachable = "", 0, []string{"n2"} }),
			"ON, BUT THIS HOST HAS NO WIREGUARD, Required: clear-text peers: 0, unreachable: 1", true},
		{with(func(e *status.Encryption) { e.Error = "no answer" }),
			"WireGuard (kernel) for IPv4, Required, key epoch 0, rolling out: 1 of 1 peer ready, clear-text peers: 0, refused packets cannot be counted: no answer", true},
	} {
		if got := encryptionLine(c.e); got != c.want || weak(c.e) != c.weak {
			t.Errorf("%+v:\n got %q, weak %v\nwant %q, weak %v", *c.e, got, weak(c.e), c.want, c.weak)
		}
	}
}
