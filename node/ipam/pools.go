package ipam

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/selector"
)

// pool is a pool that a request may use.
type pool struct {
	name      string
	cidr      netip.Prefix
	blockSize int // prefix length of its blocks
}

// settings is IPAMConfiguration with its defaults.
type settings struct {
	strictAffinity bool
	autoAllocate   bool
	maxBlocks      int // of one node and family
	cooldown       time.Duration
}

func settingsOf(c *v3.IPAMConfiguration) settings {
	s := settings{autoAllocate: true, maxBlocks: v3.DefaultMaxBlocksPerHost}
	if c == nil {
		return s
	}
	s.strictAffinity = c.Spec.StrictAffinity
	if c.Spec.AutoAllocateBlocks != nil {
		s.autoAllocate = *c.Spec.AutoAllocateBlocks
	}
	if c.Spec.MaxBlocksPerHost > 0 {
		s.maxBlocks = c.Spec.MaxBlocksPerHost
	}
	s.cooldown = time.Duration(c.Spec.IPCooldownSeconds) * time.Second
	return s
}

// reservedBy returns a function that names the reservation of an address, or "".
func reservedBy(reservations []*v3.IPReservation) func(netip.Addr) string {
	type entry struct {
		cidr netip.Prefix
		name string
	}
	var all []entry
	for _, r := range reservations {
		for _, s := range r.Spec.ReservedCIDRs {
			cidr, err := netip.ParsePrefix(s)
			if a, addrErr := netip.ParseAddr(s); addrErr == nil {
				cidr, err = model.HostPrefix(a), nil
			}
			if err == nil { // the store validates what it takes
				all = append(all, entry{cidr, r.Name})
			}
		}
	}
	return func(a netip.Addr) string {
		for _, e := range all {
			if e.cidr.Contains(a) {
				return "reserved by IPReservation " + e.name
			}
		}
		return ""
	}
}

// usablePools returns the pools of family f that a request may take addresses from, in the order in
// which they are tried, and of the others why not.
func usablePools(c *Cluster, r *Request, f model.Family) (usable []pool, refused []PoolReason) {
	candidates, unknown := candidatePools(c, r.Pools[f], f)
	refused = unknown
	for _, o := range candidates {
		p, why := poolFor(o, c, r, len(r.Pools[f]) > 0)
		if why != "" {
			refused = append(refused, PoolReason{o.Name, o.Spec.CIDR, why})
			continue
		}
		usable = append(usable, p)
	}
	return usable, refused
}

// candidatePools returns the pools of family f that are asked for, in that order, or else all by
// name; names that no pool has come back as reasons.
func candidatePools(c *Cluster, asked []string, f model.Family) ([]*v3.IPPool, []PoolReason) {
	var of []*v3.IPPool
	for _, p := range c.Pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && model.FamilyOf(cidr.Addr()) == f {
			of = append(of, p)
		}
	}
	slices.SortFunc(of, func(a, b *v3.IPPool) int { return cmp.Compare(a.Name, b.Name) })
	if len(asked) == 0 {
		return of, nil
	}
	var chosen []*v3.IPPool
	var unknown []PoolReason
	for _, name := range asked {
		i := slices.IndexFunc(of, func(p *v3.IPPool) bool { return p.Name == name || sameCIDR(p.Spec.CIDR, name) })
		switch {
		case i < 0:
			unknown = append(unknown, PoolReason{Pool: name, Reason: fmt.Sprintf("asked for, but no %v pool has this name or CIDR", f)})
		case !slices.Contains(chosen, of[i]):
			chosen = append(chosen, of[i])
		}
	}
	return chosen, unknown
}

func sameCIDR(a, b string) bool {
	p, err := netip.ParsePrefix(a)
	q, err2 := netip.ParsePrefix(b)
	return err == nil && err2 == nil && p.Masked() == q.Masked()
}

// poolFor tells whether a request may use a pool, and if not, why.
func poolFor(o *v3.IPPool, c *Cluster, r *Request, asked bool) (pool, string) {
	p := pool{name: o.Name, blockSize: o.Spec.BlockSize}
	var err error
	if p.cidr, err = netip.ParsePrefix(o.Spec.CIDR); err != nil {
		return p, fmt.Sprintf("cidr %q: %v", o.Spec.CIDR, err)
	}
	if p.blockSize == 0 {
		p.blockSize = v3.DefaultBlockSizeIPv4
		if p.cidr.Addr().Is6() {
			p.blockSize = v3.DefaultBlockSizeIPv6
		}
	}
	bits := p.cidr.Addr().BitLen()
	if p.cidr != p.cidr.Masked() || p.blockSize < p.cidr.Bits() || p.blockSize > bits || bits-p.blockSize > 12 {
		return p, fmt.Sprintf("blockSize %d does not fit in the pool", p.blockSize)
	}
	return p, refusal(o, c, r, asked)
}

