package mtu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/bench/load"
	"weft/internal/kernel"
	"weft/model"
)

// What a tunnel between two hosts has. Its outer packets are the host's; the device itself is in a network namespace
// without a name, together with the addresses, so that they clash with nothing, and nobody but this process gets there.
const (
	devicePrefix = "weft-bench" // of a device, for the moment until it is moved
	innerDevice  = "eth0"
	// VXLANPort and WireGuardPort are what the outer packets go to, unlike those of a node service on the same host.
	VXLANPort     = 14789
	WireGuardPort = 14820
	vni           = 0x6d7475
)

// Inner addresses: of the range for benchmarks of networks (RFC 2544).
var inner = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.1/30"), netip.MustParsePrefix("198.18.0.2/30")}

// endSpec says what one end of a tunnel is made of; Side is 0 for the client's and 1 for the server's.
type endSpec struct {
	Name      string // "vxlan", "ipip", "wireguard"
	Way       string // "kernel", "userspace"; of wireguard
	Side      int
	MTU       int
	Local     netip.Addr // outer
	Remote    netip.Addr
	Key       wgtypes.Key // private
	RemoteKey wgtypes.Key // public
}

// end is one end of a tunnel.
type end struct {
	ns     *os.File
	closes []func()
}

func (e *end) place() load.Place { return load.Place(fmt.Sprintf("/proc/self/fd/%d", e.ns.Fd())) }

// close removes the device at once: a namespace goes when the last socket in it does, and until then an IPIP device would take
// its peer's packets.
func (e *end) close() {
	if e.ns != nil {
		if h, err := kernel.OpenAt(string(e.place())); err == nil {
			_ = h.LinkDelete(context.Background(), innerDevice)
			h.Close()
		}
	}
	for i := len(e.closes) - 1; i >= 0; i-- {
		e.closes[i]()
	}
	if e.ns != nil {
		_ = e.ns.Close()
	}
}

func (e *end) setMTU(ctx context.Context, mtu int) error {
	h, err := kernel.OpenAt(string(e.place()))
	if err != nil {
		return err
	}
	defer h.Close()
	return h.LinkSetMTU(ctx, innerDevice, mtu)
}

var devices atomic.Uint32

