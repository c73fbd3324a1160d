package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"weft/encryption/wireguard"
	"weft/model"
	"weft/model/topology"
	"weft/node/status"
	"weft/tunnel"
)

// over tells whether the rollout is.
func (x *encryptor) over() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rollout.Over
}

// wireguardMetrics tells whether the counters of the WireGuard devices are exported.
func (c *cluster) wireguardMetrics() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	export := true
	for _, f := range c.felixChain() {
		override(&export, f.Spec.PrometheusWireGuardMetricsEnabled)
	}
	return export
}

// encryption is the node's account of encryption; p are the plans of the last run.
func (s *service) encryption(ctx context.Context, p *plans) *status.Encryption {
	e := encryptionOf(p)
	e.Driver, e.OnForGood = s.ways[tunnel.WireGuard], e.OnForGood && s.encryptor.over()
	if len(p.view.Guard.Pools) == 0 {
		return e
	}
	refused, err := s.guard.Dropped(ctx)
	e.RefusedOut, e.RefusedIn = refused.Out, refused.In
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// encryptionOf is what the plans say of encryption; OnForGood is whether it may be.
func encryptionOf(p *plans) *status.Encryption {
	cfg := p.snapshot.Encryption
	e := &status.Encryption{On: cfg.Any(), Families: []string{}, KeyEpoch: cfg.Epoch, Nodes: max(len(p.snapshot.Nodes)-1, 0),
		Ready: len(p.view.Encrypted)}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if cfg.Enabled(f) {
			e.Families = append(e.Families, f.String())
		}
	}
	if e.On {
		e.Mode = "Required"
		if cfg.Preferred {
			e.Mode = "Preferred"
		}
		e.OnForGood = !cfg.Preferred
	}
	for i := range p.encryption.Devices {
		if d := &p.encryption.Devices[i]; d.Epoch != cfg.Epoch && !slices.Contains(e.OtherEpochs, d.Epoch) {
			e.OtherEpochs = append(e.OtherEpochs, d.Epoch)
		}
	}
	slices.Sort(e.OtherEpochs)
	e.Encrypted, e.Clear, e.Unreachable = sortedOut(encryptedReach(p))
	e.Hosts = hostEncryptionOf(p)
	return e
}

// mix is whether some of the paths to a node go in clear, or lead nowhere.
type mix struct{ clear, unreachable bool }

// encryptedReach says of every node with a path of an encrypted family whether some of these go in clear, or lead
// nowhere.
func encryptedReach(p *plans) map[model.NodeName]mix {
	how := map[model.NodeName]mix{}
	for i := range p.view.Paths {
		path := &p.view.Paths[i]
		if !aboutEncryption(p, path) {
			continue
		}
		h := how[path.Node]
		switch path.Reach {
		case topology.WireGuard:
		case topology.Unreachable:
			h.unreachable = true
		default:
			h.clear = true
		}
		how[path.Node] = h
	}
	return how
}

// aboutEncryption tells whether a path leads to another node and is to be encrypted, or is.
func aboutEncryption(p *plans, path *topology.Path) bool {
	if path.Node == p.snapshot.Self || path.Foreign {
		return false
	}
	return path.Reach == topology.WireGuard || p.snapshot.Encryption.Enabled(model.FamilyOf(path.Dst.Addr()))
}

// servePeers answers GET /peers.
func (s *service) servePeers(w http.ResponseWriter, r *http.Request) {
	p := s.engine.current()
	if p == nil {
		s.unplanned(w)
		return
	}
	doc := status.Peers{Encryption: *s.encryption(r.Context(), p)}
	var have []wireguard.PeerStatus
	if s.wireguard != nil && len(p.encryption.Devices) > 0 {
		var err error
		if have, err = s.wireguard.Peers(r.Context()); err != nil {
			doc.Error = err.Error()
		}
	}
	doc.Peers = peersOf(p, have, doc.Error == "")
	for i := range doc.Peers {
		if doc.Peers[i].Device != "" {
			doc.Peers[i].Driver = doc.Encryption.Driver
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc)
}

// peerID is a node at a device; at none where device is empty.
type peerID struct {
	node   model.NodeName
	device string
}

// peerRows puts the account of the peers together.
type peerRows struct {
	plans *plans
	rows  map[peerID]*status.EncryptionPeer
	// devices are those that have a node as their peer, or should.
	devices map[model.NodeName][]string
	missing string // what to say of a peer that no device told of
}

// peersOf lists every other node with the devices that have it, and the sentences of the paths to it. have is what
// the devices tell, all of them if complete. No node is left out.
func peersOf(p *plans, have []wireguard.PeerStatus, complete bool) []status.EncryptionPeer {
	b := &peerRows{plans: p, rows: map[peerID]*status.EncryptionPeer{}, devices: map[model.NodeName][]string{}, missing: notThere}
	if !complete {
		b.missing = notRead
	}
	out := b.addPeers(have)
	b.addPaths()
	b.addHosts()
	b.addSilent()
	for id, row := range b.rows {
		row.Node, row.Device = string(id.node), id.device
		if id.device != "" {
			row.KeyEpoch = endOf(p.view, id.device).Epoch
		}
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b status.EncryptionPeer) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Device, b.Device), cmp.Compare(a.PublicKey, b.PublicKey))
	})
	return out
}

