package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/encryption"
	"weft/encryption/wireguard/userspace"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
)

// Way is what has the devices.
type Way string

// The ways.
const (
	Kernel    Way = "kernel"    // the kernel's own
	Userspace Way = "userspace" // a process for each device (package userspace)
)

// Options are the parts of a Driver that differ from host to host. The zero value is for a node.
type Options struct {
	// Way is what Probe said or the configuration forces; empty probes at the first Apply.
	Way Way
	// Executable is the weft binary for processes in user space; empty is the one that runs.
	Executable string
	// SocketDir is where their sockets are; empty is where wg(8) looks for them.
	SocketDir string
	// LogDir is where they log, a file for each device; empty is /run/weft.
	LogDir string
	// Env are variables that they get besides a few of ours.
	Env []string
	// Keeper is the socket of the keeper that starts them (supervise.Keeper); empty: this process does.
	Keeper string
}

// Driver makes the kernel look like an encryption plan. Apply is called by one goroutine; Observe,
// Watch, Peers and Way by any.
type Driver struct {
	h     *kernel.Handle
	log   *slog.Logger
	opts  Options
	procs *processes
	again chan struct{} // of capacity 1: an Apply is needed

	running sync.Mutex // held by Apply, Peers and look: guards what follows
	way     Way
	control control

	mu      sync.Mutex         // guards what follows
	fresh   bool               // false: the links must be read before they can be believed
	devices map[string]*device // as the last Apply left them
	shown   Way
}

// device is one WireGuard device as the last Apply left it.
type device struct {
	want  encryption.Device
	index int // of the interface
	addrs *reconcile.Syncer[kernel.AddrKey, struct{}]

	have     *state // nil: must be read
	plan     *wanted
	private  encryption.PrivateKey // and its public key
	own      model.PublicKey
	said     map[model.PublicKey]netip.AddrPort
	nodes    map[model.PublicKey]model.NodeName
	lookNext time.Time
	greet    []greeting // still to be done
}

// New returns a Driver that works through h, in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger, o Options) *Driver {
	if o.SocketDir == "" {
		o.SocketDir = userspace.DefaultSocketDir
	}
	if o.LogDir == "" {
		o.LogDir = "/run/weft"
	}
	d := &Driver{h: h, log: log, opts: o, devices: map[string]*device{}, again: make(chan struct{}, 1)}
	d.procs = newProcesses(h, log, o, d.onDeath)
	if o.Way != "" {
		d.use(o.Way)
	}
	return d
}

func (d *Driver) use(w Way) {
	d.way = w
	if w == Kernel {
		d.control = &netlinkControl{h: d.h}
	} else {
		d.control = &socketControl{dir: d.opts.SocketDir}
	}
	d.mu.Lock()
	d.shown = w
	d.mu.Unlock()
}

// Way returns what has the devices; empty as long as it was neither told nor probed.
func (d *Driver) Way() Way {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shown
}

// Close releases what the Driver holds and leaves devices and processes as they are: traffic goes on.
func (d *Driver) Close() {
	d.running.Lock()
	defer d.running.Unlock()
	d.procs.Close()
	if d.control != nil {
		d.control.close()
	}
}

// Invalidate makes the next Apply read everything again.
func (d *Driver) Invalidate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh = false
	for _, dev := range d.devices {
		dev.invalidate()
	}
}

// invalidate is called with Driver.mu held.
func (dev *device) invalidate() {
	dev.have = nil
	dev.addrs.Invalidate()
}

// Apply makes devices, addresses and peers as p wants them; the zero plan removes all. A device or peer
// that cannot be is an error that names it and leaves the others alone. It returns every error; the next
// call is the retry.
//
// A new device has its key and peers before it comes up, peers are added and changed before others are
// removed, and devices go in the end: what moves from one to the other always has a way.
func (d *Driver) Apply(ctx context.Context, p encryption.Plan) (reconcile.Result, error) {
	d.running.Lock()
	defer d.running.Unlock()
	res, err := d.apply(ctx, p)
	if err != nil {
		d.mu.Lock()
		d.fresh = false
		d.mu.Unlock()
	}
	if res.Zero() {
		d.log.Debug("wireguard applied", "result", res)
	} else {
		d.log.Info("wireguard applied", "way", d.way, "added", res.Added, "changed", res.Changed, "removed", res.Removed, "repaired", res.Repaired)
	}
	return res, err
}

