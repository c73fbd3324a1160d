package kernel

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
)

// PodLink is the link of one pod: a veth pair between this host and the pod.
type PodLink struct {
	Device    string       // host side, see PodDeviceName
	IfName    string       // pod side: "eth0"
	MTU       int          // bytes, both sides
	MAC       model.MAC    // of the pod side; zero: Create chooses one
	Addresses []netip.Addr // of the pod side, at most one a family; Create ignores them
	// Forwarding lets the pod itself forward packets (ip_forward inside).
	Forwarding bool
}

// Gateways of a pod, one a family. No interface holds the IPv4 one: the pod has a permanent
// neighbour entry for it, and the host side answers ARP for it as well (proxy_arp). The IPv6 one
// is the link-local address of the host side.
var (
	podGateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	podGateway6 = netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")
	podHostMAC  = model.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
)

// PodHostMAC returns the Ethernet address that the host side of every pod link has.
func PodHostMAC() model.MAC { return podHostMAC }

// PodGateway returns the next hop of a pod's default route.
func PodGateway(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return podGateway4
	}
	return podGateway6
}

// ErrPodInterfaceExists says that the pod already has an interface of the wanted name.
var ErrPodInterfaceExists = errors.New("the pod already has an interface of that name")

// PodDeviceName returns the name of the host side of a pod's link: PodLinkPrefix and the first 11
// hex digits of SHA1("namespace.pod"), with ".interface" appended for any interface but eth0. The
// digest only makes a short name; nothing rests on it being hard to collide.
func PodDeviceName(id model.EndpointID) string {
	s := id.Namespace + "." + id.Pod
	if id.Interface != "eth0" {
		s += "." + id.Interface
	}
	sum := sha1.Sum([]byte(s))
	return PodLinkPrefix + hex.EncodeToString(sum[:])[:11]
}

// IsPodDevice tells whether a link is the host side of a pod's link, by name and kind.
func IsPodDevice(l Link) bool {
	if l.Kind != "veth" || len(l.Name) != len(PodLinkPrefix)+11 || l.Name[:len(PodLinkPrefix)] != PodLinkPrefix {
		return false
	}
	for _, c := range l.Name[len(PodLinkPrefix):] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// PodLinks makes the pods' links on one host: the network namespace that it was opened in. Its
// methods may be called from several goroutines.
type PodLinks struct {
	host *os.File
	home bool // host is the process's own namespace: any thread is in it
	// host's sockets: nil stands for one that is not open yet. One alone would make all wait for the
	// kernel, which is slow to delete links; more than a few only crowd before its lock.
	handles chan *Handle
	buffers sync.Pool // of *[]byte, for sockets in pods
}

// maxHandles is how many calls into the host's namespace are under way at once.
const maxHandles = 8

// OpenPodLinks returns a PodLinks for the network namespace of the calling thread.
func OpenPodLinks() (*PodLinks, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open this network namespace: %w", err)
	}
	p := &PodLinks{host: f, handles: make(chan *Handle, maxHandles)}
	for range maxHandles {
		p.handles <- nil
	}
	if ours, err := os.Stat("/proc/self/ns/net"); err == nil {
		here, err := f.Stat()
		p.home = err == nil && os.SameFile(ours, here)
	}
	return p, nil
}

// Close releases the sockets; no call may be under way.
func (p *PodLinks) Close() {
	for range maxHandles {
		if h := <-p.handles; h != nil {
			h.Close()
		}
	}
	p.host.Close()
}

// CheckNamespace returns an error unless f is a network namespace other than this host's.
func (p *PodLinks) CheckNamespace(f *os.File) error {
	typ, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || typ != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is not a network namespace", f.Name())
	}
	ours, err := p.host.Stat()
	if err != nil {
		return fmt.Errorf("look at this network namespace: %w", err)
	}
	theirs, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at network namespace %s: %w", f.Name(), err)
	}
	if os.SameFile(ours, theirs) {
		return fmt.Errorf("%s is this host's own network namespace", f.Name())
	}
	return nil
}

