package policies

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/selector"
	"weft/node/datastore"
)

// node is what policies need of one, to have it as a peer.
type node struct {
	labels    map[string]string
	addresses []netip.Addr // of its own and of its tunnels
}

// nodes are all of them, by name.
type nodes map[string]*node

func nodeOf(n *v3.Node) *node { return &node{n.Labels, v3.AllNodeAddresses(n)} }

func (n *node) equal(o *node) bool {
	return n == o || n != nil && o != nil && maps.Equal(n.labels, o.labels) && slices.Equal(n.addresses, o.addresses)
}

func (n *node) isSelected(s *selector.Selector) bool { return n != nil && s.Matches(n.labels) }

// selected returns the addresses of the nodes that s selects, in the order of the nodes' names.
func (all nodes) selected(s *selector.Selector) (out []model.ServiceEndpoint) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !all[name].isSelected(s) {
			continue
		}
		for _, a := range all[name].addresses {
			out = append(out, model.ServiceEndpoint{Address: a})
		}
	}
	return out
}

// nodeSelectors returns the selectors of nodes among a policy's peers, by their canonical text.
func nodeSelectors(p *model.Policy) map[string]*selector.Selector {
	var out map[string]*selector.Selector
	for i := range p.Egress {
		id := p.Egress[i].Destination.Service
		if id == nil || *id != model.NodesID(id.Name) {
			continue
		}
		if s, err := selector.Parse(id.Name); err == nil { // it is the conversion's
			if out == nil {
				out = map[string]*selector.Selector{}
			}
			out[id.Name] = s
		}
	}
	return out
}

// setNode tells the compiler of what a node gives to peers, or, by nil, no longer gives.
func (f *Feeder) setNode(name string, now *node) error {
	before := f.nodes[name]
	if before.equal(now) {
		return nil
	}
	if now == nil {
		delete(f.nodes, name)
	} else {
		f.nodes[name] = now
	}
	told := map[string]bool{}
	for _, list := range f.peers {
		for text, s := range list {
			if told[text] || !before.isSelected(s) && !now.isSelected(s) {
				continue
			}
			told[text] = true
			if err := f.tellPeers(text, s); err != nil {
				return fmt.Errorf("node %s: %w", name, err)
			}
		}
	}
	return nil
}

// usePeers keeps account of the nodes that a policy has as peers.
func (f *Feeder) usePeers(k datastore.Key, now map[string]*selector.Selector) error {
	before := f.peers[k]
	if len(now) > 0 {
		f.peers[k] = now
	} else {
		delete(f.peers, k)
	}
	for text, s := range now {
		if f.peerUses[text]++; f.peerUses[text] == 1 {
			if err := f.tellPeers(text, s); err != nil {
				return err
			}
		}
	}
	for text := range before {
		if f.peerUses[text]--; f.peerUses[text] == 0 {
			delete(f.peerUses, text)
			f.to.DeleteService(model.NodesID(text))
		}
	}
	return nil
}

func (f *Feeder) tellPeers(text string, s *selector.Selector) error {
	endpoints := f.nodes.selected(s)
	if len(endpoints) == 0 {
		f.to.DeleteService(model.NodesID(text))
		return nil
	}
	return f.to.SetService(model.NodesID(text), endpoints)
}
