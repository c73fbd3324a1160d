package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/routing"
)

// serviceRig is a client, its router, which has all service addresses from a node whose default gateway it is, that
// node, and a pod there.
// Its service proxy translates port 80 of 10.96.0.10 and fd96::10 to port 8080 of the pod.
type serviceRig struct {
	client, router, node, pod testkit.NS
	driver                    *Ruled
}

func newServiceRig(t *testing.T) *serviceRig {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.IPv6, testkit.IPRoute2, testkit.NFTables)
	r := &serviceRig{testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t), nil}
	testkit.Wire(t, r.client, "eth0", r.router, "eth1")
	testkit.Wire(t, r.router, "eth0", r.node, "eth0")
	testkit.Wire(t, r.node, "pod0", r.pod, "eth0")
	r.client.AddAddress(t, "eth0", "198.51.100.2/24", "fd51::2/64")
	r.router.AddAddress(t, "eth1", "198.51.100.1/24", "fd51::1/64")
	r.router.AddAddress(t, "eth0", "172.31.1.254/24", "fd00:31:1::254/64")
	r.node.AddAddress(t, "eth0", "172.31.1.1/24", "fd00:31:1::1/64")
	r.node.AddAddress(t, "pod0", "10.65.0.1/24", "fd65::1/64")
	r.pod.AddAddress(t, "eth0", "10.65.0.2/24", "fd65::2/64")
	for ns, commands := range map[testkit.NS][]string{
		r.router: {"ip route add 10.96.0.0/16 via 172.31.1.1", "ip route add fd96::/112 via fd00:31:1::1", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"},
		r.node: {"ip route add default via 172.31.1.254", "ip route add default via fd00:31:1::254",
			"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=1"},
		r.client: {"ip route add default via 198.51.100.1", "ip route add default via fd51::1"},
		r.pod:    {"ip route add default via 10.65.0.1", "ip route add default via fd65::1"},
	} {
		for _, c := range commands {
			testkit.Run(t, ns, strings.Fields(c)...)
		}
	}
	if out, err := testkit.TryInput(t, r.node, `
table inet proxy {
  counter bounced { }
  chain in { type nat hook prerouting priority -100; ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.65.0.2:8080; ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [fd65::2]:8080; }
  chain own { type nat hook output priority -100; ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.65.0.2:8080; ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [fd65::2]:8080; }
  chain out { type filter hook postrouting priority 0; oif eth0 ip daddr 10.96.0.0/16 counter name bounced; oif eth0 ip6 daddr fd96::/112 counter name bounced; }
}`, "nft", "-f", "-"); err != nil {
		t.Fatalf("the service proxy: %v: %s", err, out)
	}
	r.driver = NewRuled(r.node.Open(t), slog.New(slog.DiscardHandler), kernel.ServiceTable)
	r.pod.Do(t, func() error {
		for _, a := range []string{"10.65.0.2:8080", "[fd65::2]:8080"} {
			l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", a)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
		}
		return nil
	})
	return r
}

func servicePlan(announced ...string) routing.Ruled {
	return servicePlanBeside(model.Underlay{}, announced...)
}

func servicePlanBeside(u model.Underlay, announced ...string) routing.Ruled {
	var all []netip.Prefix
	for _, s := range announced {
		all = append(all, prefix(s))
	}
	return routing.CompileServices(all, u, routing.ServiceConfig{Priority: 32765, Table: kernel.ServiceTable})
}

func (r *serviceRig) apply(t *testing.T, p routing.Ruled) string {
	t.Helper()
	res, err := r.driver.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return res.String()
}

// bounced sends a packet to addresses that nobody serves, and returns how many packets the node sent to the router on
// their account.
func (r *serviceRig) bounced(t *testing.T, from testkit.NS) (n int) {
	t.Helper()
	testkit.Run(t, r.node, "nft", "reset", "counter", "inet", "proxy", "bounced")
	for _, a := range []string{"10.96.0.77", "fd96::77"} {
		_, _ = testkit.Try(t, from, "ping", "-n", "-c", "1", "-W", "1", a)
	}
	out := testkit.Run(t, r.node, "nft", "list", "counter", "inet", "proxy", "bounced")
	_, count, ok := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(count, &n); !ok || err != nil {
		t.Fatalf("the counter: %s", out)
	}
	return n
}

