package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"

	"weft/bench/load"
	"weft/bench/report"
	"weft/internal/byhand"
	"weft/internal/kernel"
)

// byHand is two hosts beside the lab's nodes, at the same switch, on which nothing of this project runs: their pods and
// tunnels are made by byhand's commands. Their namespaces have no names and go with this process, however it ends.
type byHand struct {
	router, bridge string // of the lab: network namespace path and the switch in it
	link           int    // MTU of the links
	say            func(format string, args ...any)

	hosts   [2]*os.File
	others  []*os.File // pods
	server  *load.Server
	serving sync.WaitGroup
	life    context.Context // of the server
	stop    context.CancelFunc
	clients []*load.Client
	ports   []string // at the switch
	tunnels []func() // that end WireGuard's processes
}

// handWay is one way between the two hosts: pods of its own, and a device.
type handWay struct {
	report.Encapsulation
	overhead int
	// device makes it on host side, and routes the other's pod to it.
	device func(b *byHand, ctx context.Context, side, mtu int, pod netip.Prefix) error
}

var (
	handOuter = [2]netip.Addr{netip.MustParseAddr("172.31.1.201"), netip.MustParseAddr("172.31.1.202")}
	handWays  = []handWay{
		{report.Encapsulation{Name: "none"}, 0, func(b *byHand, ctx context.Context, side, _ int, pod netip.Prefix) error {
			return b.commands(ctx, side, byhand.Routes("eth0", handOuter[1-side], pod))
		}},
		{report.Encapsulation{Name: "vxlan", Way: "kernel"}, 50, (*byHand).vxlan},
		{report.Encapsulation{Name: "ipip", Way: "kernel"}, 20, func(b *byHand, ctx context.Context, side, mtu int, pod netip.Prefix) error {
			return b.commands(ctx, side, append(byhand.IPIP{Device: "hand-ipip", MTU: mtu, Local: handOuter[side], Peer: handOuter[1-side]}.Commands(),
				byhand.Routes("hand-ipip", netip.Addr{}, pod)...))
		}},
		{report.Encapsulation{Name: "wireguard", Way: "userspace"}, 60, (*byHand).wireGuard},
	}
)

// has tells whether this kernel can do a way.
func (w handWay) has(ctx context.Context) bool {
	return w.Name != "ipip" || kernel.InScratch(func(*kernel.Handle) error {
		return exec.CommandContext(ctx, "ip", "link", "add", "probe", "type", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2").Run()
	}) == nil
}

// place is a namespace as other processes name it too.
func place(ns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

func runAll(ctx context.Context, netns string, commands []string) error {
	for _, c := range commands {
		if _, err := run(ctx, netns, strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

func (b *byHand) commands(ctx context.Context, side int, all []string) error {
	return runAll(ctx, place(b.hosts[side]), all)
}

// open makes the hosts.
func (b *byHand) open(ctx context.Context) (err error) {
	b.server = &load.Server{Token: "within one process"}
	b.life, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	for side := range b.hosts {
		if b.hosts[side], err = kernel.NewScratch(); err != nil {
			return err
		}
		port := fmt.Sprintf("hand%d", side+1)
		b.ports = append(b.ports, port)
		if err := errors.Join(
			runAll(ctx, b.router, []string{
				fmt.Sprintf("ip link add %s mtu %d type veth peer name eth0 mtu %d netns %s", port, b.link, b.link, place(b.hosts[side])),
				fmt.Sprintf("ip link set %s master %s up", port, b.bridge)}),
			b.commands(ctx, side, append(byhand.Host(), fmt.Sprintf("ip addr add %v/24 dev eth0", handOuter[side]), "ip link set eth0 up"))); err != nil {
			return fmt.Errorf("make a host by hand: %w", err)
		}
	}
	return nil
}

// close removes all of it.
func (b *byHand) close() {
	for _, c := range b.clients {
		c.Close()
	}
	if b.stop != nil {
		b.stop()
	}
	b.serving.Wait()
	for _, end := range b.tunnels {
		end()
	}
	for _, port := range b.ports { // also where the lab's router stays a moment longer
		_, _ = run(context.Background(), b.router, "ip", "link", "del", port)
	}
	for _, ns := range append(b.others, b.hosts[0], b.hosts[1]) {
		if ns != nil {
			_ = ns.Close()
		}
	}
}

// path makes a way, number i, and a session between its pods.
func (b *byHand) path(ctx context.Context, i int, w handWay) (*load.Client, error) {
	var pods [2]*os.File
	var addrs [2]netip.Addr
	mtu := b.link - w.overhead
	for side := range pods {
		addrs[side] = netip.AddrFrom4([4]byte{10, byte(250 + side), byte(i), 5})
	}
	for side := range pods {
		ns, err := kernel.NewScratch()
		if err != nil {
			return nil, err
		}
		pods[side], b.others = ns, append(b.others, ns)
		p := byhand.Pod{Link: fmt.Sprintf("pod%d", i), Netns: place(ns), Address: addrs[side], MTU: mtu}
		other := addrs[1-side]
		if err := errors.Join(b.commands(ctx, side, p.OnHost()), runAll(ctx, place(ns), p.Inside())); err != nil {
			return nil, err
		}
		if err := w.device(b, ctx, side, mtu, netip.PrefixFrom(other, 32)); err != nil {
			return nil, err
		}
	}
	l, err := load.Listen(ctx, load.Place(place(pods[1])), netip.AddrPortFrom(addrs[1], 0))
	if err != nil {
		return nil, err
	}
	b.serving.Go(func() { _ = b.server.Serve(b.life, l) })
	var c *load.Client
	for range 3 { // the first handshake of WireGuard takes a moment
		if c, err = load.Connect(ctx, load.Options{From: load.Place(place(pods[0])), Local: addrs[0], To: l.Addr(), Token: b.server.Token}); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		b.clients = append(b.clients, c)
	}
	return c, err
}

func (b *byHand) vxlan(ctx context.Context, side, mtu int, pod netip.Prefix) error {
	mac := func(side int) string { return fmt.Sprintf("02:00:00:00:00:%02x", side+1) }
	v := byhand.VXLAN{Device: "hand-vxlan", Parent: "eth0", VNI: 77, Port: 8472, MTU: mtu, MAC: mac(side), Address: netip.AddrFrom4([4]byte{10, byte(250 + side), 255, 0}),
		Local: handOuter[side], Peer: handOuter[1-side], PeerOuter: handOuter[1-side], PeerMAC: mac(1 - side)}
	return b.commands(ctx, side, append(v.Commands(), byhand.Routes(v.Device, v.Peer, pod)...))
}
