package guard

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/testkit"
	"weft/model/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// rig is a host with an uplink to a peer and, behind it, the addresses of a pod of each family; the peer has two.
type rig struct {
	t          *testing.T
	host, peer testkit.NS
	guard      *Guard
}

var pods = map[string][2]string{"4": {"10.244.1.2", "10.244.2.2"}, "6": {"fd00:10:244:1::2", "fd00:10:244:2::2"}}

func newRig(t *testing.T) *rig {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.NFTables, testkit.IPv6)
	r := &rig{t: t, host: testkit.NewNetns(t), peer: testkit.NewNetns(t)}
	testkit.Wire(t, r.host, "eth0", r.peer, "eth0")
	for f, a := range pods {
		bits, lan := "/32", "192.0.2."
		if f == "6" {
			bits, lan = "/128", "2001:db8::"
		}
		mask := map[string]string{"4": "/24", "6": "/64"}[f]
		r.host.AddAddress(t, "eth0", lan+"1"+mask)
		r.peer.AddAddress(t, "eth0", lan+"2"+mask)
		r.host.AddAddress(t, "lo", a[0]+bits)
		r.peer.AddAddress(t, "lo", a[1]+bits)
		testkit.Run(t, r.host, "ip", "-"+f, "route", "add", a[1]+bits, "via", lan+"2", "src", a[0])
		testkit.Run(t, r.peer, "ip", "-"+f, "route", "add", a[0]+bits, "via", lan+"1", "src", a[1])
	}
	for _, n := range []testkit.NS{r.host, r.peer} {
		testkit.Run(t, n, "ip", "link", "set", "lo", "up")
	}
	r.guard = New(r.host.Open(t))
	t.Cleanup(r.guard.Close)
	return r
}

func (r *rig) apply(g topology.Guard) {
	r.t.Helper()
	if _, err := r.guard.Apply(r.t.Context(), g); err != nil {
		r.t.Fatal(err)
	}
}

// answers counts the answers to pings from a namespace to an address.
func answers(t *testing.T, from testkit.NS, to string) int {
	t.Helper()
	out, _ := testkit.Try(t, from, "ping", "-n", "-q", "-c", "4", "-i", "0.05", "-W", "0.3", to)
	for n := range 5 {
		if strings.Contains(out, fmt.Sprintf("4 packets transmitted, %d received", n)) {
			return n
		}
	}
	t.Fatalf("ping says %s", out)
	return 0
}

// TestGuard: between addresses of guarded ranges nothing passes the uplink in either direction, but from and to
// nodes that may still be spoken to in clear; other addresses, and a range that is not guarded, are left alone.
func TestGuard(t *testing.T) {
	r := newRig(t)
	both := func(what string, want4, want6 int) {
		t.Helper()
		for f, want := range map[string]int{"4": want4, "6": want6} {
			for _, d := range []struct {
				from testkit.NS
				to   string
			}{{r.host, pods[f][1]}, {r.peer, pods[f][0]}} {
				if got := answers(t, d.from, d.to); got != want {
					t.Errorf("%s: %d of 4 answers from %s, want %d", what, got, d.to, want)
				}
			}
		}
	}
	testkit.Eventually(t, 10*time.Second, "the new IPv6 addresses are in use", func() bool { return answers(t, r.host, pods["6"][1]) == 4 })
	both("without a guard", 4, 4)
	four, six := prefixes("10.244.0.0/16"), prefixes("fd00:10:244::/48")
	r.apply(topology.Guard{Pools: four})
	both("IPv4 guarded", 0, 4)
	r.apply(topology.Guard{Pools: append(prefixes("10.244.0.0/16"), six...)})
	both("both guarded", 0, 0)
	for f, from := range map[string]string{"4": "192.0.2.", "6": "2001:db8::"} {
		// This host has to send to pods by a device; another host, which is outside of the cluster, may reach pods,
		// whose answers are no business of the guard's.
		if out, err := testkit.Try(t, r.host, "ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "0.3", "-I", from+"1", pods[f][1]); err == nil {
			t.Errorf("from the node address to a pod elsewhere in clear: %s", out)
		}
		testkit.Run(t, r.peer, "ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", "-I", from+"2", pods[f][0])
	}
	for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
		if got := answers(t, r.host, to); got != 4 {
			t.Errorf("%d of 4 answers from the node address %s, want 4", got, to)
		}
	}
	r.apply(topology.Guard{Pools: append(prefixes("10.244.0.0/16"), six...), Clear: prefixes("10.244.2.0/26", "10.244.2.2/32", "10.244.9.0/26")})
	both("IPv4 of the peer in clear", 4, 0)
	d, err := r.guard.Dropped(t.Context())
	if err != nil || d.In < 8 || d.Out < 8 {
		t.Errorf("%+v packets were counted, %v; want 8 at least in each direction", d, err)
	}
	r.apply(topology.Guard{})
	both("without it again", 4, 4)
	if left, _ := testkit.Try(t, r.host, "nft", "list", "ruleset"); strings.Contains(left, prefix) {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestGuardIsPutBack: what somebody else removes is back soon.
func TestGuardIsPutBack(t *testing.T) {
	r := newRig(t)
	g := topology.Guard{Pools: prefixes("10.244.0.0/16")}
	kicks := make(chan struct{}, 100)
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- r.guard.Watch(ctx, func() { kicks <- struct{}{} }) }()
	t.Cleanup(func() { <-done })
	r.apply(g)
	for _, sabotage := range [][]string{{"flush", "ruleset"}, {"delete", "table", "inet", "weft"}, {"flush", "chain", "inet", "weft", prefix + "out"}} {
		testkit.Eventually(t, 10*time.Second, "the watch says nothing more", func() bool {
			select {
			case <-kicks:
				r.apply(g)
				return false
			case <-time.After(300 * time.Millisecond):
				return true
			}
		})
		testkit.Run(t, r.host, append([]string{"nft"}, sabotage...)...)
		testkit.Eventually(t, 10*time.Second, strings.Join(sabotage, " ")+" is noticed", func() bool { return len(kicks) > 0 })
		r.apply(g)
		if got := answers(t, r.host, pods["4"][1]); got != 0 {
			t.Errorf("after %v %d of 4 packets are answered", sabotage, got)
		}
	}
}