// dial connects; a connection that is only not answered within half a second is syscall.ETIMEDOUT.
func dial(t *testing.T, from testkit.NS, to string) error {
	t.Helper()
	return dialFor(t, 500*time.Millisecond, from, to)
}

func dialFor(t *testing.T, limit time.Duration, from testkit.NS, to string) (err error) {
	t.Helper()
	from.Do(t, func() error {
		d := net.Dialer{Timeout: limit}
		d.SetMultipathTCP(false)
		var c net.Conn
		if c, err = d.DialContext(t.Context(), "tcp", to); err == nil {
			c.Close()
		}
		return nil
	})
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return syscall.ETIMEDOUT
	}
	return err
}

func (r *serviceRig) served(t *testing.T, what string) {
	t.Helper()
	for name, ns := range map[string]testkit.NS{"a client": r.client, "the node itself": r.node} {
		for _, to := range []string{"10.96.0.10:80", "[fd96::10]:80"} {
			if err := dial(t, ns, to); err != nil {
				t.Errorf("%s: %s does not reach the service at %s: %v", what, name, to, err)
			}
		}
	}
}

// TestServices: what comes for an announced service address that nobody serves is refused at once, whoever sent it; what is
// served is served, and the host's own connections are as they were.
func TestServices(t *testing.T) {
	r := newServiceRig(t)
	testkit.Eventually(t, 20*time.Second, "control: the client reaches the service over both families", func() bool {
		return dial(t, r.client, "10.96.0.10:80") == nil && dial(t, r.client, "[fd96::10]:80") == nil
	})
	r.served(t, "control")
	if n := r.bounced(t, r.client); n < 40 {
		t.Errorf("control: two packets bounced %d times between node and router: this test would not see a loop", n)
	} else {
		t.Logf("control: 2 packets went from the node to the router %d times", n)
	}
	announced := []string{"10.96.0.0/16", "fd96::/112"}
	if got := r.apply(t, servicePlan(announced...)); got != "4 added, 0 changed, 0 removed" {
		t.Errorf("written: %s", got)
	}
	for name, ns := range map[string]testkit.NS{"a client": r.client, "a pod": r.pod} {
		if n := r.bounced(t, ns); n != 0 {
			t.Errorf("2 packets of %s: %d sent to the router, want 0", name, n)
		}
		t.Logf("2 packets of %s: 0 sent to the router", name)
	}
	for name, ns := range map[string]testkit.NS{"a client": r.client, "a pod": r.pod} {
		// TCP over IPv6 hears of it with its second segment, a second later: over a veth the answer to the first is
		// there before connect(2) has left the socket.
		for to, want := range map[string]syscall.Errno{"10.96.0.77:80": syscall.EHOSTUNREACH, "[fd96::77]:80": syscall.ENETUNREACH} {
			begin := time.Now()
			if err := dialFor(t, 20*time.Second, ns, to); !errors.Is(err, want) {
				t.Errorf("%s to %s: %v, want to be told: %v", name, to, err, want)
			}
			t.Logf("%s to %s: refused after %v", name, to, time.Since(begin).Round(time.Millisecond))
		}
	}
	r.served(t, "with the ranges refused")
	for _, to := range []string{"10.96.0.77:80", "[fd96::77]:80"} {
		if err := dial(t, r.node, to); !errors.Is(err, syscall.ETIMEDOUT) && !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("the node's own connection to %s, which is the router's affair: %v", to, err)
		}
	}
	// Control: in the main table, blackholes would keep the host from what is served.
	testkit.Run(t, r.node, "ip", "route", "add", "blackhole", "10.96.0.0/16")
	if err := dial(t, r.node, "10.96.0.10:80"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("control: with a blackhole in the main table: %v", err)
	}
	testkit.Run(t, r.node, "ip", "route", "del", "blackhole", "10.96.0.0/16")
	r.besideNetworks(t, announced)
	r.driver = NewRuled(r.node.Open(t), slog.New(slog.DiscardHandler), kernel.ServiceTable)
	if got := r.apply(t, servicePlan(announced...)); got != "no change" {
		t.Errorf("adopted: %s", got)
	}
	if got := r.apply(t, servicePlan(announced[1:]...)); got != "0 added, 0 changed, 2 removed" {
		t.Errorf("IPv4 is not announced any more: %s", got)
	}
	if n := r.bounced(t, r.client); n < 20 {
		t.Errorf("what is not announced any more is still refused: %d", n)
	}
	r.apply(t, routing.Ruled{})
	if out := testkit.Run(t, r.node, "ip", "rule") + testkit.Run(t, r.node, "ip", "-6", "rule"); strings.Contains(out, "8788") {
		t.Errorf("left behind:\n%s", out)
	}
}

