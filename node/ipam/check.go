package ipam

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// settleTime is how long an allocation may be without its endpoint: an ADD is under way.
const settleTime = time.Minute

// Kinds of what Check finds.
const (
	ProblemDuplicate     = "duplicate-address"
	ProblemLeak          = "allocation-without-endpoint"
	ProblemUnallocated   = "endpoint-without-allocation"
	ProblemNoHandle      = "allocation-without-handle"
	ProblemEmptyHandle   = "handle-without-allocation"
	ProblemNoBlock       = "affinity-without-block"
	ProblemNoAffinity    = "block-without-affinity"
	ProblemAffinity      = "affinity-of-another-node's-block"
	ProblemInconsistent  = "inconsistent-block"
	ProblemNotUnderstood = "not-understood"
	ProblemOverlap       = "overlapping-blocks"
	ProblemUnknownNode   = "tunnel-address-of-unknown-node"
	ProblemNoPool        = "block-outside-every-pool"
	ProblemBlockSize     = "block-of-another-size"
)

// Problem is one thing that does not fit together.
type Problem struct {
	Kind   string `json:"kind"`
	Detail string `json:"detail"` // a sentence
	// What a repair needs to know, where there is one.
	Addr     netip.Addr `json:"address,omitzero"`
	Handle   string     `json:"handle,omitempty"`
	Sequence uint64     `json:"sequence,omitempty"`
	Resource string     `json:"resource,omitempty"` // name of the affinity, CIDR of the block
	Version  string     `json:"version,omitempty"`  // its resource version when it was looked at
}

// CheckReport is what Check looked at and what it found.
type CheckReport struct {
	Pools       int `json:"pools"`
	Blocks      int `json:"blocks"`
	Affinities  int `json:"affinities"`
	Handles     int `json:"handles"`
	Allocations int `json:"allocations"`
	Endpoints   int `json:"endpoints"`
	// Settling allocations have no endpoint yet: they are younger than a minute, or their pod is known to be there.
	Settling int       `json:"settling"`
	Problems []Problem `json:"problems"`
}

// Check compares blocks, affinities, handles and endpoints with each other, as they are at one
// moment.
func Check(ctx context.Context, store datastore.Store) (*CheckReport, error) {
	s, err := readState(ctx, store)
	if err != nil {
		return nil, err
	}
	return s.check(), nil
}

// CheckList is Check of a List of StateKinds, which may hold other kinds as well. settle is how long an allocation may be
// without its endpoint; a minute when 0.
func CheckList(l *datastore.List, now time.Time, settle time.Duration) *CheckReport {
	s := stateOf(l, now)
	if settle > 0 {
		s.settle = settle
	}
	return s.check()
}

func (s *state) check() *CheckReport {
	r := &CheckReport{
		Pools: len(s.pools), Blocks: len(s.blocks), Affinities: len(s.affinities),
		Handles: len(s.handles), Endpoints: len(s.endpoints), Problems: []Problem{},
	}
	for _, x := range s.rejected {
		r.add(Problem{Kind: ProblemNotUnderstood, Detail: fmt.Sprintf("%v: %v", x.Key, x.Err)})
	}
	held := s.checkBlocks(r)
	s.checkHandles(r, held)
	s.checkAffinities(r)
	s.checkEndpoints(r)
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Addr.Compare(b.Addr), cmp.Compare(a.Detail, b.Detail))
	})
	return r
}

func (r *CheckReport) add(p Problem) { r.Problems = append(r.Problems, p) }

type handleBlock struct{ handle, cidr string }

// checkBlocks looks at the blocks themselves and counts what each handle holds in each.
func (s *state) checkBlocks(r *CheckReport) map[handleBlock]int {
	held := map[handleBlock]int{}
	for i, b := range s.blocks {
		cidr := b.block.CIDR()
		for _, repair := range b.repairs {
			r.add(Problem{Kind: ProblemInconsistent, Detail: fmt.Sprintf("block %v: %s", cidr, repair)})
		}
		// Sorted by CIDR, so a block within another one comes right after it.
		if i > 0 && s.blocks[i-1].block.CIDR().Overlaps(cidr) {
			r.add(Problem{Kind: ProblemOverlap, Detail: fmt.Sprintf("blocks %v and %v overlap", s.blocks[i-1].block.CIDR(), cidr)})
		}
		s.checkPool(r, b.block)
		for _, a := range b.block.Allocations() {
			r.Allocations++
			held[handleBlock{a.Owner.Handle, cidr.String()}]++
		}
	}
	return held
}

// checkPool tells of a block that is of no pool. While a pool cannot be understood there is no telling.
func (s *state) checkPool(r *CheckReport, b *block.Block) {
	unread := slices.ContainsFunc(s.rejected, func(x datastore.Rejection) bool { return x.Key.Kind == v3.KindIPPool })
	if unread || !ownerless(s.pools, b.CIDR()) {
		return
	}
	p := Problem{Kind: ProblemNoPool, Resource: b.CIDR().String()}
	if pool := s.poolOf(b.CIDR().Addr()); pool != "" {
		p.Kind = ProblemBlockSize
		p.Detail = fmt.Sprintf("block %v is not of the size that IPPool %s has", b.CIDR(), pool)
	} else {
		p.Detail = fmt.Sprintf("block %v lies in no IPPool", b.CIDR())
	}
	if n := len(b.Allocations()); n > 0 {
		p.Detail += fmt.Sprintf("; %d of its addresses are in use, and it goes when they are given back", n)
	} else {
		p.Detail += "; it is empty"
	}
	r.add(p)
}

