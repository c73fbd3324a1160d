package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/topology"
	"weft/node/config"
	"weft/node/datastore"
	"weft/node/ipam"
	"weft/tunnel"
)

// patience is how long the watch may take to bring back what was written. After that the store has
// forgotten it: it was put back to an earlier state.
const patience = 5 * time.Second

// errNotBack tells that what was written last has not come back yet.
var errNotBack = errors.New("the record written last has not come back from the store yet")

// publisher keeps this node's record in the store true: addresses, what is on its link, the
// tunnel's MAC and address. What others put in the record (labels, BGP settings) it leaves alone.
type publisher struct {
	self     model.NodeName
	cfg      config.Address
	log      *slog.Logger
	store    datastore.Store
	stores   []netip.Addr // addresses of the store's endpoints
	cluster  *cluster
	underlay *underlay
	host     *kubeHost // nil: the store is not Kubernetes
	tunnels  tunnelAddresses
	// announced is what the engine wants said of the tunnels.
	announced *announcer
	// relies is what is to be said of whom this node relies on for routes by BGP; ok is false when that is not
	// known yet.
	relies    func() (say model.Reliance, ok bool)
	encryptor *encryptor
	// again asks for another pass, later.
	again      func(time.Duration)
	interfaces interfacesHold // left is guarded by mu
	// unsure tells that the last write may have arrived or not: the next one is made even if the
	// record, as far as it is known, says the same already.
	unsure bool
	// written is the revision of the last write. Nothing new is announced before the watch has
	// brought it back: there is never more than one announcement on its way.
	written   string
	writtenAt time.Time

	mu       sync.Mutex
	found    map[model.Family]found
	err      error
	troubles []string // that keep nothing from working
}

// tunnelAddresses gives this node the address of its tunnel device.
type tunnelAddresses interface {
	// assign returns this node's tunnel address of a family from one of the named pools, the same
	// one each time.
	assign(ctx context.Context, f model.Family, pools []string) (netip.Addr, error)
	// keep makes the store say that an address is that of this node's tunnels. It returns false when it cannot be, since
	// another owner has it.
	keep(ctx context.Context, f model.Family, a netip.Addr) (bool, error)
	// release gives the address of a family back.
	release(ctx context.Context, f model.Family) error
}

// run is one pass; it is a reconcile.Runner's function.
func (p *publisher) run(ctx context.Context, _ bool) error {
	err := p.publish(ctx)
	if errors.Is(err, datastore.ErrConflict) {
		err = nil // somebody wrote the record meanwhile: its arrival kicks the next pass
	}
	if errors.Is(err, errNotBack) {
		return err // its arrival kicks the next pass; if it never comes, the retry does
	}
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		p.log.Warn("publish node record failed, will retry", "node", string(p.self), "err", err)
	}
	return err
}

func (p *publisher) publish(ctx context.Context) error {
	snap, _, ok := p.cluster.snapshot()
	if !ok {
		return nil
	}
	if state, _ := p.cluster.inSync(); state != datastore.StateInSync {
		return nil // the store is away, which the status tells: its return kicks us
	}
	under, _, err := p.underlay.get(ctx)
	if err != nil {
		return err
	}
	have := p.cluster.ownRecord()
	if have != nil && !reached(have.ResourceVersion, p.written) {
		if time.Since(p.writtenAt) < patience {
			return errNotBack
		}
		p.log.Warn("the store has forgotten what this node wrote: writing it again", "node", string(p.self), "written", p.written, "there", have.ResourceVersion)
		p.written = ""
	}
	want := &v3.Node{}
	if have != nil {
		want = have.DeepCopy()
	} else {
		kind, _ := v3.LookupKind("Node")
		want.SetGroupVersionKind(kind.GroupVersion.WithKind("Node"))
		want.Name = string(p.self)
	}
	p.host.fill(want)
	addrs, lost, err := p.detect(snap, under, want)
	if err != nil {
		return err
	}
	setRecord(want, addrs, topology.PublishedOnLink(under, addrs), tunnel.VTEPMAC(p.self))
	p.setInterfaces(have, want, under, addrs)
	// Before the first run the record stays as an earlier process left it: its kernel still does.
	if say, ok := p.announced.take(); ok {
		want.Status.Tunnels = &v3.NodeTunnels{Receives: endsTo(say.Receives), Sends: endsTo(say.Sends), EncryptedOnly: say.EncryptedOnly}
		for _, p := range say.Routed {
			want.Status.Tunnels.Routed = append(want.Status.Tunnels.Routed, p.String())
		}
	}
	if say, ok := p.relies(); ok {
		want.Status.BGP = reliesTo(say)
	}
	if keys, current, ok := p.encryptor.published(); ok {
		want.Status.WireguardKeys, want.Status.WireguardPublicKey = slices.Clone(keys), current
	}
	// The record comes first: without it this node has no addresses to be reached at, while the
	// tunnel's own address only matters to traffic of the host itself.
	if have, err = p.write(ctx, have, want); err != nil {
		return err
	}
	want = have.DeepCopy()
	tunnelErr := p.withoutAddress(p.tunnelAddresses(ctx, snap, want))
	_, err = p.write(ctx, have, want)
	return errors.Join(lost, tunnelErr, err)
}

