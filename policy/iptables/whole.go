package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"weft/internal/reconcile"
	"weft/model"
	"weft/policy"
)

// applyWhole reads what of ours is in the kernel, and makes it what the Program wants. Chains that
// were not written by this process are written anew. repair counts what differs although it was
// written.
func (d *Driver) applyWhole(ctx context.Context, u *policy.Update, repair bool) (res reconcile.Result, err error) {
	start := time.Now()
	defer func() { d.took = time.Since(start) }()
	want := render(u.Program)
	wanted := listSets(want)
	for id, s := range u.Program.Sets {
		if !id.Staged {
			wanted[setName(id)] = programSet(s, id)
		}
	}
	for name := range d.refused.sets {
		delete(wanted, name)
	}
	c := comparison{trust: d.known, suspected: d.suspects.take(), seen: d.seen, touched: map[key]bool{}, hooked: map[model.Family]map[[2]string][]string{}}
	d.known = false

	sets, err := d.readSets(ctx)
	if err != nil {
		return res, fmt.Errorf("read policy's sets: %w", err)
	}
	before, setRes := setChanges(sets, wanted)
	if err := d.ipset(ctx, before); err != nil {
		return res, err
	}
	res = setRes
	if u.Generation == d.generation {
		c.differs = setRes.Added + setRes.Changed
	}
	c.differs += strangers(sets, wanted, d.sets)

	d.rules.become(want)
	c.changed = d.rules.take()
	prints := map[key]uint64{}
	for _, f := range families {
		have, err := d.read(ctx, d.in, f)
		if err != nil {
			return res, fmt.Errorf("read %s policy: %w", f, err)
		}
		res = res.Add(c.compare(f, have, want))
		for k, chain := range have.chains {
			prints[k] = chain.sum
		}
	}
	if _, err := d.write(ctx, c.touched, c.hooked); err != nil {
		return res, err
	}
	d.seen = map[key]uint64{}
	for k, sum := range prints {
		if !c.touched[k] {
			d.seen[k] = sum
		}
	}
	if err := d.clear(ctx, d.in.other()); err != nil {
		return res, err
	}
	if err := d.destroySets(ctx, sets, wanted); err != nil {
		return res, err
	}
	if repair && d.was {
		res.Repaired = c.differs
	}
	d.sets = wanted
	return res, nil
}

// strangers counts sets that bear our prefix and were never made by us.
func strangers(have map[string]*foundSet, want, made map[string]set) (n int) {
	for name := range have {
		_, wanted := want[name]
		if _, ours := made[name]; !wanted && !ours {
			n++
		}
	}
	return n
}

// comparison finds which chains and hooks have to be written.
type comparison struct {
	trust     bool           // what prints as it did is as we wrote it
	seen      map[key]uint64 // how it printed
	suspected map[key]bool   // what somebody else is said to have touched
	changed   map[key]bool   // what is wanted to be different from what it was

	touched map[key]bool
	hooked  map[model.Family]map[[2]string][]string
	differs int // from what it was, though nobody wanted that
}

func (c *comparison) compare(f model.Family, have *found, want *rules) (res reconcile.Result) {
	for k := range have.chains {
		if _, stays := want.chains[k]; stays {
			continue
		}
		c.touched[k] = true
		res.Removed++
		if !c.changed[k] {
			c.differs++
		}
	}
	for k, lines := range want.chains {
		if k.family != f {
			continue
		}
		there := have.chains[k]
		if there == nil || len(lines) != there.rules || c.seen[k] != 0 && c.seen[k] != there.sum || c.suspected[k] {
			if !c.changed[k] {
				c.differs++
			}
		} else if c.trust && !c.changed[k] {
			continue
		}
		c.touched[k] = true
		res.Changed++
	}
	c.hooked[f] = wrongHooks(f, have, want)
	c.differs += len(c.hooked[f])
	res.Changed += len(c.hooked[f])
	return res
}

func wrongHooks(f model.Family, have *found, want *rules) map[[2]string][]string {
	wrong := map[[2]string][]string{}
	for _, h := range hooks {
		at := [2]string{h.table, h.builtin}
		_, wanted := want.chains[key{f, h.table, h.chain}]
		if there := have.hooks[at]; !there.right(h.chain, wanted) {
			wrong[at] = nil
			if there != nil {
				wrong[at] = there.rules
			}
		}
	}
	return wrong
}