func (s *state) checkHandles(r *CheckReport, held map[handleBlock]int) {
	known := map[string]map[string]int{}
	for _, h := range s.handles {
		known[h.Spec.HandleID] = h.Spec.Block
		n := 0
		for cidr := range h.Spec.Block {
			n += held[handleBlock{h.Spec.HandleID, cidr}]
		}
		if n == 0 && s.now.Sub(h.CreationTimestamp.Time) >= s.settle {
			r.add(Problem{Kind: ProblemEmptyHandle, Handle: h.Spec.HandleID,
				Detail: fmt.Sprintf("handle %s holds no address", h.Spec.HandleID)})
		}
	}
	for _, b := range s.blocks {
		for _, a := range b.block.Allocations() {
			if _, named := known[a.Owner.Handle][b.block.CIDR().String()]; !named {
				r.add(Problem{Kind: ProblemNoHandle, Addr: a.Addr, Handle: a.Owner.Handle, Sequence: a.Sequence,
					Detail: fmt.Sprintf("%v is held by handle %q, whose record does not name block %v", a.Addr, a.Owner.Handle, b.block.CIDR())})
			}
		}
	}
}

func (s *state) checkAffinities(r *CheckReport) {
	blocks := map[string]*block.Block{}
	for _, b := range s.blocks {
		blocks[b.block.CIDR().String()] = b.block
	}
	claimed := map[string]bool{}
	for _, f := range s.affinities {
		if f.Spec.Type == v3.AffinityTypeVirtual {
			claimed[f.Spec.Type+":"+f.Spec.Node+" "+f.Spec.CIDR] = true
			continue
		}
		claimed[hostAffinity(f.Spec.Node)+" "+f.Spec.CIDR] = true
		b := blocks[f.Spec.CIDR]
		problem := Problem{Resource: f.Name, Version: f.ResourceVersion}
		switch {
		case b == nil && s.now.Sub(f.CreationTimestamp.Time) >= s.settle:
			problem.Kind = ProblemNoBlock
			problem.Detail = fmt.Sprintf("node %s claims block %s (%s), which does not exist", f.Spec.Node, f.Spec.CIDR, f.Spec.State)
			r.add(problem)
		case b != nil && b.Affinity() != hostAffinity(f.Spec.Node):
			problem.Kind = ProblemAffinity
			problem.Detail = fmt.Sprintf("node %s claims block %s (%s), which has affinity %q", f.Spec.Node, f.Spec.CIDR, f.Spec.State, b.Affinity())
			r.add(problem)
		}
	}
	for _, b := range s.blocks {
		aff := b.block.Affinity()
		if aff != "" && !claimed[aff+" "+b.block.CIDR().String()] {
			r.add(Problem{Kind: ProblemNoAffinity, Detail: fmt.Sprintf("block %v has affinity %q, but there is no BlockAffinity of it", b.block.CIDR(), aff)})
		}
	}
}

func (s *state) checkEndpoints(r *CheckReport) {
	users := s.endpointAddresses()
	for a, names := range users {
		if len(names) > 1 {
			slices.Sort(names)
			r.add(Problem{Kind: ProblemDuplicate, Addr: a, Detail: fmt.Sprintf("%v is used by %d endpoints: %s", a, len(names), strings.Join(names, ", "))})
		}
		b, found := s.find(a)
		if found {
			_, found = b.Find(a)
		}
		if !found && s.poolOf(a) != "" {
			r.add(Problem{Kind: ProblemUnallocated, Addr: a, Detail: fmt.Sprintf("%v is used by %s, but no block says that it is in use", a, names[0])})
		}
	}
	for _, b := range s.blocks {
		if aff := b.block.Affinity(); aff != "" && affinityNode(aff) == "" {
			continue // of services, say: what is set apart for another purpose is not for endpoints
		}
		for _, a := range b.block.Allocations() {
			if len(users[a.Addr]) == 0 {
				s.checkUnused(r, a)
			}
		}
	}
}

// checkUnused looks at an allocation that no endpoint has.
func (s *state) checkUnused(r *CheckReport, a block.Allocation) {
	attrs := a.Owner.Attributes
	p := Problem{Addr: a.Addr, Handle: a.Owner.Handle, Sequence: a.Sequence}
	if attrs[AttrType] != "" { // a tunnel's: its node is the user
		if s.nodes[attrs[AttrNode]] == nil {
			p.Kind = ProblemUnknownNode
			p.Detail = fmt.Sprintf("%v is the %s of node %q, which does not exist", a.Addr, attrs[AttrType], attrs[AttrNode])
			r.add(p)
		}
		return
	}
	if at, err := time.Parse(time.RFC3339, attrs[AttrTime]); s.waits(a) || err == nil && s.now.Sub(at) < s.settle {
		r.Settling++
		return
	}
	p.Kind = ProblemLeak
	p.Detail = fmt.Sprintf("%v is held for pod %q on node %q since %s, but no endpoint has it", a.Addr, attrs[AttrNamespace]+"/"+attrs[AttrPod], attrs[AttrNode], attrs[AttrTime])
	r.add(p)
}

// Write prints the report.
func (r *CheckReport) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Checked %d pools, %d blocks, %d affinities, %d handles, %d allocations, %d endpoints.\n",
		r.Pools, r.Blocks, r.Affinities, r.Handles, r.Allocations, r.Endpoints)
	if r.Settling > 0 {
		fmt.Fprintf(&b, "%d allocations are younger than a minute, or of pods that are there, and have no endpoint yet.\n", r.Settling)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s: %s\n", p.Kind, plain(p.Detail))
	}
	fmt.Fprintf(&b, "%d problems.\n", len(r.Problems))
	_, err := io.WriteString(w, b.String())
	return err
}