func (d *Driver) apply(ctx context.Context, p encryption.Plan) (res reconcile.Result, err error) {
	if d.way == "" && len(p.Devices) > 0 {
		w, err := Probe(ctx)
		if err != nil {
			return res, err
		}
		d.use(w)
	}
	devices, err := checkDevices(p.Devices)
	errs := []error{err}
	d.mu.Lock()
	believe := d.fresh
	d.fresh = true // until Observe says otherwise
	d.mu.Unlock()
	var links []kernel.TunnelLink
	if !believe || d.changes(devices) {
		believe = false
		if links, err = d.h.TunnelLinks(ctx); err != nil {
			return res, errors.Join(append(errs, err)...)
		}
	}
	for _, dev := range devices {
		r, err := d.applyDevice(ctx, dev, p.Peers, links, believe)
		res = res.Add(r)
		errs = append(errs, err)
	}
	if !believe {
		r, err := d.removeOthers(ctx, p.Devices)
		res = res.Add(r)
		errs = append(errs, err)
	}
	return res, errors.Join(errs...)
}

// changes tells whether the plan's devices are others than those of the last Apply.
func (d *Driver) changes(devices []*encryption.Device) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range devices {
		if dev := d.devices[w.Name]; dev == nil || !equalDevice(dev.want, *w) {
			return true
		}
	}
	return len(devices) != len(d.devices)
}

func equalDevice(a, b encryption.Device) bool {
	addrs := slices.Equal(a.Addresses, b.Addresses)
	a.Addresses, b.Addresses = nil, nil
	return addrs && a.Name == b.Name && a.Epoch == b.Epoch && a.Key == b.Key && a.Port == b.Port && a.MTU == b.MTU &&
		a.FwMark == b.FwMark && a.Threading == b.Threading
}

// applyDevice makes one device with its peers. believe tells that it is known to be there.
func (d *Driver) applyDevice(ctx context.Context, w *encryption.Device, all []encryption.Peer, links []kernel.TunnelLink, believe bool) (res reconcile.Result, err error) {
	d.mu.Lock()
	dev := d.devices[w.Name]
	repair := dev != nil && equalDevice(dev.want, *w)
	if dev == nil {
		dev = &device{addrs: reconcile.NewSyncer(kernel.NewAddrTable(d.h, w.Name), reconcile.DeleteAfterCleanPuts)}
	}
	d.mu.Unlock()
	var up bool
	if !believe {
		if res, up, err = d.applyLink(ctx, w, dev, links); err != nil {
			return res, err
		}
		if repair && !res.Zero() {
			res.Repaired++
		}
	}
	d.mu.Lock()
	dev.want = *w
	d.devices[w.Name] = dev
	d.mu.Unlock()
	added, r, err := d.configure(ctx, dev, w, peersOf(all, w.Name), repair)
	refused := dev.refusals()
	if res = res.Add(r); err != nil {
		return res, errors.Join(refused, err)
	}
	addrs := make(map[kernel.AddrKey]struct{}, len(w.Addresses))
	for _, a := range w.Addresses {
		addrs[kernel.AddrKey{Device: w.Name, Prefix: model.HostPrefix(a)}] = struct{}{}
	}
	r, err = dev.addrs.Sync(ctx, addrs)
	res = res.Add(r)
	if err == nil && !believe && !up {
		err = portTaken(d.h.LinkSetUp(ctx, w.Name), w)
	}
	if err == nil {
		err = d.greetNew(ctx, dev, added)
	}
	return res, errors.Join(refused, err)
}

// peersOf returns the part of the plan's peers that belongs to one device; they are sorted by device.
func peersOf(peers []encryption.Peer, device string) []encryption.Peer {
	i, _ := slices.BinarySearchFunc(peers, device, func(p encryption.Peer, name string) int {
		if p.Device < name {
			return -1
		}
		return 1
	})
	peers = peers[i:]
	n := slices.IndexFunc(peers, func(p encryption.Peer) bool { return p.Device != device })
	if n < 0 {
		n = len(peers)
	}
	return peers[:n]
}

