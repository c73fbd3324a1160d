package traffic

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/internal/testkit"
)

// routed is two namespaces with a router between them; the second leg is narrower.
func routed(t *testing.T, near, far int) (a, b testkit.NS, hosts [2][2]Host) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.IPRoute2, testkit.IPv6)
	a, b, r := testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t)
	for _, ns := range []testkit.NS{a, b, r} { // else no link-local address asks for a neighbour in the first second
		testkit.Run(t, ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	for i, end := range []struct {
		ns  testkit.NS
		mtu int
	}{{a, near}, {b, far}} {
		dev := fmt.Sprintf("r%d", i)
		testkit.Wire(t, r, dev, end.ns, "eth0")
		testkit.Run(t, r, "ip", "link", "set", dev, "mtu", strconv.Itoa(end.mtu))
		testkit.Run(t, end.ns, "ip", "link", "set", "eth0", "mtu", strconv.Itoa(end.mtu))
		v4, v6 := fmt.Sprintf("192.0.2.%d", 4*i), fmt.Sprintf("2001:db8:%d::", i)
		first := netip.MustParseAddr(v4)
		r.AddAddress(t, dev, first.Next().String()+"/30", v6+"1/64")
		own4, own6 := first.Next().Next(), netip.MustParseAddr(v6+"2")
		end.ns.AddAddress(t, "eth0", own4.String()+"/30", own6.String()+"/64")
		testkit.Run(t, end.ns, "ip", "route", "add", "default", "via", first.Next().String())
		testkit.Run(t, end.ns, "ip", "-6", "route", "add", "default", "via", v6+"1")
		for f, addr := range []netip.Addr{own4, own6} {
			hosts[f][i] = Host{Name: string("ab"[i]), Netns: end.ns.Path, Addr: addr}
		}
	}
	testkit.Run(t, r, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return a, b, hosts
}

// Each size has the fate that the path gives it; with the answers filtered, those sizes vanish.
func TestProbe(t *testing.T) {
	a, _, hosts := routed(t, 3000, 1400)
	testkit.Require(t, testkit.NFTables)
	for f, family := range []string{"IPv4", "IPv6"} {
		p := Probe{From: hosts[f][0], To: hosts[f][1], Min: 1280, Max: 3500}
		got, err := p.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", family, got)
		want := Sizes{From: "a", To: "b", Probed: 2221, Sent: got.Sent, Delivered: 121, Answered: 1600, Local: 500, Largest: 1400, Smallest: 1401, Told: []int{1400}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", family, diff)
		}
	}
	testkit.Run(t, a, "nft", `add table inet t; add chain inet t c { type filter hook input priority 0; }; `+
		`add rule inet t c icmp type destination-unreachable drop; add rule inet t c icmpv6 type packet-too-big drop`)
	for f, family := range []string{"IPv4", "IPv6"} {
		got, err := Probe{From: hosts[f][0], To: hosts[f][1], Min: 1350, Max: 1450}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, answers filtered: %v", family, got)
		if got.Delivered != 51 || len(got.Vanished) != 50 || got.Vanished[0] != 1401 || got.Sent != 51+3*50 {
			t.Errorf("%s, answers filtered: got %+v, want 50 of 101 sizes to vanish", family, got)
		}
	}
}

func TestProbeErrors(t *testing.T) {
	for _, p := range []Probe{{Min: 10, Max: 100}, {Min: 1000, Max: 900}, {Min: 1000, Max: 70000}} {
		if _, err := p.Run(t.Context()); err == nil {
			t.Errorf("sizes %d to %d pass", p.Min, p.Max)
		}
	}
}
