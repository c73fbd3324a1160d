package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// state is everything that has to do with addresses, at one revision of the store.
type state struct {
	now        time.Time
	settle     time.Duration // an ADD that is under way has so long
	pools      []*v3.IPPool
	blocks     []blockState                  // by CIDR
	byCIDR     map[netip.Prefix]*block.Block // made by find
	sizes      []int                         // of blocks, the largest first
	affinities []*v3.BlockAffinity
	handles    []*v3.IPAMHandle
	endpoints  []*v3.WorkloadEndpoint
	nodes      map[string]*v3.Node
	reserved   func(netip.Addr) string
	settings   settings
	rejected   []datastore.Rejection
	blind      bool // there are endpoints that cannot be understood: they may have any address
	// waiting are the pods, namespace/name, that are there without an address: they may have what is held for them.
	waiting map[string]bool

	// For a repair, which sets them.
	users map[netip.Addr][]string
	held  map[string][]block.Allocation // by handle
}

type blockState struct {
	block   *block.Block
	repairs []string
}

// StateKinds are the kinds that have to do with addresses.
func StateKinds() []string {
	return []string{v3.KindIPPool, v3.KindIPReservation, v3.KindIPAMConfiguration, v3.KindIPAMBlock,
		v3.KindBlockAffinity, v3.KindIPAMHandle, v3.KindWorkloadEndpoint, v3.KindNode}
}

// readState lists what Show and Check look at.
func readState(ctx context.Context, store datastore.Store) (*state, error) {
	l, err := store.List(ctx, StateKinds()...)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return stateOf(l, time.Now()), nil
}

func stateOf(l *datastore.List, now time.Time) *state {
	s := &state{now: now, settle: settleTime, nodes: map[string]*v3.Node{}, waiting: map[string]bool{}, rejected: slices.Clone(l.Rejected)}
	for _, r := range l.Rejected {
		switch r.Key.Kind {
		case v3.KindNode:
			s.nodes[r.Key.Name] = &v3.Node{} // it is there
		case v3.KindWorkloadEndpoint:
			s.blind = true
		}
	}
	var reservations []*v3.IPReservation
	var config *v3.IPAMConfiguration
	for _, o := range l.Items {
		switch o := o.(type) {
		case *v3.IPPool:
			s.pools = append(s.pools, o)
		case *v3.IPReservation:
			reservations = append(reservations, o)
		case *v3.IPAMConfiguration:
			if o.Name == configName {
				config = o
			}
		case *v3.IPAMBlock:
			b, repairs, err := decodeBlock(o)
			if err != nil {
				s.rejected = append(s.rejected, datastore.Rejection{Key: datastore.KeyOf(o), Err: err})
				continue
			}
			s.blocks = append(s.blocks, blockState{b, repairs})
		case *v3.BlockAffinity:
			s.affinities = append(s.affinities, o)
		case *v3.IPAMHandle:
			s.handles = append(s.handles, o)
		case *v3.WorkloadEndpoint:
			s.endpoints = append(s.endpoints, o)
			if len(o.Spec.IPNetworks) == 0 {
				s.waiting[o.Namespace+"/"+o.Spec.Pod] = true
			}
		case *v3.Node:
			s.nodes[o.Name] = o
		}
	}
	s.reserved, s.settings = reservedBy(reservations), settingsOf(config)
	slices.SortFunc(s.blocks, func(a, b blockState) int { return a.block.CIDR().Compare(b.block.CIDR()) })
	slices.SortFunc(s.pools, func(a, b *v3.IPPool) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

func (s *state) policy() block.Policy {
	return block.Policy{Now: s.now, Cooldown: s.settings.cooldown, Skip: s.reserved}
}

// endpointAddresses returns the endpoints of every address that an endpoint has.
func (s *state) endpointAddresses() map[netip.Addr][]string {
	users := map[netip.Addr][]string{}
	for _, w := range s.endpoints {
		for _, n := range w.Spec.IPNetworks {
			p, err := netip.ParsePrefix(n)
			if err != nil {
				a, err := netip.ParseAddr(n)
				if err != nil {
					continue
				}
				p = netip.PrefixFrom(a, a.BitLen())
			}
			users[p.Addr()] = append(users[p.Addr()], w.Namespace+"/"+w.Name)
		}
	}
	return users
}

// waits tells whether an allocation is for a pod that has no address yet, or says of none.
func (s *state) waits(a block.Allocation) bool {
	return s.waiting[a.Owner.Attributes[AttrNamespace]+"/"+a.Owner.Attributes[AttrPod]]
}

func (s *state) poolOf(a netip.Addr) string {
	for _, p := range s.pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && cidr.Contains(a) {
			return p.Name
		}
	}
	return ""
}

// borrowed tells that a is used by another node than the one that has the block.
func borrowed(b *block.Block, a block.Allocation) bool {
	node := a.Owner.Attributes[AttrNode]
	return node != "" && affinityNode(b.Affinity()) != "" && node != affinityNode(b.Affinity())
}

// find returns the block that holds an address.
func (s *state) find(a netip.Addr) (*block.Block, bool) {
	if s.byCIDR == nil {
		s.byCIDR = make(map[netip.Prefix]*block.Block, len(s.blocks))
		for _, b := range s.blocks {
			s.byCIDR[b.block.CIDR()] = b.block
			if !slices.Contains(s.sizes, b.block.CIDR().Bits()) {
				s.sizes = append(s.sizes, b.block.CIDR().Bits())
			}
		}
		slices.Sort(s.sizes)
	}
	for _, bits := range s.sizes {
		if p, err := a.Prefix(bits); err == nil && s.byCIDR[p] != nil {
			return s.byCIDR[p], true
		}
	}
	return nil, false
}