// besideNetworks: a network on a link of the node, within an announced range, is reached by pods.
func (r *serviceRig) besideNetworks(t *testing.T, announced []string) {
	t.Helper()
	ns := testkit.NewNetns(t)
	testkit.Wire(t, r.node, "eth9", ns, "eth0")
	r.node.AddAddress(t, "eth9", "10.96.200.1/24", "fd96::c801/120")
	ns.AddAddress(t, "eth0", "10.96.200.2/24", "fd96::c802/120")
	testkit.Run(t, ns, "ip", "route", "add", "default", "via", "10.96.200.1")
	testkit.Run(t, ns, "ip", "route", "add", "default", "via", "fd96::c801")
	reached := func() (n int) {
		for _, a := range []string{"10.96.200.2", "fd96::c802"} {
			if _, err := testkit.Try(t, r.pod, "ping", "-n", "-c", "1", "-W", "1", a); err == nil {
				n++
			}
		}
		return n
	}
	if n := reached(); n != 0 {
		t.Errorf("control: without regard to the network on eth9, %d of its 2 addresses are reached", n)
	}
	r.apply(t, servicePlanBeside(model.Underlay{Routes: []model.UnderlayRoute{{Dst: prefix("10.96.200.0/24"), Device: "eth9"}, {Dst: prefix("fd96::c800/120"), Device: "eth9"}}}, announced...))
	testkit.Eventually(t, 20*time.Second, "a pod reaches the network on eth9, over both families", func() bool { return reached() == 2 })
	if n := r.bounced(t, r.pod); n != 0 {
		t.Errorf("2 packets beside that network: %d sent to the router, want 0", n)
	}
	testkit.Run(t, r.node, "ip", "link", "del", "eth9")
	r.apply(t, servicePlan(announced...))
}

// watcher is what has events of the kernel only.
type watcher func(kernel.Event) bool

func (w watcher) Observe(e kernel.Event) bool { return w(e) }

func (watcher) Watch(ctx context.Context, kick func()) error {
	kick()
	<-ctx.Done()
	return ctx.Err()
}

// TestServicesRepaired: by events alone, and beside the driver of the other rules, which has none of these for its own.
func TestServicesRepaired(t *testing.T) {
	r := newServiceRig(t)
	others := NewRuled(r.node.Open(t), slog.New(slog.DiscardHandler), kernel.HostTable)
	plan := servicePlan("10.96.0.0/16", "fd96::/112")
	k := testkit.Keep(t, r.node, watcher(r.driver.Observe), func(ctx context.Context) (bool, error) {
		res, err := r.driver.Apply(ctx, plan)
		more, err2 := others.Apply(ctx, routing.Ruled{})
		return !res.Zero() || !more.Zero(), errors.Join(err, err2)
	})
	dump := func() string {
		var b strings.Builder
		for _, f := range []string{"-4", "-6"} {
			b.WriteString(testkit.Run(t, r.node, "ip", f, "rule"))
			out, _ := testkit.Try(t, r.node, "ip", f, "route", "show", "table", "8788")
			b.WriteString(out)
		}
		return b.String()
	}
	var want string
	testkit.Eventually(t, 10*time.Second, "all is written", func() bool {
		want = dump()
		return strings.Count(want, "not from all iif lo lookup 8788") == 2 && strings.Count(want, "unreachable ") == 2
	})
	for _, s := range []string{
		"ip rule del pref 32765", "ip -6 rule del pref 32765", "ip rule flush protocol 87", "ip route flush table 8788", "ip -6 route flush table 8788",
		"ip route replace 10.96.0.0/16 dev eth0 table 8788 metric 1024 protocol 87", "ip rule add pref 4 iif eth0 lookup 8788 protocol 87",
	} {
		testkit.Run(t, r.node, strings.Fields(s)...)
		took := testkit.Eventually(t, 10*time.Second, "repaired: "+s, func() bool { return dump() == want })
		t.Logf("%-80s %v", s, took.Round(time.Millisecond))
	}
	k.Rests(t)
}
