package policy

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Cover keeps the widest of a set of prefixes that may contain each other: disjoint intervals that
// hold the same addresses. Its zero value is empty; it takes both families.
type Cover struct {
	all bart.Lite
}

// Insert adds a prefix, and returns how the widest ones change by that. A prefix that is there
// changes nothing.
func (c *Cover) Insert(p netip.Prefix) (added, removed []netip.Prefix) {
	p = p.Masked()
	if !p.IsValid() || c.all.LookupPrefix(p) {
		c.all.Insert(p)
		return nil, nil
	}
	removed = c.widestIn(p)
	c.all.Insert(p)
	return []netip.Prefix{p}, removed
}

// Delete removes a prefix, and returns how the widest ones change by that. A prefix that is not
// there changes nothing.
func (c *Cover) Delete(p netip.Prefix) (added, removed []netip.Prefix) {
	p = p.Masked()
	if !p.IsValid() || !c.all.Get(p) {
		return nil, nil
	}
	c.all.Delete(p)
	if c.all.LookupPrefix(p) {
		return nil, nil
	}
	return c.widestIn(p), []netip.Prefix{p}
}

// widestIn returns the widest prefixes within p.
func (c *Cover) widestIn(p netip.Prefix) (widest []netip.Prefix) {
	for n := range c.all.Subnets(p) { // in order: what contains comes before what is contained
		if len(widest) == 0 || !widest[len(widest)-1].Overlaps(n) {
			widest = append(widest, n)
		}
	}
	return widest
}
