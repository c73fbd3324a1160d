package node

import (
	"context"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam"
)

const (
	// listWait is how long the store may take to say which pools there are; after that, what is known of
	// them is good enough.
	listWait = 500 * time.Millisecond
	// heardWait is how long what the store said may take to come by the watch, heardPause how often to look.
	heardWait  = 500 * time.Millisecond
	heardPause = time.Millisecond
)

// hearOfPools returns when the watch is good enough for an ADD to choose a pool by.
//
// In Kubernetes that is at once while the watch is in sync: a consistent list costs as much as all else that an ADD asks,
// and buys little. What the watch has is some milliseconds old, so that the ADD does what it would have done had it come
// that much earlier. It may take an address of a pool that was disabled or deleted just now: addresses and blocks are
// taken by compare-and-swap all the same, so nobody else has them; a list could be overtaken in the same way; and the
// block goes back like any block whose pool went while it was in use. It may leave out a family that got its first pool
// just now, as a pod that came before the pool. What it must not do is to refuse a pod for want of a pool that is there:
// then IPAM asks freshPools.
//
// With etcd, where the list is the cheapest of requests, whoever applies pools and then attaches a pod at once has it by
// just those pools.
func (s *service) hearOfPools(ctx context.Context) {
	if state, _ := s.cluster.inSync(); s.host == nil || state != datastore.StateInSync {
		s.awaitPools(ctx)
	}
}

// awaitPools lists the pools and waits until the watch has brought them as they are now. It returns the list if the watch
// did not in time, and nil where the store never answered: IPAM itself will say what is wrong with it.
func (s *service) awaitPools(ctx context.Context) (ahead *datastore.List) {
	for range 2 { // what is in the list may have gone again: then the watch never brings it
		asked, cancel := context.WithTimeout(ctx, listWait)
		list, err := s.store.List(asked, v3.KindIPPool)
		cancel()
		if err != nil {
			return ahead
		}
		now := make(map[string]string, len(list.Items))
		for _, o := range list.Items {
			now[o.GetName()] = o.GetResourceVersion()
		}
		for _, r := range list.Rejected {
			now[r.Key.Name] = "" // the last good one stays in force
		}
		for end := time.Now().Add(heardWait); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(heardPause) {
			if s.cluster.knowsPools(now) {
				return nil
			}
		}
		ahead = list
	}
	return ahead
}

// freshPools is ipamView with the pools that the store has now, whether the watch has brought them or not.
func (s *service) freshPools(ctx context.Context) (*ipam.Cluster, error) {
	list := s.awaitPools(ctx)
	v, err := s.cluster.ipamView(ctx)
	if err != nil || list == nil {
		return v, err
	}
	known := make(map[string]*v3.IPPool, len(v.Pools))
	for _, p := range v.Pools {
		known[p.Name] = p
	}
	v.Pools = nil
	for _, o := range list.Items {
		if p, ok := o.(*v3.IPPool); ok {
			v.Pools = append(v.Pools, p)
		}
	}
	for _, r := range list.Rejected {
		if p := known[r.Key.Name]; p != nil {
			v.Pools = append(v.Pools, p)
		}
	}
	return v, nil
}

// knowsPools tells whether the watch has brought these pools, by name in their versions or later ones, and
// no others.
func (c *cluster) knowsPools(now map[string]string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, version := range now {
		if p := c.pools[name]; version != "" && (p == nil || !reached(p.ResourceVersion, version)) {
			return false
		}
	}
	for name := range c.pools {
		if _, there := now[name]; !there {
			return false
		}
	}
	return true
}