// makeEnd makes one end in this process's network namespace.
func makeEnd(ctx context.Context, s endSpec) (_ *end, err error) {
	e := &end{}
	defer func() {
		if err != nil {
			e.close()
			err = fmt.Errorf("make this end of %s between %v and %v: %w", s.Name, s.Local, s.Remote, err)
		}
	}()
	if e.ns, err = kernel.NewScratch(); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s%d", devicePrefix, devices.Add(1)%10000)
	switch {
	case s.Name == "vxlan":
		err = e.make(ctx, name, func(h *kernel.Handle) error {
			return h.AddVXLAN(ctx, kernel.VXLAN{Name: name, VNI: vni, Port: VXLANPort, Local: s.Local, MAC: innerMAC(s.Side), MTU: s.MTU})
		})
	case s.Name == "ipip":
		if why := withoutIPIP(ctx, s.Local); why != "" {
			return nil, errors.New(why)
		}
		err = e.make(ctx, name, func(h *kernel.Handle) error { return h.AddIPIPTo(ctx, name, s.MTU, s.Local, s.Remote) })
	case s.Way == "kernel":
		err = e.make(ctx, name, func(h *kernel.Handle) error {
			return errors.Join(h.AddWireGuard(ctx, name, s.MTU), s.configureKernel(name))
		})
	default:
		err = e.userspace(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	return e, e.address(ctx, s)
}

// make makes a device in the host's namespace, where its outer packets stay, and moves it.
func (e *end) make(ctx context.Context, name string, add func(*kernel.Handle) error) error {
	h, err := kernel.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	err = add(h)
	if err == nil {
		err = h.LinkMove(ctx, name, e.ns)
	}
	if err != nil {
		return errors.Join(err, h.LinkDelete(ctx, name))
	}
	return e.rename(ctx, name)
}

func (e *end) rename(ctx context.Context, name string) error {
	h, err := kernel.OpenAt(string(e.place()))
	if err != nil {
		return err
	}
	defer h.Close()
	l, ok, err := h.LinkByName(ctx, name)
	if err != nil || !ok {
		return errors.Join(fmt.Errorf("look up device %s", name), err)
	}
	return h.LinkRename(ctx, l.Index, innerDevice)
}

// address gives the end its inner address and sets it up; VXLAN knows its only peer.
func (e *end) address(ctx context.Context, s endSpec) error {
	h, err := kernel.OpenAt(string(e.place()))
	if err != nil {
		return err
	}
	e.closes = append(e.closes, h.Close)
	if err := errors.Join(h.AddAddress(innerDevice, inner[s.Side]), h.LinkSetUp(ctx, innerDevice)); err != nil {
		return err
	}
	if s.Name != "vxlan" {
		return nil
	}
	peer := innerMAC(1 - s.Side)
	return errors.Join(
		kernel.NewNeighTable(h, innerDevice).Put(ctx, kernel.NeighKey{Device: innerDevice, IP: inner[1-s.Side].Addr()}, peer),
		kernel.NewFDBTable(h, innerDevice).Put(ctx, kernel.FDBKey{Device: innerDevice, MAC: peer}, s.Remote))
}

func innerMAC(side int) model.MAC { return model.MAC{0x66, 'b', 'e', 'n', 0, byte(side)} }

// configureKernel gives the kernel's device its key and its peer.
func (s endSpec) configureKernel(device string) error {
	c, err := wgctrl.New()
	if err != nil {
		return err
	}
	defer c.Close()
	port := WireGuardPort
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	return c.ConfigureDevice(device, wgtypes.Config{PrivateKey: &s.Key, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
		PublicKey: s.RemoteKey, Endpoint: &net.UDPAddr{IP: s.Remote.AsSlice(), Port: WireGuardPort}, AllowedIPs: []net.IPNet{*all},
	}}})
}

// wireGuardWay returns what does WireGuard on this host; empty: nothing.
func wireGuardWay(ctx context.Context) string {
	kernelHas := kernel.InScratch(func(h *kernel.Handle) error { return h.AddWireGuard(ctx, "probe", 1420) }) == nil
	switch {
	case kernelHas:
		return "kernel"
	case kernel.InScratch(func(*kernel.Handle) error { return kernel.CheckTUN() }) == nil:
		return "userspace"
	}
	return ""
}

// withoutIPIP says why there is no path by IPIP between this host's address and another; empty where there can be one.
// IPIP has no port, so that a second tunnel would take the packets of one that is there already.
func withoutIPIP(ctx context.Context, local netip.Addr) string {
	if !local.Is4() {
		return "IPIP is between IPv4 addresses"
	}
	other, err := otherIPIP(ctx)
	switch {
	case err != nil:
		return fmt.Sprintf("nobody knows whether %v has IPIP already: %v", local, err)
	case other != "":
		return fmt.Sprintf("%v has IPIP already, device %s, whose packets a second tunnel would take", local, other)
	}
	if _, err := os.Stat("/sys/module/ipip"); err != nil { // to make a device would load it, which leaves a tunl0 in every namespace
		return fmt.Sprintf("the kernel of %v has no IPIP device, or its module is not loaded (modprobe ipip)", local)
	}
	return ""
}

// otherIPIP names a device of this host that may have packets of IPIP: of a kind of the kernel's that takes them and up, or a
// node service's, which may be of another kind. What is in other namespaces, or no device at all, is not seen.
func otherIPIP(ctx context.Context) (string, error) {
	h, err := kernel.Open()
	if err != nil {
		return "", err
	}
	defer h.Close()
	links, err := h.TunnelLinks(ctx)
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.Name == kernel.IPIPDevice || l.Up && (l.Kind == kernel.KindIPIP || l.Kind == "sit") {
			return l.Name, nil
		}
	}
	return "", nil
}

// dup returns a descriptor of its own of f, without making it one that blocks.
func dup(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(ctlErr, err)
}
