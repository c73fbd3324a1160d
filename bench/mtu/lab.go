package mtu

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	v3 "weft/api/v3"
	"weft/bench/load"
	"weft/bench/report"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/status"
)

// LabLayout is the lab that Lab needs: n1 and n2 send in clear, n3 and n4 encrypt what they send each other. mtu is
// that of its links, in bytes.
func LabLayout(mtu int) string {
	return fmt.Sprintf(`{mtu: %d, subnets: [{name: rack1, cidr: 172.31.1.0/24}],
nodes: [{name: n1, subnet: rack1}, {name: n2, subnet: rack1}, {name: n3, subnet: rack1}, {name: n4, subnet: rack1}]}`, mtu)
}

// LabPath is an encapsulation of the lab: pods of two nodes.
type LabPath struct {
	ID       string // of its pods, and of its pool where it has one of its own
	Name     string // of the encapsulation
	Pool     string // the ID of the path whose pool it shares; empty: it has one
	CIDR     string // of its own pool
	Mode     v3.IPPoolSpec
	From, To string
	Reach    string // as the node says it
	Overhead int
}

// LabPaths are those of `weft bench mtu`.
func LabPaths() []LabPath {
	return []LabPath{
		{ID: "none", Name: "none", CIDR: "10.245.0.0/16", From: "n1", To: "n2", Reach: "Direct"},
		{ID: "vxlan", Name: "vxlan", CIDR: "10.244.0.0/16", Mode: v3.IPPoolSpec{VXLANMode: v3.EncapAlways}, From: "n1", To: "n2", Reach: "VXLAN", Overhead: 50},
		{ID: "ipip", Name: "ipip", CIDR: "10.246.0.0/16", Mode: v3.IPPoolSpec{IPIPMode: v3.EncapAlways}, From: "n1", To: "n2", Reach: "IPIP", Overhead: 20},
		{ID: "wireguard", Name: "wireguard", Pool: "none", From: "n3", To: "n4", Reach: "WireGuard", Overhead: 60},
	}
}

func (p LabPath) pool() string {
	if p.Pool != "" {
		return "mtu-" + p.Pool
	}
	return "mtu-" + p.ID
}

const labToken = "within one process"

// Lab makes paths between pods of a lab that runs this project's node service: what is measured is what pods get.
type Lab struct {
	lab     *lab.Lab
	store   datastore.Store
	say     func(format string, args ...any)
	mtu     int
	paths   []LabPath
	servers sync.WaitGroup
	stop    context.CancelFunc
	server  *load.Server
	clients []*load.Client
}

// OpenLab prepares a lab of LabLayout, with its store, for Paths.
func OpenLab(ctx context.Context, l *lab.Lab, store datastore.Store, mtu int, paths []LabPath, say func(format string, args ...any)) (*Lab, error) {
	b := &Lab{lab: l, store: store, say: say, mtu: mtu, paths: paths, server: &load.Server{Token: labToken}}
	var errs []error
	// Pods keep the MTU of their link; for the others the node tells them what fits.
	f := &v3.FelixConfiguration{}
	f.Spec.MTUMode = v3.MTUPerRoute
	errs = append(errs, b.create(ctx, v3.KindFelixConfiguration, "default", f))
	for _, n := range []string{"n3", "n4"} {
		on := true
		f := &v3.FelixConfiguration{}
		f.Spec.WireguardEnabled = &on
		errs = append(errs, b.create(ctx, v3.KindFelixConfiguration, "node."+n, f))
	}
	for _, p := range paths {
		if p.Pool != "" {
			continue
		}
		spec := p.Mode
		spec.CIDR, spec.BlockSize, spec.NodeSelector = p.CIDR, 26, "all()"
		errs = append(errs, b.create(ctx, v3.KindIPPool, p.pool(), &v3.IPPool{Spec: spec}))
	}
	return b, errors.Join(errs...)
}

func (b *Lab) create(ctx context.Context, kindName, name string, o v3.Object) error {
	kind, _ := v3.LookupKind(kindName)
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersion.WithKind(kindName))
	o.SetName(name)
	_, err := b.store.Create(ctx, o)
	return err
}

// Close ends the servers; the lab stays.
func (b *Lab) Close() {
	for _, c := range b.clients {
		c.Close()
	}
	if b.stop != nil {
		b.stop()
	}
	b.servers.Wait()
}

