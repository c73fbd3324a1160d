package nftables

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"reflect"
	"slices"

	lib "github.com/google/nftables"

	"weft/internal/nft"
	"weft/policy"
)

// prefix begins the names of what the driver owns in the table kernel.NFTable.
const prefix = "policy-"

// digest shortens a text to 128 bits, that nobody who names things can make collide.
func digest(kind string, text ...string) string {
	h := sha256.New()
	for _, t := range text {
		_, _ = io.WriteString(h, t)
		_, _ = h.Write([]byte{0})
	}
	return prefix + kind + "-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// object is a chain or set that is named by its content and exists as long as somebody uses it.
type object struct {
	name  string
	chain *nft.Chain // or
	set   *nft.Set
	tags  map[int]policy.Tag // of the chain's rules that drop
	uses  []*object
	refs  int
	there bool // in the kernel, as far as we know
}

// chainState is the chain of a policy or profile in one direction.
type chainState struct {
	nft.Chain
	id     policy.ChainID
	rules  []policy.Rule
	of     []entry // of the nftables rules, in order
	uses   []*object
	passes bool // has a rule that leaves the tier
}

// state is what we want in the kernel, made from a Program and kept up with its Deltas.
type state struct {
	program  *policy.Program
	cutFrom  int // members of a set
	refused  *refusals
	chains   map[policy.ChainID]*chainState
	places   map[policy.ChainID]place // of those chains that are not asked about tracked connections
	sets     map[policy.SetID]*setState
	objects  map[string]*object
	pods     map[string]*podState
	ranges   [2]int  // pods that may send from prefixes, by family
	ranged   [2]bool // the skeleton asks about that
	skeleton []nft.Chain
	hold     []*object // what the skeleton uses
	// skeletonTags are of its rules that drop, by chain.
	skeletonTags map[string]map[int]policy.Tag

	touched map[*object]struct{}
	todo    changes
}

// changes is what leads from the state before to this one.
type changes struct {
	chains     []nft.Chain // to be there; their rules are in rules
	sets       []nft.Set
	elements   []elements
	rules      []nft.Chain // whose rules are written anew
	dispatch   []elements  // of verdict maps
	setsGone   []string
	chainsGone []string
}

type elements struct {
	set      lib.Set
	del, add []lib.SetElement
}

func newState(p *policy.Program, refused *refusals, cutFrom int) *state {
	s := &state{
		program: p, refused: refused, cutFrom: cutFrom, chains: map[policy.ChainID]*chainState{}, places: places(p), sets: map[policy.SetID]*setState{},
		objects: map[string]*object{}, pods: map[string]*podState{}, touched: map[*object]struct{}{},
	}
	for id := range p.Sets {
		s.addSet(id)
	}
	for id := range p.Chains {
		s.setChain(id)
	}
	for device := range p.Endpoints {
		s.setPod(device)
	}
	s.setSkeleton()
	s.settle()
	s.done()
	return s
}

// object returns the object of that name; build makes its content when there is none yet.
func (s *state) object(name string, build func(*object)) *object {
	o := s.objects[name]
	if o == nil {
		o = &object{name: name}
		build(o)
		s.objects[name] = o
		s.touched[o] = struct{}{}
	}
	return o
}

func (s *state) acquire(list []*object) {
	for _, o := range list {
		if o.refs++; o.refs == 1 {
			s.touched[o] = struct{}{}
			s.acquire(o.uses)
		}
	}
}

func (s *state) release(list []*object) {
	for _, o := range list {
		if o.refs--; o.refs == 0 {
			s.touched[o] = struct{}{}
			s.release(o.uses)
		}
	}
}

// settle adds to todo what came and went of the objects.
func (s *state) settle() {
	for o := range s.touched {
		switch {
		case o.refs > 0 && !o.there && o.chain != nil:
			s.todo.chains = append(s.todo.chains, *o.chain)
			s.todo.rules = append(s.todo.rules, *o.chain)
		case o.refs > 0 && !o.there:
			s.todo.sets = append(s.todo.sets, *o.set)
		case o.refs == 0 && o.there && o.chain != nil:
			s.todo.chainsGone = append(s.todo.chainsGone, o.name)
		case o.refs == 0 && o.there:
			s.todo.setsGone = append(s.todo.setsGone, o.name)
		}
	}
}

// done notes that the kernel has what is wanted.
func (s *state) done() {
	for o := range s.touched {
		o.there = o.refs > 0
		if !o.there {
			delete(s.objects, o.name)
		}
	}
	clear(s.touched)
	s.todo = changes{}
}

// follow makes the state that of the Program after a Delta.
func (s *state) follow(u policy.Update) {
	d := &u.Delta
	s.program = u.Program
	for _, id := range d.SetsAdded {
		s.addSet(id)
	}
	stale := map[policy.ChainID]struct{}{} // chains that refer to something that changed its name
	carriers := false                      // the skeleton refers to it
	for i := range d.Members {
		if m := &d.Members[i]; s.changeMembers(m) {
			s.referring(m.Set, stale)
			carriers = carriers || m.Set.Kind == policy.Peers
		}
	}
	pods := slices.Clone(d.PodsChanged)
	hosts := carriers || d.ConfigChanged || len(d.HostsChanged)+len(d.HostsRemoved) > 0
	if hosts {
		now := places(u.Program)
		for id := range u.Program.Chains {
			if now[id] != s.places[id] {
				stale[id] = struct{}{}
			}
		}
		s.places = now
	}
	for _, id := range d.ChainsChanged {
		stale[id] = struct{}{}
	}
	turned := map[policy.ChainID]struct{}{}
	for id := range stale {
		if s.setChain(id) {
			turned[id] = struct{}{}
		}
	}
	if len(turned) > 0 { // how they are called depends on that
		for device, e := range u.Program.Endpoints {
			if asks(&e.Ingress, turned) || asks(&e.Egress, turned) {
				pods = append(pods, device)
			}
		}
		hosts = true
	}
	for _, device := range d.PodsRemoved {
		s.removePod(device)
	}
	slices.Sort(pods)
	for _, device := range slices.Compact(pods) {
		s.setPod(device)
	}
	if hosts || s.ranged != [2]bool{s.ranges[0] > 0, s.ranges[1] > 0} {
		s.setSkeleton()
	}
	for _, id := range d.ChainsRemoved {
		s.removeChain(id)
	}
	for _, id := range d.SetsRemoved {
		s.removeSet(id)
	}
	s.settle()
}

// asks tells whether a hook has one of the chains.
func asks(h *policy.Hook, chains map[policy.ChainID]struct{}) bool {
	among := func(id policy.ChainID) bool { _, is := chains[id]; return is }
	return slices.ContainsFunc(h.Profiles, among) ||
		slices.ContainsFunc(h.Tiers, func(t policy.Tier) bool { return slices.ContainsFunc(t.Policies, among) })
}

// referring adds the chains whose rules refer to a set.
func (s *state) referring(id policy.SetID, to map[policy.ChainID]struct{}) {
	for name, c := range s.program.Chains {
		if !c.Staged && slices.ContainsFunc(c.Rules, func(r policy.Rule) bool { return r.RefersTo(func(s policy.SetID) bool { return s == id }) }) {
			to[name] = struct{}{}
		}
	}
}

// whole returns all that is wanted.
func (s *state) whole() nft.Program {
	p := nft.Program{Sets: fixedSets(s), Chains: slices.Clone(s.skeleton)}
	for _, t := range s.sets {
		p.Sets = append(p.Sets, s.kernelSets(t)...)
	}
	for _, o := range s.objects {
		if o.set != nil {
			p.Sets = append(p.Sets, *o.set)
		} else {
			p.Chains = append(p.Chains, *o.chain)
		}
	}
	for _, c := range s.chains {
		p.Chains = append(p.Chains, c.Chain)
	}
	return p
}

// update sends the changes. What is referred to comes before what refers to it.
func (c *changes) update(tx *nft.Tx) error {
	for _, n := range c.chains {
		tx.AddChain(n)
	}
	for _, s := range c.sets {
		if err := tx.AddSet(s); err != nil {
			return err
		}
	}
	if err := sendElements(tx, c.elements); err != nil {
		return err
	}
	for _, n := range c.rules {
		tx.FlushChain(n.Name)
		tx.AddRules(n)
	}
	if err := sendElements(tx, c.dispatch); err != nil {
		return err
	}
	for _, n := range c.chainsGone {
		tx.FlushChain(n)
	}
	for _, n := range c.setsGone {
		tx.DelSet(n)
	}
	for _, n := range c.chainsGone {
		tx.DelChain(n)
	}
	return nil
}

func sendElements(tx *nft.Tx, list []elements) error {
	for _, e := range list {
		// First what goes: ranges must not overlap, and a map's key has one value.
		if err := tx.DelElements(e.set, e.del); err != nil {
			return err
		}
		if err := tx.AddElements(e.set, e.add); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) none() bool {
	return len(c.chains)+len(c.sets)+len(c.elements)+len(c.rules)+len(c.dispatch)+len(c.setsGone)+len(c.chainsGone) == 0
}

// setSkeleton renders what depends on host endpoints and the configuration, and notes the difference.
func (s *state) setSkeleton() {
	k := skeleton(s)
	chains, uses := k.chains, k.uses
	s.skeletonTags = k.tags
	s.ranged = [2]bool{s.ranges[0] > 0, s.ranges[1] > 0}
	s.acquire(uses)
	s.release(s.hold)
	s.hold = uses
	old := map[string]*nft.Chain{}
	for i := range s.skeleton {
		old[s.skeleton[i].Name] = &s.skeleton[i]
	}
	for _, c := range chains {
		was := old[c.Name]
		delete(old, c.Name)
		if was == nil {
			s.todo.chains = append(s.todo.chains, c)
		}
		if was == nil || !reflect.DeepEqual(was.Rules, c.Rules) {
			s.todo.rules = append(s.todo.rules, c)
		}
	}
	for name := range old {
		s.todo.chainsGone = append(s.todo.chainsGone, name)
	}
	s.skeleton = chains
}