func (b *peerRows) row(node model.NodeName, device string) *status.EncryptionPeer {
	id := peerID{node, device}
	if b.rows[id] == nil {
		b.rows[id] = &status.EncryptionPeer{AllowedIPs: []string{}, Reach: []string{}, Why: []string{}}
		if device != "" {
			b.devices[node] = append(b.devices[node], device)
		}
	}
	return b.rows[id]
}

// addPeers adds the peers of the plan and what the devices tell of them, and returns those that are nobody's.
func (b *peerRows) addPeers(have []wireguard.PeerStatus) (foreign []status.EncryptionPeer) {
	told := map[peerID]bool{}
	for i := range have {
		q := &have[i]
		row := &status.EncryptionPeer{Device: q.Device, KeyEpoch: endOf(b.plans.view, q.Device).Epoch, Reach: []string{}, Why: []string{notOurs}}
		if q.Node != "" {
			row, told[peerID{q.Node, q.Device}] = b.row(q.Node, q.Device), true
		}
		row.PublicKey, row.Rx, row.Tx, row.AllowedIPs = q.Key.String(), q.Rx, q.Tx, texts(q.AllowedIPs)
		if q.Endpoint.IsValid() {
			row.Endpoint = q.Endpoint.String()
		}
		if at := q.LastHandshake; !at.IsZero() {
			row.LastHandshake = &at
		}
		if q.Node == "" {
			foreign = append(foreign, *row)
		}
	}
	for i := range b.plans.encryption.Peers {
		q := &b.plans.encryption.Peers[i]
		if told[peerID{q.Node, q.Device}] {
			continue
		}
		row := b.row(q.Node, q.Device)
		row.PublicKey, row.Endpoint, row.AllowedIPs = q.Key.String(), q.Endpoint.String(), texts(q.AllowedIPs)
		row.Why = append(row.Why, b.missing)
	}
	return foreign
}

// Sentences about peers that are not as they should be.
const (
	notOurs  = "another program added this peer: no node has this key"
	notRead  = "what the device knows of this peer could not be read"
	notThere = "the device does not have this peer, so nothing arrives there: see the errors in `weft status`"
)

// addPaths adds the sentences of the paths: to the row of the device that a path goes by; what goes by none
// belongs to the device of the current key that should have had it, and else to a row without a device.
func (b *peerRows) addPaths() {
	var rest []*topology.Path
	for i := range b.plans.view.Paths {
		path := &b.plans.view.Paths[i]
		switch {
		case !aboutEncryption(b.plans, path):
		case path.Reach != topology.WireGuard:
			rest = append(rest, path)
		default:
			row := b.row(path.Node, path.Device)
			if row.PublicKey == "" && len(row.Why) == 0 {
				row.Why = append(row.Why, b.missing)
			}
			addPath(row, path)
		}
	}
	at := map[model.NodeName]*status.EncryptionPeer{}
	for _, path := range rest {
		if at[path.Node] == nil {
			at[path.Node] = b.row(path.Node, b.idle(path.Node))
		}
		addPath(at[path.Node], path)
	}
}

func addPath(row *status.EncryptionPeer, path *topology.Path) {
	if r := path.Reach.String(); !slices.Contains(row.Reach, r) {
		row.Reach = append(row.Reach, r)
	}
	if !slices.Contains(row.Why, path.Why) {
		row.Why = append(row.Why, path.Why)
	}
}

// idle returns a device of the current key that has the node as its peer and that no path to it goes by; "" when
// there is none.
func (b *peerRows) idle(node model.NodeName) string {
	for _, d := range slices.Sorted(slices.Values(b.devices[node])) {
		if len(b.rows[peerID{node, d}].Reach) == 0 && endOf(b.plans.view, d).Epoch == b.plans.snapshot.Encryption.Epoch {
			return d
		}
	}
	return ""
}

// addSilent says why nothing goes by a row, and adds the nodes that have none.
func (b *peerRows) addSilent() {
	p, seen := b.plans, map[model.NodeName]bool{}
	for id, row := range b.rows {
		if len(row.Reach) > 0 {
			seen[id.node] = true
		}
	}
	for name, n := range p.snapshot.Nodes {
		if name == p.snapshot.Self || seen[name] || !p.snapshot.Encryption.Any() {
			continue
		}
		why := fmt.Sprintf("node %s has no prefixes yet that are to be encrypted", name)
		if _, ok := n.Key(p.snapshot.Encryption.Epoch); !ok {
			why += ", and has published no public key"
		}
		if len(b.devices[name]) == 0 {
			b.row(name, "")
		}
		for _, device := range append(b.devices[name], "") {
			if row := b.rows[peerID{name, device}]; row != nil {
				row.Why = append(row.Why, why)
			}
		}
	}
	for id, row := range b.rows {
		if len(row.Why) == 0 {
			row.Why = append(row.Why, fmt.Sprintf("what is sent to node %s does not go by this device", id.node))
		}
	}
}

func texts(prefixes []netip.Prefix) []string {
	out := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}
