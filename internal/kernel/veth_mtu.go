package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// PodMTU is the MTU of the two ends of a pod's link, in bytes.
type PodMTU struct {
	Host int
	Pod  int // as MTUs returns it, 0: the pod's end cannot be seen, its namespace is going
}

// PodMTUChange asks for the MTUs of one pod's link.
type PodMTUChange struct {
	Device string // host side
	// Netns is the path of the pod's network namespace as it was at ADD. It may be gone, or be
	// another's: the namespace is then looked for among those that processes and mounts hold.
	Netns string
	PodMTU
}

// podEnds is the host side of a pod's link, and where its other end is.
type podEnds struct {
	Link
	peer  int // index of the pod side in its namespace
	netns int // the kernel's number of that namespace, as seen from here; noNetns: it is this one
}

const noNetns = -1

// MTUs returns the MTUs of all pods' links by their host side. It enters no namespace.
func (p *PodLinks) MTUs(ctx context.Context) (map[string]PodMTU, error) {
	out := map[string]PodMTU{}
	err := p.withHost(ctx, func(h *Handle) error {
		links, err := h.podEnds(ctx)
		if err != nil {
			return err
		}
		for _, l := range links {
			m := PodMTU{Host: l.MTU}
			if m.Pod, err = h.peerMTU(ctx, l); err != nil {
				return err
			}
			out[l.Name] = m
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the MTUs of pod links: %w", err)
	}
	return out, nil
}

// podEnds lists the host sides that exist.
func (h *Handle) podEnds(ctx context.Context) ([]podEnds, error) {
	body := ifInfo(0, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).
		nest(unix.IFLA_LINKINFO, func(e *encoder) { e.str(unix.IFLA_INFO_KIND, "veth") }).b
	msgs, err := h.dump(ctx, unix.RTM_GETLINK, body)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ends []podEnds
	for _, m := range msgs {
		if l, ok := parsePodEnds(m.body); ok && IsPodDevice(l.Link) {
			ends = append(ends, l)
		}
	}
	return ends, nil
}

func parsePodEnds(b []byte) (podEnds, bool) {
	l, ok := parseLink(b)
	e := podEnds{Link: l, netns: noNetns}
	if ok {
		eachAttr(b[ifInfoSize:], func(typ uint16, v []byte) {
			switch typ {
			case unix.IFLA_LINK:
				e.peer = int(getU32(v))
			case unix.IFLA_LINK_NETNSID:
				e.netns = int(int32(getU32(v)))
			}
		})
	}
	return e, ok
}

// peerMTU asks the kernel for the other end, in whatever namespace it is (Linux 4.15); 0 when it
// cannot be seen.
func (h *Handle) peerMTU(ctx context.Context, l podEnds) (int, error) {
	e := ifInfo(l.peer, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	if l.netns != noNetns {
		e.u32(unix.IFLA_TARGET_NETNSID, uint32(l.netns))
	}
	m, err := h.query(ctx, unix.RTM_GETLINK, e.b)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) {
		return 0, nil // the link or the namespace went, or is another user's
	}
	if err != nil {
		return 0, fmt.Errorf("look up the peer of %s: %w", l.Name, err)
	}
	peer, _ := parseLink(m.body)
	return peer.MTU, nil
}

// mtuParallel is how many pods are changed at once: entering a namespace takes a new thread, and
// the kernel changes one link at a time anyway.
const mtuParallel = 4

// SetMTUs gives pods' links the wanted MTUs, and returns one error for each change: nil when both
// ends are as wanted or the link is gone.
//
// An MTU grows at the host's end first and shrinks at the pod's end first. A veth pair drops without
// a word what is larger than the MTU of the end that it arrives at, and a pod sends by the MTU of its
// own device from the moment that this changes: so the host's end is never the smaller one. Towards
// the pod others send by what they know of it, which takes longer to change.
func (p *PodLinks) SetMTUs(ctx context.Context, changes []PodMTUChange) []error {
	errs := make([]error, len(changes))
	finder := &netnsFinder{links: p}
	var g errgroup.Group
	g.SetLimit(mtuParallel)
	for i, c := range changes {
		g.Go(func() error {
			if err := p.setMTU(ctx, c, finder); err != nil {
				errs[i] = fmt.Errorf("set MTU %d of pod link %s: %w", c.Host, c.Device, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return errs
}

func (p *PodLinks) setMTU(ctx context.Context, c PodMTUChange, finder *netnsFinder) error {
	var l podEnds
	there := false
	host := func(mtu int) error {
		return p.withHost(ctx, func(h *Handle) error { return gone(h.setIndexMTU(ctx, l.Index, mtu)) })
	}
	err := p.withHost(ctx, func(h *Handle) (err error) {
		l, there, err = h.podEndsByName(ctx, c.Device)
		return err
	})
	if err != nil || !there {
		return err
	}
	if l.MTU < c.Host {
		if err := host(c.Host); err != nil {
			return err
		}
	}
	if err := p.setPodMTU(ctx, c, l, finder); err != nil {
		return err
	}
	if l.MTU > c.Host {
		return host(c.Host)
	}
	return nil
}

// setPodMTU changes the pod's end: by its index, since a pod may rename what is in it.
func (p *PodLinks) setPodMTU(ctx context.Context, c PodMTUChange, l podEnds, finder *netnsFinder) error {
	have := 0
	err := p.withHost(ctx, func(h *Handle) (err error) {
		have, err = h.peerMTU(ctx, l)
		return err
	})
	if err != nil || have == 0 || have == c.Pod {
		return err
	}
	if l.netns == noNetns {
		return fmt.Errorf("its other end is in the host's own network namespace")
	}
	ns, err := finder.open(ctx, c.Netns, l.netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.inPod(ns, nil, func(h *Handle) error { return gone(h.setIndexMTU(ctx, l.peer, c.Pod)) })
}

// gone makes the absence of what was to be changed no error.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (h *Handle) setIndexMTU(ctx context.Context, index, mtu int) error {
	return h.execOne(ctx, request{unix.RTM_NEWLINK, 0, ifInfo(index, 0, 0).u32(unix.IFLA_MTU, uint32(mtu)).b})
}

func (h *Handle) podEndsByName(ctx context.Context, name string) (podEnds, bool, error) {
	if err := checkLinkName(name); err != nil {
		return podEnds{}, false, err
	}
	body := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, name).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).b
	m, err := h.query(ctx, unix.RTM_GETLINK, body)
	if err != nil {
		return podEnds{}, false, gone(err)
	}
	l, ok := parsePodEnds(m.body)
	if ok && !IsPodDevice(l.Link) {
		return podEnds{}, false, fmt.Errorf("it is a %s device and not ours", l.Kind)
	}
	return l, ok, nil
}

// netnsFinder opens network namespaces that are known by the host's number of them.
type netnsFinder struct {
	links *PodLinks

	once sync.Once
	byID map[int]string // a path of each namespace that a process or a mount holds
	err  error
}

// open returns the namespace with the number id: the one at path, or wherever else it is.
func (f *netnsFinder) open(ctx context.Context, path string, id int) (*os.File, error) {
	if ns := f.openIf(ctx, path, id); ns != nil {
		return ns, nil
	}
	f.once.Do(func() { f.byID, f.err = f.search(ctx) })
	if f.err != nil {
		return nil, f.err
	}
	if ns := f.openIf(ctx, f.byID[id], id); ns != nil {
		return ns, nil
	}
	return nil, fmt.Errorf("the pod's network namespace is not at %q, nor held by any process or mount that this one sees", path)
}

// openIf returns the namespace at path if it has the number id, else nil.
func (f *netnsFinder) openIf(ctx context.Context, path string, id int) *os.File {
	if path == "" {
		return nil
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil
	}
	if got, err := f.id(ctx, ns); err != nil || got != id {
		ns.Close()
		return nil
	}
	return ns
}

// id returns the host's number of a namespace; noNetns when it has none.
func (f *netnsFinder) id(ctx context.Context, ns *os.File) (int, error) {
	if typ, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE); err != nil || typ != unix.CLONE_NEWNET {
		return noNetns, fmt.Errorf("%s is not a network namespace", ns.Name())
	}
	id := noNetns
	err := f.links.withHost(ctx, func(h *Handle) error {
		e := (&encoder{}).raw(unix.AF_UNSPEC, 0, 0, 0).u32(unix.NETNSA_FD, uint32(ns.Fd())) // struct rtgenmsg, padded
		m, err := h.query(ctx, unix.RTM_GETNSID, e.b)
		if err == nil && len(m.body) > 4 {
			eachAttr(m.body[4:], func(typ uint16, v []byte) {
				if typ == unix.NETNSA_NSID {
					id = int(int32(getU32(v)))
				}
			})
		}
		return err
	})
	return id, err
}

// search finds a path to every namespace that a process is in or that is mounted somewhere.
func (f *netnsFinder) search(ctx context.Context) (map[int]string, error) {
	paths, err := netnsPaths()
	if err != nil {
		return nil, err
	}
	byID := make(map[int]string, len(paths))
	for _, path := range paths {
		ns, err := os.Open(path)
		if err != nil {
			continue // the process ended
		}
		id, err := f.id(ctx, ns)
		ns.Close()
		if err == nil && id != noNetns {
			byID[id] = path
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return byID, nil
}

// netnsPaths returns one path of each network namespace that can be seen.
func netnsPaths() ([]string, error) {
	var paths []string
	held, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, path := range held {
		if which, err := os.Readlink(path); err == nil && !seen[which] { // "net:[4026531840]"
			seen[which] = true
			paths = append(paths, path)
		}
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		// proc(5): ID, parent, device, root, mount point, options and so on, "-", type, ...
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) > 4 && strings.HasPrefix(after, "nsfs ") && strings.HasPrefix(fields[3], "net:") && !seen[fields[3]] {
			seen[fields[3]] = true
			paths = append(paths, unescapeMount(fields[4]))
		}
	}
	return paths, nil
}

// unescapeMount reads the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