// reached tells whether revision have is not older than want. Revisions that are no numbers are
// compared for equality only.
func reached(have, want string) bool {
	h, err1 := strconv.ParseUint(have, 10, 64)
	w, err2 := strconv.ParseUint(want, 10, 64)
	if err1 != nil || err2 != nil {
		return want == "" || have == want
	}
	return h >= w
}

// withoutAddress makes a trouble of an error which says that no pool has an address for the tunnels, for
// want of a pool for this node or this use: pods are reached all the same, only the host itself has
// no address of its own to speak to those of other nodes.
func (p *publisher) withoutAddress(err error) error {
	var troubles []string
	var exhausted *ipam.ExhaustedError
	if errors.As(err, &exhausted) {
		troubles = []string{fmt.Sprintf("this node has no address for its tunnels, so that its own processes speak to pods of other nodes by its node address: %v", err)}
		err = nil
	}
	p.mu.Lock()
	p.troubles = troubles
	p.mu.Unlock()
	return err
}

// problems returns sentences about what does not work, but keeps nothing else from working.
func (p *publisher) problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	troubles := slices.Clone(p.troubles)
	if s := p.interfaces.unsaid(); s != "" {
		troubles = append(troubles, s)
	}
	return troubles
}

// write creates or updates the record when it differs.
func (p *publisher) write(ctx context.Context, have, want *v3.Node) (*v3.Node, error) {
	if have != nil && !p.unsure && sameRecord(have, want) {
		return have, nil
	}
	var o v3.Object
	var err error
	if have == nil {
		o, err = p.store.Create(ctx, want)
	} else {
		o, err = p.store.Update(ctx, want)
	}
	p.unsure = err != nil && !errors.Is(err, datastore.ErrConflict)
	if err != nil {
		return nil, fmt.Errorf("publish Node %s: %w", p.self, err)
	}
	n, ok := o.(*v3.Node)
	if !ok {
		return nil, fmt.Errorf("publish Node %s: the store answered with a %T", p.self, o)
	}
	p.written, p.writtenAt = n.ResourceVersion, time.Now()
	if have == nil || !sameInterfaces(have.Spec.Interfaces, want.Spec.Interfaces) {
		p.interfaces.written()
	}
	p.log.Info("node record published", "node", string(p.self), "revision", n.ResourceVersion)
	return n, nil
}

// detect finds the underlay addresses, IPv4 first. One family is enough. An address that is gone is
// replaced by another, but never just withdrawn, for it may be back in a moment: lost says so.
func (p *publisher) detect(s *model.Snapshot, u model.Underlay, rec *v3.Node) (addrs []netip.Prefix, lost, err error) {
	var errs, kept []error
	results := map[model.Family]found{}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		method := p.cfg.Method4
		if f == model.IPv6 {
			method = p.cfg.Method6
		}
		if method == "none" {
			continue
		}
		current := currentAddress(s, f)
		got, err := detectAddress(detection{family: f, method: method, underlay: u, stores: p.stores,
			peers: peerAddresses(s, f), internal: internalAddresses(rec), current: current})
		if err != nil && current.IsValid() {
			kept = append(kept, fmt.Errorf("%s stays in the Node record, but: %w", current, err))
			addrs = append(addrs, current)
			continue
		}
		if err != nil && method != methodAuto {
			kept = append(kept, fmt.Errorf("find this node's %s underlay address as --ip-autodetection-method says: %w", f, err))
			errs = append(errs, err)
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if before, ok := p.found[f]; ok && before.addr == got.addr && got.why == keptWhy {
			got.why = before.why // how it was found, not that it is still there
		}
		results[f] = got
		addrs = append(addrs, got.addr)
	}
	p.mu.Lock()
	p.found = results
	p.mu.Unlock()
	if len(addrs) == 0 {
		return nil, nil, fmt.Errorf("find this node's underlay address: %w; set --ip-autodetection-method", errors.Join(errs...))
	}
	return addrs, errors.Join(kept...), nil
}

func currentAddress(s *model.Snapshot, f model.Family) netip.Prefix {
	if n := s.Nodes[s.Self]; n != nil {
		p, _ := n.Address(f)
		return p
	}
	return netip.Prefix{}
}

