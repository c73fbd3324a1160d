package node

import (
	"context"
	"time"

	v3 "weft/api/v3"
)

const (
	// listWait is how long the store may take to say which pools there are; after that, what is known of
	// them is good enough.
	listWait = 500 * time.Millisecond
	// heardWait is how long what the store said may take to come by the watch, heardPause how often to look.
	heardWait  = time.Second
	heardPause = time.Millisecond
)

// hearOfPools waits until the watch has brought all pools as they are now. So whoever applies a pool and then starts a
// pod gets an address of that pool.
func (s *service) hearOfPools(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	list, err := s.store.List(asked, v3.KindIPPool)
	if err != nil {
		return // IPAM itself will say what is wrong with the store
	}
	now := make(map[string]string, len(list.Items))
	for _, o := range list.Items {
		now[o.GetName()] = o.GetResourceVersion()
	}
	for _, r := range list.Rejected {
		now[r.Key.Name] = "" // the last good one stays in force
	}
	for end := time.Now().Add(heardWait); !s.cluster.knowsPools(now) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(heardPause)
	}
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
