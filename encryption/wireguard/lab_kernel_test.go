package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"weft/encryption"
	"weft/encryption/wireguard/userspace"
	"weft/internal/byhand"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
)

// TestMain lets the test binary be the process that has a device, as weft is, and a few others.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case userspace.CommandName:
			if p, ok := userspace.ParseArgs(os.Args); ok && os.Getenv(anyVersion) != "" {
				p.Interface = userspace.Interface // it says another one in its arguments
				exit(userspace.Run(context.Background(), p, nil))
			}
			cmd := userspace.Command()
			cmd.SetArgs(os.Args[2:])
			exit(cmd.Execute())
		case bareCommand:
			exit(byhand.WireGuard(os.Args[2], os.Stdin, os.Stdout))
		case agentCommand:
			exit(agent())
		case listenCommand:
			exit(listen())
		}
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ways runs a test in each way that this machine has.
func ways(t *testing.T, test func(t *testing.T, w Way)) {
	t.Helper()
	for _, w := range []Way{Kernel, Userspace} {
		t.Run(string(w), func(t *testing.T) {
			require(t, w)
			testkit.LeakCheck(t)
			test(t, w)
		})
	}
}

func require(t *testing.T, ways ...Way) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Bridge, testkit.IPRoute2, testkit.IPv6)
	if slices.Contains(ways, Kernel) {
		testkit.Require(t, testkit.WireGuard)
	}
	if slices.Contains(ways, Userspace) {
		if err := Check(context.Background(), Userspace); err != nil {
			t.Fatalf("every machine of ours has TUN devices, and yet: %v", err)
		}
	}
}

// host is a namespace on the underlay, with a WireGuard device that has overlay addresses.
type host struct {
	testkit.NS
	i      int
	name   model.NodeName
	key    encryption.PrivateKey
	way    Way
	dir    string // of sockets and logs
	log    *logged
	h      *kernel.Handle
	driver *Driver
}

const wg = kernel.WireGuardDevice

func (h *host) under(f model.Family) netip.Addr {
	if f == model.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd31::%d", h.i))
	}
	return netip.AddrFrom4([4]byte{172, 31, 1, byte(h.i)})
}

// block4 and block6 are the overlay prefixes of a host; the first addresses are the device's.
func (h *host) block4() netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/26", h.i))
}
func (h *host) block6() netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:%d::/122", h.i))
}
func (h *host) ip4() netip.Addr { return h.block4().Addr().Next() }
func (h *host) ip6() netip.Addr { return h.block6().Addr().Next() }

// cluster makes an underlay (a bridge in a namespace of its own) with a host for each way.
func cluster(t *testing.T, ways ...Way) (under testkit.NS, hosts []*host) {
	t.Helper()
	require(t, ways...)
	under = testkit.NewNetns(t)
	if err := under.Open(t).AddBridge("br0", 1500); err != nil {
		t.Fatal(err)
	}
	if err := kernel.SetSysctlAt(under.Path, "net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for i, w := range ways {
		h := &host{NS: testkit.NewNetns(t), i: i + 1, name: model.NodeName(fmt.Sprintf("n%d", i+1)), way: w, key: testKey(i + 1), dir: t.TempDir()}
		port := fmt.Sprintf("port%d", h.i)
		testkit.Wire(t, under, port, h.NS, "eth0")
		testkit.Run(t, under, "ip", "link", "set", port, "master", "br0")
		h.AddAddress(t, "eth0", h.under(model.IPv4).String()+"/24", h.under(model.IPv6).String()+"/64")
		h.h = h.Open(t)
		h.renew(t)
		t.Cleanup(func() {
			if _, err := h.driver.Apply(context.Background(), encryption.Plan{}); err != nil {
				t.Error(err)
			}
			h.driver.Close()
		})
		hosts = append(hosts, h)
	}
	return under, hosts
}

// logged keeps what a driver logs.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// renew gives the host another driver, as a restarted node service has, and leaves the kernel as it is.
func (h *host) renew(t *testing.T) {
	t.Helper()
	if h.driver != nil {
		h.driver.Close()
	}
	h.log = &logged{}
	h.driver = New(h.h, slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})), h.options())
}

func (h *host) options() Options {
	return Options{Way: h.way, SocketDir: filepath.Join(h.dir, "wg"), LogDir: h.dir, Env: testEnv()}
}

// testEnv lets the leak check find the processes.
func testEnv() []string {
	var out []string
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "WEFT_TESTKIT") {
			out = append(out, v)
		}
	}
	return out
}

func testKey(seed int) encryption.PrivateKey {
	var b [32]byte
	for i := range b {
		b[i] = byte(seed*37 + i*11 + 1)
	}
	b[1], b[2] = byte(seed>>8), byte(seed)
	k, err := encryption.NewPrivateKey(b)
	if err != nil {
		panic(err)
	}
	return k
}

func public(k encryption.PrivateKey) model.PublicKey {
	p, err := k.Public()
	if err != nil {
		panic(err)
	}
	return p
}

// plan is what a host wants, over an underlay of family f.
func (h *host) plan(f model.Family, others ...*host) encryption.Plan {
	p := encryption.Plan{Devices: []encryption.Device{{
		Name: wg, Key: h.key, Port: 51820, MTU: 1420, Addresses: []netip.Addr{h.ip4(), h.ip6()}, FwMark: 0x100000,
	}}}
	for _, o := range others {
		if o != h {
			p.Peers = append(p.Peers, h.peer(f, o))
		}
	}
	return p
}

func (h *host) peer(f model.Family, o *host) encryption.Peer {
	return encryption.Peer{
		Device: wg, Node: o.name, Key: public(o.key), Endpoint: netip.AddrPortFrom(o.under(f), 51820),
		AllowedIPs: sortPrefixes([]netip.Prefix{o.block4(), o.block6()}),
	}
}

func (h *host) apply(t testing.TB, p encryption.Plan) {
	t.Helper()
	if _, err := h.driver.Apply(context.Background(), p); err != nil {
		t.Fatalf("node %s: %v", h.name, err)
	}
}

// join makes all hosts a cluster, with the routes that the routing area would write.
func join(t testing.TB, f model.Family, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		h.apply(t, h.plan(f, hosts...))
		h.routes(t, wg, hosts...)
	}
}

func (h *host) routes(t testing.TB, device string, others ...*host) {
	t.Helper()
	for _, o := range others {
		if o != h {
			testkit.Run(t, h.NS, "ip", "route", "replace", o.block4().String(), "dev", device, "src", h.ip4().String())
			testkit.Run(t, h.NS, "ip", "-6", "route", "replace", o.block6().String(), "dev", device, "src", h.ip6().String())
		}
	}
}

// ping sends 3 packets and tells whether all came back.
func (h *host) ping(t testing.TB, to netip.Addr) bool {
	t.Helper()
	_, err := testkit.Try(t, h.NS, "ping", "-n", "-c", "3", "-i", "0.02", "-W", "2", to.String())
	return err == nil
}

// loop keeps applying a plan as the node service does, whenever the kernel or the driver says so, until
// the test ends.
func (h *host) loop(t *testing.T, plan func() encryption.Plan) {
	t.Helper()
	testkit.Keep(t, h.NS, asked{h.driver}, func(ctx context.Context) (bool, error) {
		res, err := h.driver.Apply(ctx, plan())
		return !res.Zero(), err
	})
}

// asked is a driver that asks for a run when it begins to watch.
type asked struct{ *Driver }

func (a asked) Watch(ctx context.Context, kick func()) error {
	kick()
	return a.Driver.Watch(ctx, kick)
}