// withHost calls f with a socket in the host's namespace.
func (p *PodLinks) withHost(ctx context.Context, f func(*Handle) error) error {
	var h *Handle
	select {
	case h = <-p.handles:
	case <-ctx.Done():
		return fmt.Errorf("wait for other calls to the kernel: %w", context.Cause(ctx))
	}
	defer func() { p.handles <- h }()
	if h == nil {
		err := p.inHost(func() (err error) {
			h, err = Open()
			return err
		})
		if err != nil {
			h = nil
			return err
		}
	}
	return f(h)
}

// inHost runs f in the host's namespace.
func (p *PodLinks) inHost(f func() error) error {
	if p.home {
		return f() // saves a thread per call
	}
	return enter(p.host, f)
}

// enter runs f on a thread of its own in the network namespace ns.
func enter(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
		}
		return f()
	})
}

// Create makes the veth pair, both sides down, the pod's side directly in ns with one netlink
// message: it never exists in the host's namespace. It returns the MAC of the pod side. An
// interface of that name in the pod is an error that wraps ErrPodInterfaceExists; a host device of
// that name is an error that wraps unix.EEXIST.
func (p *PodLinks) Create(ctx context.Context, ns *os.File, l PodLink) (model.MAC, error) {
	if err := errors.Join(checkLinkName(l.Device), checkLinkName(l.IfName)); err != nil {
		return model.MAC{}, err
	}
	if l.MAC.IsZero() {
		_, _ = rand.Read(l.MAC[:])      // never fails (crypto/rand)
		l.MAC[0] = l.MAC[0]&0xfc | 0x02 // unicast, locally administered
	}
	body := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, l.Device).u32(unix.IFLA_MTU, uint32(l.MTU)).
		mac(unix.IFLA_ADDRESS, podHostMAC).
		nest(unix.IFLA_LINKINFO, func(e *encoder) {
			e.str(unix.IFLA_INFO_KIND, "veth").nest(unix.IFLA_INFO_DATA, func(e *encoder) {
				peer := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, l.IfName).u32(unix.IFLA_MTU, uint32(l.MTU)).
					mac(unix.IFLA_ADDRESS, l.MAC).u32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
				e.attr(vethInfoPeer|unix.NLA_F_NESTED, peer.b)
			})
		})
	err := p.withHost(ctx, func(h *Handle) error {
		err := h.execOne(ctx, request{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, body.b})
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		if _, there, _ := h.LinkByName(ctx, l.Device); !there {
			return ErrPodInterfaceExists
		}
		return err
	})
	if err != nil {
		return model.MAC{}, fmt.Errorf("create pod link %s with %s in %s: %w", l.Device, l.IfName, ns.Name(), err)
	}
	return l.MAC, nil
}

const vethInfoPeer = 1 // linux/veth.h VETH_INFO_PEER

// Configure prepares the host side for the families of l.Addresses and sets it up, so that routes
// can point to it. The pod side stays down: nothing can be sent yet.
func (p *PodLinks) Configure(ctx context.Context, l PodLink) error {
	err := p.withHost(ctx, func(h *Handle) error {
		link, have, err := h.linkConf6(ctx, l.Device)
		if err != nil {
			return err
		}
		v6 := hasFamily(l.Addresses, model.IPv6)
		if err := p.setHostConf6(l.Device, v6, have); err != nil {
			return err
		}
		reqs := []request{setPodConf(link.Index, v6), noProxyDelay(link.Index)}
		if v6 {
			reqs = append(reqs, addAddr(link.Index, netip.PrefixFrom(podGateway6, 64), unix.RT_SCOPE_LINK))
		}
		return h.all(ctx, append(reqs, setUp(link.Index)))
	})
	if err != nil {
		return fmt.Errorf("configure pod link %s: %w", l.Device, err)
	}
	return nil
}

// sysctl is one setting and its value.
type sysctl struct{ path, value string }

// setAll gives sysctls of the calling thread's namespace their values, where they have others: some
// of them make the kernel wait for the lock that every change of a link holds.
func setAll(s []sysctl) error {
	for _, x := range s {
		if err := SetSysctl(x.path, x.value); err != nil {
			return err
		}
	}
	return nil
}

