package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/policy"
)

// timeout bounds one call of a program. Legacy iptables may have to wait for the lock that all of
// its users share.
const timeout = 60 * time.Second

// Driver keeps the chains and sets. Its methods may be called by any goroutine.
type Driver struct {
	log *slog.Logger
	run *runner

	look    atomic.Bool // compare with what is there
	backend atomic.Value

	mu         sync.Mutex // all below
	tools      *tools
	in         Backend // where the rules are; "" before the first call
	known      bool    // rules and sets are in the kernel, as far as we know
	was        bool    // and once were, in this process
	rules      *rules
	sets       map[string]set // of the program, and of its lists; without their members
	seen       map[key]uint64 // how chains printed when we last looked, unless written since
	generation uint64
	reported   string
	refused    refusals
	outline    outline
	wrote      bool          // this Apply wrote rules
	took       time.Duration // the last reading and writing of everything
	again      time.Time     // from then on Watch has everything compared once; zero: it need not

	suspects suspects
}

// New returns a Driver that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger, b Backend) *Driver {
	d := &Driver{log: log, run: &runner{h: h}, rules: newRules(), refused: newRefusals()}
	d.SetBackend(b)
	return d
}

// SetBackend says which backend the next Apply writes to. It then takes away what is in the other
// one, after the new rules are in force.
func (d *Driver) SetBackend(b Backend) {
	if b != NFT && b != Legacy {
		b = Auto
	}
	d.backend.Store(b)
}

// Close releases what the Driver has open, and leaves the kernel as it is.
func (d *Driver) Close() { d.run.close() }

// Invalidate makes the next Apply compare all chains and sets with what is there.
func (d *Driver) Invalidate() { d.look.Store(true) }

// Observe tells whether the event undoes something of the Driver's. None does: see Watch.
func (d *Driver) Observe(kernel.Event) bool { return false }

// Apply makes the kernel run u.Program: by u.Delta when what it is based on is what was applied last,
// else as a whole. The zero Update, without a Program, removes all that is ours, in both backends. It
// returns every error; the next call is the retry.
func (d *Driver) Apply(ctx context.Context, u policy.Update) (res reconcile.Result, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.lookFirst()
	if u.Program == nil {
		res, err = d.remove(ctx)
	} else {
		res, err = d.apply(ctx, &u)
	}
	d.noteOutline(before)
	if err == nil {
		d.log.Debug("policy applied", "generation", u.Generation, "backend", string(d.in), "added", res.Added, "changed", res.Changed,
			"removed", res.Removed, "repaired", res.Repaired)
	}
	return res, err
}

func (d *Driver) apply(ctx context.Context, u *policy.Update) (res reconcile.Result, err error) {
	before := d.in
	if err := d.choose(ctx); err != nil {
		return res, err
	}
	looked := d.look.Swap(false)
	if u.Generation != d.generation && d.refused.touched(&u.Delta) {
		d.known = false // so that all is written that asks about them
	}
	if d.known && d.in == before && !looked && (u.Delta.Base == d.generation || u.Generation == d.generation) {
		if u.Generation == d.generation {
			return res, errors.Join(ctx.Err(), d.shortcomings(u.Program))
		}
		if res, err = d.applyDelta(ctx, u); err == nil {
			d.generation = u.Generation
			return res, d.shortcomings(u.Program)
		}
		d.log.Warn("policy not applied by its difference, now as a whole", "error", err)
		d.known = false
		d.refuse(u.Program, err)
	}
	if d.in != before {
		d.known = false
	}
	res, err = d.applyWhole(ctx, u, looked && d.in == before)
	for range maxRefusals {
		if err == nil || !d.refuse(u.Program, err) {
			break
		}
		res, err = d.applyWhole(ctx, u, false)
	}
	if err != nil {
		d.known, d.generation = false, 0
		return res, err
	}
	d.known, d.was, d.generation = true, true, u.Generation
	return res, d.shortcomings(u.Program)
}