func peerAddresses(s *model.Snapshot, f model.Family) []netip.Addr {
	var out []netip.Addr
	for name, n := range s.Nodes {
		if p, ok := n.Address(f); ok && name != s.Self {
			out = append(out, p.Addr())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func internalAddresses(n *v3.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Spec.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == v3.AddressInternalIP {
			out = append(out, ip)
		}
	}
	return out
}

// setRecord writes into n what this node knows of itself.
func setRecord(n *v3.Node, addrs []netip.Prefix, onLink []model.OnLink, mac model.MAC) {
	if n.Spec.BGP == nil {
		n.Spec.BGP = &v3.NodeBGPSpec{}
	}
	n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address = "", ""
	for _, a := range addrs {
		if model.FamilyOf(a.Addr()) == model.IPv4 {
			n.Spec.BGP.IPv4Address = a.String()
		} else {
			n.Spec.BGP.IPv6Address = a.String()
		}
	}
	if n.Spec.VXLANTunnelMACAddr == "" {
		n.Spec.VXLANTunnelMACAddr = mac.String()
	}
	n.Status.OnLink = nil
	for _, l := range onLink {
		n.Status.OnLink = append(n.Status.OnLink, v3.NodeOnLink{CIDR: l.Prefix.String(), Gateway: l.Gateway})
	}
}

// tunnelAddresses makes the record's tunnel addresses fit the pools: one of each family for which
// there is a tunnel, inside a pool. All tunnels of a family share it, so that connections of this
// host to pods outlive a change of encapsulation.
func (p *publisher) tunnelAddresses(ctx context.Context, s *model.Snapshot, n *v3.Node) error {
	var errs []error
	var shown v3.NodeWireguardSpec
	if n.Spec.Wireguard != nil {
		shown = *n.Spec.Wireguard
	}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		fields := map[model.Encap]*string{model.EncapVXLAN: &n.Spec.IPv4VXLANTunnelAddr, model.EncapIPIP: &n.Spec.BGP.IPv4IPIPTunnelAddr,
			model.EncapWireGuard: &shown.InterfaceIPv4Address}
		if f == model.IPv6 {
			fields = map[model.Encap]*string{model.EncapVXLAN: &n.Spec.IPv6VXLANTunnelAddr, model.EncapWireGuard: &shown.InterfaceIPv6Address}
		}
		current := ""
		for _, e := range []model.Encap{model.EncapVXLAN, model.EncapIPIP, model.EncapWireGuard} {
			if field := fields[e]; field != nil && current == "" {
				current = *field
			}
		}
		addr, err := p.tunnelAddress(ctx, s, n, f, current)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for e, field := range fields {
			*field = ""
			if hasTunnel(s, n, e, f) {
				*field = addr
			}
		}
	}
	n.Spec.Wireguard = nil
	if shown != (v3.NodeWireguardSpec{}) {
		n.Spec.Wireguard = &shown
	}
	return errors.Join(errs...)
}

// tunnelAddress returns the address for the tunnels of a family, "" for none: the current one as
// long as a pool holds it.
func (p *publisher) tunnelAddress(ctx context.Context, s *model.Snapshot, n *v3.Node, f model.Family, current string) (string, error) {
	encrypted := hasTunnel(s, n, model.EncapWireGuard, f)
	wanted := encrypted || hasTunnel(s, n, model.EncapVXLAN, f) || hasTunnel(s, n, model.EncapIPIP, f)
	if a, err := netip.ParseAddr(current); err == nil && wanted && holds(s.Pools, current) {
		ours, err := p.tunnels.keep(ctx, f, a)
		if ours || err != nil {
			return current, err
		}
		p.log.Warn("the address of this node's tunnels belongs to another owner by now: taking another one", "address", current)
	}
	if current != "" {
		if err := p.tunnels.release(ctx, f); err != nil {
			return "", err
		}
	}
	var names []string
	for _, q := range s.Pools {
		if !q.Disabled && (encrypted || q.Encap != model.EncapNone) && model.FamilyOf(q.CIDR.Addr()) == f {
			names = append(names, q.Name)
		}
	}
	if len(names) == 0 || !wanted {
		return "", nil
	}
	a, err := p.tunnels.assign(ctx, f, names)
	if err != nil {
		return "", fmt.Errorf("assign the %s tunnel address: %w", f, err)
	}
	return a.String(), nil
}

// hasTunnel tells whether a tunnel for addresses of a family is asked for, or this node still receives by it.
// A WireGuard device carries both, whatever it travels over.
func hasTunnel(s *model.Snapshot, n *v3.Node, e model.Encap, f model.Family) bool {
	if e == model.EncapWireGuard && s.Encryption.Enabled(f) {
		return true
	}
	if t := n.Status.Tunnels; t != nil && slices.ContainsFunc(endsOf(t.Receives), func(end model.TunnelEnd) bool { return end.Encap == e && end.Family == f }) {
		return true
	}
	return slices.ContainsFunc(s.Pools, func(q model.Pool) bool { return q.Encap == e && model.FamilyOf(q.CIDR.Addr()) == f })
}

func holds(pools []model.Pool, addr string) bool {
	a, err := netip.ParseAddr(addr)
	return err == nil && slices.ContainsFunc(pools, func(p model.Pool) bool { return p.CIDR.Contains(a) })
}

// account returns how the addresses were found and what the last pass ran into.
func (p *publisher) account() (map[model.Family]found, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found, p.err
}