// setChanges returns the commands that make what is there what is wanted, but for sets that nobody
// wants: rules may still refer to them.
func setChanges(have map[string]*foundSet, want map[string]set) (commands string, res reconcile.Result) {
	var b strings.Builder
	if have[temporary] != nil {
		b.WriteString("destroy " + temporary + "\n")
	}
	for _, name := range sortedKeys(want) {
		s, old := want[name], have[name]
		if old != nil && old.kind != s.kind() { // nothing of ours asks about it
			b.WriteString("destroy " + name + "\n")
			old = nil
		}
		if old == nil {
			fill(&b, name, s)
			res.Added++
		} else if setDiff(&b, name, s, old) {
			res.Changed++
		}
		s.members = nil
		want[name] = s
	}
	return b.String(), res
}

func setDiff(b *strings.Builder, name string, s set, old *foundSet) (differs bool) {
	all := s.members()
	wanted := make(map[string]bool, len(all))
	var add, del []string
	for _, e := range all {
		if wanted[e] = true; !old.members[e] {
			add = append(add, "add "+name+" "+e+"\n")
		}
	}
	for _, e := range sortedKeys(old.members) {
		if !wanted[e] {
			del = append(del, "del "+name+" "+e+"\n")
		}
	}
	if n := len(add) + len(del); n > swapAt && n > len(all)/2 {
		exchange(b, name, s)
	} else {
		b.WriteString(strings.Join(add, "") + strings.Join(del, ""))
	}
	return len(add)+len(del) > 0
}

func (d *Driver) destroySets(ctx context.Context, have map[string]*foundSet, want map[string]set) error {
	var b strings.Builder
	for _, name := range sortedKeys(have) {
		if _, stays := want[name]; stays || name == temporary {
			continue
		}
		if d.refused.sets[name] != "" { // rules of others may ask about it
			_ = d.ipset(ctx, "destroy "+name+"\n")
			continue
		}
		b.WriteString("destroy " + name + "\n")
	}
	return d.ipset(ctx, b.String())
}

// clear takes all of ours away from a backend.
func (d *Driver) clear(ctx context.Context, b Backend) error {
	if !d.tools.has(b) {
		return nil
	}
	for _, f := range families {
		have, err := d.read(ctx, b, f)
		if err != nil {
			if b == d.in {
				return fmt.Errorf("read %s policy: %w", f, err)
			}
			continue // a backend that this kernel lacks holds nothing
		}
		c := change{family: f, touched: map[key]bool{}, hooked: map[[2]string][]string{}}
		for k := range have.chains {
			c.touched[k] = true
		}
		for at, h := range have.hooks {
			c.hooked[at] = h.rules
		}
		if text := c.text(); text != "" {
			if err := d.restore(ctx, b, f, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove takes away all that is ours. Where the programs or the kernel lack what is needed to look, an
// earlier process had not either, and there is nothing to remove.
func (d *Driver) remove(ctx context.Context) (res reconcile.Result, err error) {
	err = d.choose(ctx)
	var sets map[string]*foundSet
	if err == nil {
		sets, err = d.readSets(ctx)
	}
	if err != nil {
		if d.was || ctx.Err() != nil {
			return res, err
		}
		d.log.Debug("nothing of iptables policy can be here", "why", err)
		return res, nil
	}
	d.known, d.generation, d.rules, d.seen, d.refused = false, 0, newRules(), nil, newRefusals()
	if err := errors.Join(d.clear(ctx, NFT), d.clear(ctx, Legacy), d.destroySets(ctx, sets, nil)); err != nil {
		return res, err
	}
	if d.was || len(sets) > 0 {
		res.Removed = max(1, len(sets))
	}
	d.was, d.sets = false, nil
	return res, nil
}

// Barrier is for the time before the first Program is known. Where rules of ours are in force, of an
// earlier process, they stay so; else it writes some that drop what pods send and what is sent to
// them.
func (d *Driver) Barrier(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.was {
		return nil
	}
	if err := d.choose(ctx); err != nil {
		return err
	}
	want := render(&policy.Program{})
	for _, f := range families {
		inForce := false
		var here *found
		for _, b := range []Backend{NFT, Legacy} {
			if !d.tools.has(b) {
				continue
			}
			have, err := d.read(ctx, b, f)
			if err != nil && b == d.in {
				return fmt.Errorf("read %s policy: %w", f, err)
			} else if err != nil {
				continue
			}
			inForce = inForce || have.hooked(filter, "INPUT") && have.hooked(filter, "FORWARD") && have.hooked(filter, "OUTPUT") && have.hooked(raw, "PREROUTING")
			if b == d.in {
				here = have
			}
		}
		if inForce {
			continue
		}
		c := change{family: f, chains: want.chains, touched: map[key]bool{}, hooked: wrongHooks(f, here, want)}
		for k := range want.chains {
			c.touched[k] = true
		}
		if err := d.restore(ctx, d.in, f, c.text()); err != nil {
			return err
		}
		d.log.Info("pods are cut off until policy is known", "family", f.String(), "backend", string(d.in))
	}
	return nil
}