// shortcomings returns what is refused, and logs what cannot be enforced, once for each list of such
// things.
func (d *Driver) shortcomings(p *policy.Program) error {
	list := strings.Join(problems(p), "; ")
	if list != d.reported {
		d.reported = list
		if list != "" {
			d.log.Warn("policy not enforced in part", "why", list)
		}
	}
	if len(d.refused.lines)+len(d.refused.sets) == 0 {
		return nil
	}
	return d.standing(p)
}

// choose finds the programs, and which backend to use.
func (d *Driver) choose(ctx context.Context) error {
	if d.tools == nil {
		t, err := findTools(ctx, d.run)
		if err != nil {
			return err
		}
		d.tools = t
	}
	asked, _ := d.backend.Load().(Backend)
	if asked != Auto {
		if !d.tools.has(asked) {
			return fmt.Errorf("use iptables backend %s: its restore and save commands are not here: install them, or ask for another backend", asked)
		}
		d.in = asked
		return nil
	}
	if d.in != "" {
		return nil
	}
	b, err := d.auto(ctx)
	d.in = b
	return err
}

// auto chooses where others' rules are.
func (d *Driver) auto(ctx context.Context) (Backend, error) {
	var have []Backend
	rules := map[Backend]int{}
	var errs []error
	for _, b := range []Backend{NFT, Legacy} {
		if !d.tools.has(b) {
			continue
		}
		n, err := d.othersRules(ctx, b)
		if err != nil { // the kernel lacks it
			errs = append(errs, err)
			continue
		}
		have = append(have, b)
		rules[b] = n
	}
	switch {
	case len(have) == 0:
		return "", fmt.Errorf("choose an iptables backend: %w", errors.Join(errs...))
	case len(have) == 1:
		return have[0], nil
	case rules[NFT] > rules[Legacy]:
		return NFT, nil
	case rules[Legacy] > rules[NFT]:
		return Legacy, nil
	case d.tools.usual != "":
		return d.tools.usual, nil
	}
	return NFT, nil
}

// applyDelta writes what a change touches. Sets come before the rules that refer to them and go after.
func (d *Driver) applyDelta(ctx context.Context, u *policy.Update) (res reconcile.Result, err error) {
	r := d.rules
	lists, hooked := listSets(r), hookedIn(r)
	if !r.follow(u) {
		r.become(render(u.Program))
	}
	touched := r.take()
	var before, after strings.Builder
	for _, id := range u.Delta.SetsAdded {
		if !id.Staged {
			d.addSet(&before, setName(id), programSet(u.Program.Sets[id], id))
			res.Added++
		}
	}
	for _, md := range u.Delta.Members {
		if !md.Set.Staged {
			d.changeSet(&before, u.Program.Sets[md.Set], &md)
			res.Changed++
		}
	}
	now := listSets(r)
	for name, s := range now {
		if _, there := lists[name]; !there && d.refused.sets[name] == "" {
			d.addSet(&before, name, s)
		}
	}
	for _, id := range u.Delta.SetsRemoved {
		if !id.Staged {
			d.dropSet(&after, setName(id))
			res.Removed++
		}
	}
	for name := range lists {
		if _, stays := now[name]; !stays {
			d.dropSet(&after, name)
		}
	}
	if err := d.ipset(ctx, before.String()); err != nil {
		return res, err
	}
	n, err := d.write(ctx, touched, hookChanges(hooked, hookedIn(r)))
	if err != nil {
		return res, err
	}
	return res.Add(n), d.ipset(ctx, after.String())
}

func (d *Driver) addSet(b *strings.Builder, name string, s set) {
	fill(b, name, s)
	s.members = nil
	d.sets[name] = s
}

func (d *Driver) dropSet(b *strings.Builder, name string) {
	if _, made := d.sets[name]; made {
		b.WriteString("destroy " + name + "\n")
	}
	delete(d.sets, name)
	delete(d.refused.sets, name)
}

// swapAt is from how many changed members on a set is made anew beside the old one.
const swapAt = 5000

