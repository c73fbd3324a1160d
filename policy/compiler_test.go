package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/model"
	"weft/policy/policytest"
)

// mirror is what a driver has that does nothing but apply Deltas. It refuses those that say more
// than what changed.
type mirror struct {
	generation uint64
	sets       map[SetID]map[Member]bool
	chains     map[ChainID]*Chain
	pods       map[string]*Endpoint
	hosts      map[string]*Host
	config     model.PolicyConfig
	carriers   []model.Carrier
	local      []netip.Addr
}

func newMirror() *mirror {
	return &mirror{sets: map[SetID]map[Member]bool{}, chains: map[ChainID]*Chain{}, pods: map[string]*Endpoint{}, hosts: map[string]*Host{}}
}

func (m *mirror) apply(u Update) error {
	d := &u.Delta
	if d.Base != m.generation || d.Empty() != (u.Generation == m.generation) {
		return fmt.Errorf("delta from %d to %d (empty: %v), want from %d", d.Base, u.Generation, d.Empty(), m.generation)
	}
	m.generation = u.Generation
	for _, id := range d.SetsAdded {
		if m.sets[id] != nil {
			return fmt.Errorf("set %s is added, and was there", id)
		}
		m.sets[id] = map[Member]bool{}
		for e := range u.Program.Sets[id].All() {
			m.sets[id][e] = true
		}
	}
	for _, id := range d.SetsRemoved {
		if m.sets[id] == nil {
			return fmt.Errorf("set %s is removed, and was not there", id)
		}
		delete(m.sets, id)
	}
	for _, md := range d.Members {
		if err := m.members(md); err != nil {
			return err
		}
	}
	if d.ConfigChanged {
		m.config, m.carriers, m.local = u.Program.Config, u.Program.Carriers, u.Program.Local
	}
	return firstError(
		follow("chain", m.chains, u.Program.Chains, d.ChainsChanged, d.ChainsRemoved),
		follow("pod", m.pods, u.Program.Endpoints, d.PodsChanged, d.PodsRemoved),
		follow("host", m.hosts, u.Program.Hosts, d.HostsChanged, d.HostsRemoved))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) members(md MemberDelta) error {
	set := m.sets[md.Set]
	if set == nil || len(md.Added)+len(md.Removed) == 0 {
		return fmt.Errorf("members of %s change by %d and %d, and it was there: %v", md.Set, len(md.Added), len(md.Removed), set != nil)
	}
	for _, e := range md.Added {
		if set[e] {
			return fmt.Errorf("%s is added to %s, and was there", e, md.Set)
		}
		set[e] = true
	}
	for _, e := range md.Removed {
		if !set[e] {
			return fmt.Errorf("%s is removed from %s, and was not there", e, md.Set)
		}
		delete(set, e)
	}
	return nil
}

func follow[K comparable, V any](what string, have, want map[K]*V, changed, removed []K) error {
	for _, k := range changed {
		if want[k] == nil {
			return fmt.Errorf("%s %v is changed, and is not there", what, k)
		}
		if have[k] != nil && reflect.DeepEqual(have[k], want[k]) {
			return fmt.Errorf("%s %v is changed, and is what it was", what, k)
		}
		have[k] = want[k]
	}
	for _, k := range removed {
		if have[k] == nil {
			return fmt.Errorf("%s %v is removed, and was not there", what, k)
		}
		delete(have, k)
	}
	if !maps.Equal(have, want) {
		return fmt.Errorf("%ss: %d followed by deltas, %d in the program, and not the same", what, len(have), len(want))
	}
	return nil
}

// program is what the mirror has, as a Program.
func (m *mirror) program() *Program {
	p := &Program{Sets: map[SetID]*Set{}, Chains: m.chains, Endpoints: m.pods, Hosts: m.hosts, Config: m.config, Carriers: m.carriers, Local: m.local}
	for id, members := range m.sets {
		p.Sets[id] = newSet(id)
		for e := range members {
			p.Sets[id].add(e)
		}
	}
	return p
}