// Activate gives the pod side its addresses, sets it up and adds its routes and permanent
// neighbour entries, all in one exchange. From now on the pod can send. It returns when both sides
// carry packets.
func (p *PodLinks) Activate(ctx context.Context, ns *os.File, l PodLink) error {
	err := p.inPod(ns, podSysctls(l), func(h *Handle) error {
		link, conf, err := h.linkConf6(ctx, l.IfName)
		if err != nil {
			return err
		}
		if off := len(conf) <= conf6Disable || conf[conf6Disable] != 0; off && hasFamily(l.Addresses, model.IPv6) {
			on := []sysctl{{"net/ipv6/conf/" + l.IfName + "/disable_ipv6", "0"}}
			if err := enter(ns, func() error { return setAll(on) }); err != nil {
				return err
			}
		}
		if err := h.all(ctx, podRequests(link.Index, l.Addresses)); err != nil {
			return err
		}
		return h.awaitRunning(ctx, l.IfName)
	})
	if err == nil {
		err = p.withHost(ctx, func(h *Handle) error { return h.awaitRunning(ctx, l.Device) })
	}
	if err != nil {
		return fmt.Errorf("activate %s in %s: %w", l.IfName, ns.Name(), err)
	}
	return nil
}

// awaitRunning returns when the link is operational. A side that was up before its peer gets its
// queue from a work item of the kernel's (net/core/link_watch.c) and drops what it is to send
// until then: a first packet, or the ARP request before it, whose repetition takes a second.
func (h *Handle) awaitRunning(ctx context.Context, name string) error {
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		l, there, err := h.LinkByName(ctx, name)
		if err != nil || !there {
			return errors.Join(err, whenAbsent(there))
		}
		if l.Running {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait until %s is operational: %w", name, context.Cause(ctx))
		}
	}
}

func podSysctls(l PodLink) []sysctl {
	var s []sysctl
	v4, v6 := hasFamily(l.Addresses, model.IPv4), hasFamily(l.Addresses, model.IPv6)
	if l.Forwarding && v4 {
		s = append(s, sysctl{"net/ipv4/ip_forward", "1"})
	}
	if l.Forwarding && v6 {
		s = append(s, sysctl{"net/ipv6/conf/all/forwarding", "1"})
	}
	return s
}

// podRequests are handled by the kernel in this order. The addresses come first, so that the pod
// never sends from another source; the neighbour entries before the routes that use them.
func podRequests(index int, addrs []netip.Addr) []request {
	var reqs []request
	for _, a := range addrs {
		reqs = append(reqs, addAddr(index, model.HostPrefix(a), unix.RT_SCOPE_UNIVERSE))
	}
	reqs = append(reqs, setUp(index))
	for _, a := range addrs {
		gw := PodGateway(model.FamilyOf(a))
		reqs = append(reqs, addNeigh(index, gw, podHostMAC))
		if gw.Is4() { // the IPv6 one is link-local, hence on link
			reqs = append(reqs, addRoute(index, model.HostPrefix(gw), netip.Addr{}))
		}
		reqs = append(reqs, addRoute(index, netip.PrefixFrom(gw.Unmap(), 0).Masked(), gw))
	}
	return reqs
}

// Delete removes a pod's link by its host side; an absent one is not an error.
func (p *PodLinks) Delete(ctx context.Context, device string) error {
	return p.withHost(ctx, func(h *Handle) error {
		l, there, err := h.LinkByName(ctx, device)
		if err != nil || !there {
			return err
		}
		if !IsPodDevice(l) {
			return fmt.Errorf("delete pod link %s: it is a %s device and not ours", device, l.Kind)
		}
		return h.LinkDelete(ctx, device)
	})
}

// Devices lists the host sides that exist, by name.
func (p *PodLinks) Devices(ctx context.Context) (map[string]Link, error) {
	devices := map[string]Link{}
	err := p.withHost(ctx, func(h *Handle) error {
		links, err := h.Links(ctx)
		for _, l := range links {
			if IsPodDevice(l) {
				devices[l.Name] = l
			}
		}
		return err
	})
	return devices, err
}