func (d *Driver) changeSet(b *strings.Builder, s *policy.Set, md *policy.MemberDelta) {
	name := setName(md.Set)
	whole := programSet(s, md.Set)
	if n := len(md.Added) + len(md.Removed); n > swapAt && n > whole.count/2 {
		exchange(b, name, whole)
	} else {
		added, removed := memberChanges(s, md)
		for _, e := range added { // first: what is split or joined is in the set at every moment
			b.WriteString("add " + name + " " + e + "\n")
		}
		for _, e := range removed {
			b.WriteString("del " + name + " " + e + "\n")
		}
	}
	whole.members = nil
	d.sets[name] = whole
}

// programSet is a Program's set as an ipset.
func programSet(s *policy.Set, id policy.SetID) set {
	ports := id.HasPorts()
	return set{family: id.Family, withPorts: ports, count: count(s, ports), members: func() []string { return members(s, ports) }}
}

// listSets are the sets of prefixes that rules list.
func listSets(r *rules) map[string]set {
	sets := make(map[string]set, len(r.lists))
	for name, l := range r.lists {
		all := listMembers(l.nets)
		sets[name] = set{family: model.FamilyOf(l.nets[0].Addr()), count: len(all), members: func() []string { return all }}
	}
	return sets
}

// write sends the touched chains to both families, and repairs the hooks that are named wrong.
func (d *Driver) write(ctx context.Context, touched map[key]bool, hooked map[model.Family]map[[2]string][]string) (res reconcile.Result, err error) {
	texts, errs := make([]string, len(families)), make([]error, len(families))
	for i, f := range families {
		c := change{family: f, chains: d.rules.chains, touched: touched, hooked: hooked[f], refused: &d.refused}
		texts[i] = c.text()
		d.wrote = d.wrote || texts[i] != ""
	}
	var wg sync.WaitGroup
	for i, f := range families {
		if texts[i] == "" {
			continue
		}
		wg.Go(func() { errs[i] = d.restore(ctx, d.in, f, texts[i]) })
	}
	wg.Wait()
	for k := range touched {
		delete(d.seen, k)
		if _, wanted := d.rules.chains[k]; wanted {
			res.Changed++
		} else {
			res.Removed++
		}
	}
	return res, errors.Join(errs...)
}

func (d *Driver) restore(ctx context.Context, b Backend, f model.Family, text string) error {
	if !present(f) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := d.run.run(ctx, []byte(text), d.tools.restore[b][f], "--noflush", "--wait"); err != nil {
		var failed *runError
		if errors.As(err, &failed) {
			return &restoreError{failed, f}
		}
		return fmt.Errorf("program %s policy: %w", f, err)
	}
	return nil
}

func (d *Driver) ipset(ctx context.Context, commands string) error {
	if commands == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := d.run.run(ctx, []byte(commands), d.tools.ipset, "-exist", "restore"); err != nil {
		var failed *runError
		if errors.As(err, &failed) {
			return &setsError{failed}
		}
		return fmt.Errorf("program policy's sets: %w", err)
	}
	return nil
}

// present tells whether the kernel has a family at all.
func present(f model.Family) bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return f != model.IPv6 || err == nil
}

// hookedIn tells which hooks rules have, by family.
func hookedIn(r *rules) map[key]bool {
	in := map[key]bool{}
	for _, f := range families {
		for _, h := range hooks {
			k := key{f, h.table, h.chain}
			if _, ok := r.chains[k]; ok {
				in[k] = true
			}
		}
	}
	return in
}

// hookChanges returns which jumps come and go.
func hookChanges(before, after map[key]bool) map[model.Family]map[[2]string][]string {
	changes := map[model.Family]map[[2]string][]string{}
	for _, f := range families {
		changes[f] = map[[2]string][]string{}
		for _, h := range hooks {
			k := key{f, h.table, h.chain}
			if before[k] && !after[k] {
				changes[f][[2]string{h.table, h.builtin}] = []string{"-j " + h.chain}
			} else if !before[k] && after[k] {
				changes[f][[2]string{h.table, h.builtin}] = nil
			}
		}
	}
	return changes
}

// sortedKeys is for what is written in an order that does not matter, so that it is always the same.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