// refusal says why a request may not use a pool, or "".
func refusal(o *v3.IPPool, c *Cluster, r *Request, asked bool) string {
	if o.Spec.Disabled {
		return "the pool is disabled"
	}
	if o.DeletionTimestamp != nil {
		return "the pool is being deleted"
	}
	for _, cond := range o.Status.Conditions {
		if cond.Type == v3.PoolConditionAllocatable && cond.Status == metav1.ConditionFalse && cond.Reason == v3.PoolReasonCIDROverlap {
			return "the pool overlaps another one: " + cond.Message
		}
	}
	uses := o.Spec.AllowedUses
	if len(uses) == 0 {
		uses = []v3.AllowedUse{v3.UseWorkload, v3.UseTunnel}
	}
	if !slices.Contains(uses, v3.AllowedUse(r.use())) {
		return fmt.Sprintf("allowedUses is %v, not %s", uses, r.use())
	}
	if o.Spec.AssignmentMode == v3.AssignManual && !asked {
		return "assignmentMode is Manual and the pool was not asked for by name"
	}
	if why := mismatch("nodeSelector", o.Spec.NodeSelector, c.NodeLabels, "this node"); why != "" {
		return why
	}
	if o.Spec.NamespaceSelector == "" {
		return ""
	}
	return mismatch("namespaceSelector", o.Spec.NamespaceSelector, r.NamespaceLabels, fmt.Sprintf("namespace %q", r.Namespace))
}

// mismatch says why a selector does not select, or "".
func mismatch(field, text string, labels map[string]string, what string) string {
	s, err := selector.Parse(text)
	if err != nil {
		return fmt.Sprintf("%s: %v", field, err)
	}
	if s.Matches(labels) {
		return ""
	}
	return fmt.Sprintf("%s %s does not select %s", field, s, what)
}

// poolOf returns the pool that an address lies in, or why it may not be used. A fixed address
// counts as asking for its pool, unless pools were named and this is none of them.
func poolOf(c *Cluster, r *Request, a netip.Addr) (pool, *PoolReason) {
	asked := r.Pools[model.FamilyOf(a)]
	for _, o := range c.Pools {
		cidr, err := netip.ParsePrefix(o.Spec.CIDR)
		if err != nil || !cidr.Contains(a) {
			continue
		}
		if len(asked) > 0 && !slices.ContainsFunc(asked, func(s string) bool { return s == o.Name || sameCIDR(s, o.Spec.CIDR) }) {
			return pool{}, &PoolReason{o.Name, o.Spec.CIDR, fmt.Sprintf("holds %v, but only the pools %v were asked for", a, asked)}
		}
		p, why := poolFor(o, c, r, true)
		if why != "" {
			return pool{}, &PoolReason{o.Name, o.Spec.CIDR, why}
		}
		return p, nil
	}
	return pool{}, &PoolReason{Pool: a.String(), Reason: "no pool holds this address"}
}

// blockOf returns the CIDR of the pool's block that holds a.
func (p *pool) blockOf(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, p.blockSize).Masked() }

// has tells whether a block is one of the pool's. One of another size in its range is of an earlier pool.
func (p *pool) has(block netip.Prefix) bool {
	return block.Bits() == p.blockSize && p.cidr.Contains(block.Addr())
}

// ownerless tells that a block is none of any pool's: the pool went, or was made anew with blocks of another
// size. A disabled pool still has its blocks.
func ownerless(pools []*v3.IPPool, block netip.Prefix) bool {
	return !slices.ContainsFunc(pools, func(o *v3.IPPool) bool {
		p, _ := poolFor(o, &Cluster{}, &Request{}, true)
		return p.has(block)
	})
}

// staying are the pools that nobody has deleted: one that waits for its last address gives out no more, and its blocks may
// go before it does.
func staying(pools []*v3.IPPool) []*v3.IPPool {
	return slices.DeleteFunc(slices.Clone(pools), func(o *v3.IPPool) bool { return o.DeletionTimestamp != nil })
}

// blocksFor yields the CIDRs of all blocks of the pool, each once, in an order that differs from
// node to node and is always the same for one: nodes that claim at the same time seldom meet. Of
// a pool of more than 2^32 blocks it yields the first 2^32.
func (p *pool) blocksFor(node string) func(yield func(netip.Prefix) bool) {
	h := fnv.New64a()
	h.Write([]byte(node + " " + p.cidr.String()))
	seed := h.Sum64()
	bits := min(p.blockSize-p.cidr.Bits(), 32)
	count := uint64(1) << bits
	// An odd stride visits every number modulo a power of two.
	start, stride := seed%count, (seed>>32)|1
	return func(yield func(netip.Prefix) bool) {
		for i := range count {
			if !yield(p.block((start + i*stride) % count)) {
				return
			}
		}
	}
}

// block returns the pool's n-th block.
func (p *pool) block(n uint64) netip.Prefix {
	s := p.cidr.Addr().AsSlice()
	shift := len(s)*8 - p.blockSize // n counts units of 1<<shift
	for i := len(s) - 1; i >= 0; i-- {
		low := (len(s) - 1 - i) * 8 // weight of this byte's lowest bit
		switch {
		case low >= shift && low-shift < 64:
			s[i] |= byte(n >> (low - shift))
		case low < shift && shift-low < 8:
			s[i] |= byte(n << (shift - low))
		}
	}
	a, _ := netip.AddrFromSlice(s)
	return netip.PrefixFrom(a, p.blockSize)
}

// blockCount returns how many blocks the pool has, at most 2^32.
func (p *pool) blockCount() uint64 { return 1 << min(p.blockSize-p.cidr.Bits(), 32) }