// givers prints how many things give each member: what Format does not show and a later change
// depends on.
func givers(p *Program) string {
	var lines []string
	for id, s := range p.Sets {
		for m, n := range s.members {
			lines = append(lines, fmt.Sprintf("%s: %s by %d", id, m, n))
		}
		for _, l := range s.lengths {
			lines = append(lines, fmt.Sprintf("%s: %d of /%d", id, l.members, l.bits))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestIncremental changes random worlds step by step. After each Flush the Program must be what
// Compile makes of the whole, and what a driver has that follows the Deltas.
func TestIncremental(t *testing.T) {
	var steps, flushes, members, empty int
	rapid.Check(t, func(t *rapid.T) {
		w := policytest.New(rapid.Uint64().Draw(t, "seed"), rapid.Bool().Draw(t, "hosts"))
		c, m := NewCompiler(policytest.Self), newMirror()
		batch := rapid.IntRange(1, 6).Draw(t, "batch") // changes between two flushes, at most
		var said []string
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			said = append(said, w.Step(c))
			steps++
			if w.IntN(batch) != 0 {
				continue
			}
			flushes++
			u := c.Flush()
			for _, md := range u.Delta.Members {
				members += len(md.Added) + len(md.Removed)
			}
			if u.Delta.Empty() {
				empty++
			}
			if err := m.apply(u); err != nil {
				t.Fatalf("after\n%s\n%v", strings.Join(said, "\n"), err)
			}
			want, err := Compile(w.Snapshot)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Format(), u.Program.Format()); diff != "" {
				t.Fatalf("after\n%s\nprogram (-whole +incremental):\n%s", strings.Join(said, "\n"), diff)
			}
			if diff := cmp.Diff(givers(want), givers(u.Program)); diff != "" {
				t.Fatalf("after\n%s\nmembers (-whole +incremental):\n%s", strings.Join(said, "\n"), diff)
			}
			if diff := cmp.Diff(want.Format(), m.program().Format()); diff != "" {
				t.Fatalf("after\n%s\nprogram (-whole +followed by deltas):\n%s", strings.Join(said, "\n"), diff)
			}
			if left := c.stale(u.Program); left != "" {
				t.Fatalf("after\n%s\n%s", strings.Join(said, "\n"), left)
			}
		}
		clearAll(t, c, m)
	})
	t.Logf("0 differences after each of %d flushes of %d changes; %d set members came or went, %d flushes changed nothing", flushes, steps, members, empty)
	if members < flushes/2 || empty > flushes*9/10 {
		t.Error("the worlds do not exercise the compiler")
	}
}

// stale names what the Compiler keeps without need.
func (c *Compiler) stale(p *Program) string {
	used := map[SetID]bool{}
	for _, t := range p.Carriers {
		used[PeersOf(t.Family)] = true
	}
	for _, ch := range p.Chains {
		for i := range ch.Rules {
			ch.Rules[i].EachSet(func(id SetID, _ bool) { used[id] = true })
		}
	}
	asked := map[ChainID]bool{}
	hook := func(h Hook) {
		for _, t := range h.Tiers {
			for _, id := range t.Policies {
				asked[id] = true
			}
			for _, s := range t.Staged {
				asked[s.Chain] = true
			}
		}
	}
	for _, e := range p.Endpoints {
		hook(e.Ingress)
		hook(e.Egress)
	}
	for _, h := range p.Hosts {
		hook(h.PreDNAT)
		for _, d := range directions {
			hook(h.Untracked[d])
			hook(h.Forward[d])
			hook(h.Normal[d])
		}
	}
	for id := range asked {
		if p.Chains[id] == nil {
			return fmt.Sprintf("chain %s is asked and not there", id)
		}
	}
	for id := range used {
		if p.Sets[id] == nil {
			return fmt.Sprintf("set %s is used and not there", id)
		}
	}
	if len(used) != len(p.Sets) || len(c.sets) != len(p.Sets) {
		return fmt.Sprintf("%d sets, %d used, %d kept", len(p.Sets), len(used), len(c.sets))
	}
	return ""
}

// clearAll deletes everything, and finds what is left.
func clearAll(t *rapid.T, c *Compiler, m *mirror) {
	if err := c.Replace(&model.Snapshot{Self: policytest.Self}); err != nil {
		t.Fatal(err)
	}
	u := c.Flush()
	if err := m.apply(u); err != nil {
		t.Fatal(err)
	}
	p := u.Program
	counts := []int{len(p.Sets), len(p.Chains), len(p.Endpoints), len(p.Hosts), len(c.tiers), len(c.inTier), len(c.policies), len(c.profiles),
		len(c.pods), len(c.devices), len(c.heps), len(c.remote), len(c.nets), len(c.selectors), len(c.services), len(c.sets)}
	for _, n := range counts {
		if n != 0 {
			t.Fatalf("left after everything was deleted: %v", counts)
		}
	}
	for range c.active.Selectors(nil) {
		t.Fatal("something is still selected")
	}
}

// TestReplace gives a Compiler one random world after another.
func TestReplace(t *testing.T) {
	c, m := NewCompiler(policytest.Self), newMirror()
	for seed := range uint64(60) {
		w := policytest.Full(seed, seed%2 == 0)
		if err := c.Replace(w.Snapshot); err != nil {
			t.Fatal(err)
		}
		u := c.Flush()
		if err := m.apply(u); err != nil {
			t.Fatal(err)
		}
		want, err := Compile(w.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Format(), u.Program.Format()); diff != "" {
			t.Fatalf("seed %d: program (-whole +replaced):\n%s", seed, diff)
		}
		if u2 := c.Flush(); !u2.Delta.Empty() || u2.Generation != u.Generation {
			t.Fatalf("seed %d: a flush without a change: %+v", seed, u2.Delta)
		}
	}
}