// configure writes key, port, mark and peers, as far as they differ, and returns the new peers.
func (d *Driver) configure(ctx context.Context, dev *device, w *encryption.Device, peers []encryption.Peer, repair bool) (added []*encryption.Peer, res reconcile.Result, err error) {
	d.mu.Lock()
	have := dev.have
	d.mu.Unlock()
	read := have == nil
	if read {
		if have, err = d.control.read(ctx, w.Name); err != nil {
			return nil, res, err
		}
	}
	own, err := dev.public(w.Key)
	if err != nil {
		return nil, res, err
	}
	var come []*encryption.Peer
	var gone []model.PublicKey
	ok := false
	if !read && dev.plan != nil && dev.plan.key == own {
		come, gone, ok = dev.plan.next(peers)
	}
	if !ok {
		dev.plan = want(w.Name, own, peers)
		come, gone = dev.plan.all(have.peers)
	}
	c, err := d.deviceChange(have, w)
	if err != nil {
		dev.plan = nil
		return nil, res, err
	}
	if !c.empty() {
		res.Changed++
	}
	var r reconcile.Result
	c.peers, r = diffPeers(have.peers, come, gone, dev.plan.claimed, dev.said, time.Now())
	res = res.Add(r)
	if read && repair && !res.Zero() {
		res.Repaired = res.Added + res.Changed + res.Removed
	}
	for _, p := range come {
		if _, there := have.peers[p.Key]; !there {
			added = append(added, p)
		}
	}
	d.setState(dev, nil) // unknown until all is written
	if !c.empty() {
		if have.revision, err = d.write(ctx, w, have.revision, c); err != nil {
			return nil, reconcile.Result{}, err
		}
	}
	have.key, have.port, have.fwmark = w.Key, w.Port, w.FwMark
	have.after(c.peers, come, gone)
	dev.tell(come, gone)
	if have.revision == foreignRevision {
		d.ask()
		return added, res, nil
	}
	d.setState(dev, have)
	return added, res, nil
}

// deviceChange is the part of a change that is about the device itself.
func (d *Driver) deviceChange(have *state, w *encryption.Device) (c change, err error) {
	if have.key != w.Key {
		c.key = &w.Key
	}
	if have.port != w.Port {
		c.port = &w.Port
		err = d.portFree(w)
	}
	if have.fwmark != w.FwMark {
		c.fwmark = &w.FwMark
	}
	return c, err
}

// public is the public key of the device, computed once.
func (dev *device) public(k encryption.PrivateKey) (model.PublicKey, error) {
	if k == dev.private {
		return dev.own, nil
	}
	own, err := k.Public()
	if err == nil {
		dev.private, dev.own = k, own
	}
	return own, err
}

func (dev *device) refusals() error {
	if dev.plan == nil {
		return nil
	}
	return dev.plan.refused
}

// ask makes Watch ask for another Apply.
func (d *Driver) ask() {
	select {
	case d.again <- struct{}{}:
	default:
	}
}

func (d *Driver) setState(dev *device, s *state) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev.have = s
}

// foreignRevision stands for a revision after which somebody else changed the device, too.
const foreignRevision = ^uint64(0)

// write applies a change. Where it fails, the peers are written one by one: those that can be are not to
// suffer from one that cannot.
func (d *Driver) write(ctx context.Context, w *encryption.Device, before uint64, c change) (uint64, error) {
	now, foreign, err := d.control.write(ctx, w.Name, before, c)
	if err == nil {
		if foreign {
			d.log.Warn("somebody else configures the WireGuard device", "device", w.Name)
			now = foreignRevision
		}
		return now, nil
	}
	if len(c.peers) < 2 || ctx.Err() != nil {
		return 0, portTaken(err, w)
	}
	head := c
	head.peers = nil
	if _, _, err := d.control.write(ctx, w.Name, before, head); err != nil {
		return 0, portTaken(err, w)
	}
	var errs []error
	for _, p := range c.peers {
		if _, _, err := d.control.write(ctx, w.Name, 0, change{peers: []peerChange{p}}); err != nil {
			errs = append(errs, fmt.Errorf("peer %s: %w", p.node, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return foreignRevision, nil
	}
	return 0, errors.Join(errs...)
}

// tell notes what the plan says of peers.
func (dev *device) tell(come []*encryption.Peer, gone []model.PublicKey) {
	if dev.said == nil {
		dev.said, dev.nodes = map[model.PublicKey]netip.AddrPort{}, map[model.PublicKey]model.NodeName{}
	}
	for _, k := range gone {
		delete(dev.said, k)
		delete(dev.nodes, k)
	}
	for _, p := range come {
		dev.said[p.Key], dev.nodes[p.Key] = p.Endpoint, p.Node
	}
}
