package tunnel

import (
	"cmp"
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"weft/model"
	"weft/model/topology"
)

// Compiler is Compile with a memory: after a change of a few peers it compiles only these. It gives
// the same Plan and error as Compile would. Not for concurrent use; a View must not be changed after
// it was compiled.
type Compiler struct {
	view    *topology.View // nil before the first
	devices []*device
	unmade  []error // of tunnels that have no device
	plan    Plan
	err     error
}

// device is what was compiled of one tunnel device.
type device struct {
	tunnel   topology.Tunnel
	self     model.NodeName
	ethernet bool           // frames travel inside: it has neighbours and an FDB
	families []model.Family // of inner packets
	mac      model.MAC      // of this host
	// addrs and macs count who has an address, this host included; of the peers of its family.
	addrs map[netip.Addr]int
	macs  map[model.MAC]int

	neighbours []Neighbour
	fdb        []FDBEntry
	sources    []Source
	errs       []error
}

// Compile is Compile of this package.
func (c *Compiler) Compile(v *topology.View) (Plan, error) {
	if c.view == nil || c.view.Self != v.Self || !reflect.DeepEqual(c.view.Tunnels, v.Tunnels) {
		c.all(v)
	} else if gone, come := diffPeers(c.view.Peers, v.Peers); len(gone)+len(come) > 0 {
		// Where a view is not sorted, these are more than what differs, and no less.
		slices.SortFunc(gone, comparePeers)
		slices.SortFunc(come, comparePeers)
		for _, d := range c.devices {
			d.revise(gone, come, v.Peers)
		}
		c.assemble()
	}
	c.view = v
	return c.plan, c.err
}

// diffPeers returns the peers of have that are not in want, and the other way round; both are sorted.
func diffPeers(have, want []topology.Peer) (gone, come []topology.Peer) {
	if len(have) == len(want) && (len(have) == 0 || &have[0] == &want[0]) {
		return nil, nil
	}
	for len(have) > 0 && len(want) > 0 {
		order := 0
		if !samePeer(&have[0], &want[0]) {
			order = comparePeers(have[0], want[0]) // 0: it changed
			if order <= 0 {
				gone = append(gone, have[0])
			}
			if order >= 0 {
				come = append(come, want[0])
			}
		}
		if order <= 0 {
			have = have[1:]
		}
		if order >= 0 {
			want = want[1:]
		}
	}
	return append(gone, have...), append(come, want...)
}

func samePeer(a, b *topology.Peer) bool {
	if a.Node != b.Node || a.Address != b.Address || a.MAC != b.MAC || len(a.Prefixes) != len(b.Prefixes) {
		return false
	}
	return len(a.Prefixes) == 0 || &a.Prefixes[0] == &b.Prefixes[0] || slices.Equal(a.Prefixes, b.Prefixes)
}

// revise takes the changed peers in. While peers cannot be told apart, all is compiled anew.
func (d *device) revise(gone, come, all []topology.Peer) {
	gone, come = d.ofFamily(gone), d.ofFamily(come)
	clean := len(d.errs) == 0
	for i := range gone {
		uncount(d.addrs, gone[i].Address)
		uncount(d.macs, gone[i].MAC)
	}
	for i := range come {
		d.addrs[come[i].Address]++
		d.macs[come[i].MAC]++
	}
	for i := range come {
		clean = clean && d.usable(&come[i])
	}
	if !clean {
		d.compile(all)
		return
	}
	was := device{tunnel: d.tunnel, ethernet: d.ethernet, families: d.families}
	is := was
	was.add(gone)
	is.add(come)
	d.neighbours = revised(d.neighbours, was.neighbours, is.neighbours, CompareNeighbours)
	d.fdb = revised(d.fdb, was.fdb, is.fdb, CompareFDB)
	d.sources = revised(d.sources, was.sources, is.sources, CompareSources)
}

func uncount[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

// revised returns a copy of old, which holds all of gone, without gone and with come in its place.
// All are sorted, and no two of old with come are the same.
func revised[E any](old, gone, come []E, compare func(a, b E) int) []E {
	if len(gone)+len(come) == 0 {
		return old
	}
	out := make([]E, 0, len(old)+len(come)-len(gone))
	for len(gone)+len(come) > 0 {
		removes := len(come) == 0 || len(gone) > 0 && compare(gone[0], come[0]) <= 0
		next := &come
		if removes {
			next = &gone
		}
		i, _ := slices.BinarySearchFunc(old, (*next)[0], compare)
		out, old = append(out, old[:i]...), old[i:]
		if removes {
			old = old[1:]
		} else {
			out = append(out, come[0])
		}
		*next = (*next)[1:]
	}
	return append(out, old...)
}

// assemble puts the plan together. The parts of a single device are the plan's own.
func (c *Compiler) assemble() {
	errs := slices.Clone(c.unmade)
	p := Plan{Links: c.plan.Links}
	for i, d := range c.devices {
		errs = append(errs, d.errs...)
		if i == 0 {
			p.Neighbours, p.FDB, p.Sources = slices.Clip(d.neighbours), slices.Clip(d.fdb), slices.Clip(d.sources)
			continue
		}
		p.Neighbours, p.FDB, p.Sources = append(p.Neighbours, d.neighbours...), append(p.FDB, d.fdb...), append(p.Sources, d.sources...)
	}
	c.plan, c.err = p, errors.Join(errs...)
}

func comparePeers(a, b topology.Peer) int {
	if c := cmp.Compare(a.Node, b.Node); c != 0 {
		return c
	}
	return a.Address.Compare(b.Address)
}