// Paths attaches pods and returns the paths between them. One that the nodes cannot make is left out, and said.
func (b *Lab) Paths(ctx context.Context) ([]*Path, error) {
	serve, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	var out []*Path
	for _, p := range b.paths {
		from, err := b.pod(ctx, p, p.From)
		if err != nil {
			return nil, err
		}
		to, err := b.pod(ctx, p, p.To)
		if err != nil {
			return nil, err
		}
		if missing, err := b.reached(ctx, p, to.addr); err != nil {
			return nil, err
		} else if missing != "" {
			b.say("%v is left out: %s", report.Encapsulation{Name: p.Name}, missing)
			continue
		}
		l, err := load.Listen(ctx, load.Place(to.netns), netip.AddrPortFrom(to.addr, 0))
		if err != nil {
			return nil, err
		}
		b.servers.Go(func() { _ = b.server.Serve(serve, l) })
		c, err := b.connect(ctx, from, l.Addr())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		b.clients = append(b.clients, c)
		way, err := Way(ctx, b.lab, p.From, p.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, &Path{ID: p.ID, Encapsulation: report.Encapsulation{Name: p.Name, Way: way}, Client: c, Most: b.mtu, Overhead: p.Overhead,
			SetMTU: func(ctx context.Context, mtu int) error {
				return errors.Join(from.setMTU(ctx, mtu), to.setMTU(ctx, mtu))
			}})
	}
	return out, nil
}

// connect takes a few attempts: a session of a path that was only just made.
func (b *Lab) connect(ctx context.Context, from pod, to netip.AddrPort) (*load.Client, error) {
	var c *load.Client
	var err error
	for range 3 {
		if c, err = load.Connect(ctx, load.Options{From: load.Place(from.netns), Local: from.addr, To: to, Token: labToken}); err == nil || ctx.Err() != nil {
			break
		}
	}
	return c, err
}

// pod is one end of a path.
type pod struct {
	netns string
	addr  netip.Addr
}

func (p pod) setMTU(ctx context.Context, mtu int) error {
	h, err := kernel.OpenAt(p.netns)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.LinkSetMTU(ctx, "eth0", mtu)
}

func (b *Lab) pod(ctx context.Context, p LabPath, node string) (pod, error) {
	name := node + "-" + p.ID
	res, err := b.lab.AddPod(ctx, lab.PodSpec{Node: node, Namespace: "bench", Name: name,
		Annotations: map[string]string{"cni.projectcalico.org/ipv4pools": `["` + p.pool() + `"]`}})
	if err != nil {
		return pod{}, err
	}
	r, err := types100.GetResult(res)
	if err != nil || len(r.IPs) == 0 {
		return pod{}, fmt.Errorf("pod %s: the CNI result has no address (%v)", name, err)
	}
	addr, _ := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
	return pod{kernel.NetnsPath(b.lab.PodNetns("bench", name)), addr}, nil
}

// settleLimit is how long nodes may take until they reach each other as a pool says.
const settleLimit = 15 * time.Second

// reached waits until both nodes reach each other's pods as the path says. missing says why they never will.
func (b *Lab) reached(ctx context.Context, p LabPath, to netip.Addr) (missing string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("not within %v", settleLimit))
	defer cancel()
	for {
		path, err := PathTo(ctx, b.lab, p.From, p.To, to)
		if err == nil && path.Reach == p.Reach {
			return "", nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				return fmt.Sprintf("node %s reaches %s by %s: %s", p.From, p.To, path.Reach, path.Why), nil
			}
			return "", fmt.Errorf("wait until %s reaches %s by %s: %w", p.From, p.To, p.Reach, errors.Join(context.Cause(ctx), err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// PathTo asks a node of a lab how it reaches an address of a peer's pods.
func PathTo(ctx context.Context, l *lab.Lab, node, peer string, to netip.Addr) (status.Path, error) {
	st, err := status.Fetch(ctx, l.NodeRunDir(node))
	if err != nil {
		return status.Path{}, err
	}
	for _, p := range st.Peers {
		if p.Node != peer {
			continue
		}
		for _, path := range p.Paths {
			if dst, err := netip.ParsePrefix(path.Dst); err == nil && dst.Contains(to) {
				return path, nil
			}
		}
	}
	return status.Path{}, fmt.Errorf("%s knows no path to %v of %s", node, to, peer)
}

// Way returns what does an encapsulation (see LabPath.Name) on a node of a lab that uses it: "kernel", or "ebpf" for ipip,
// or the driver of wireguard; empty where nothing does it.
func Way(ctx context.Context, l *lab.Lab, node, encapsulation string) (string, error) {
	st, err := status.Fetch(ctx, l.NodeRunDir(node))
	if err != nil {
		return "", err
	}
	switch encapsulation {
	case "vxlan":
		return "kernel", nil
	case "wireguard":
		if st.Encryption == nil {
			return "", nil
		}
		return st.Encryption.Driver, nil
	case "ipip":
		h, err := kernel.OpenAt(kernel.NetnsPath(l.Netns(node)))
		if err != nil {
			return "", err
		}
		defer h.Close()
		device, _, err := h.LinkByName(ctx, kernel.IPIPDevice)
		if device.Kind == kernel.KindIPIP {
			return "kernel", err
		}
		return "ebpf", err
	}
	return "", nil
}
