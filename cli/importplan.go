package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/cli/calico"
	"weft/node/accept"
	"weft/node/datastore"
	"weft/node/ipam"
)

// outcome is what becomes of an object that is imported.
type outcome string

const (
	created outcome = "created"
	changed outcome = "changed"
	same    outcome = "same"
	leftOut outcome = "left out"
	refused outcome = "refused"
)

// imported is one object of the import.
type imported struct {
	ref      string    // as it is called here; as it was stored, where it is nothing here
	object   v3.Object // what to write
	outcome  outcome
	why      string
	fields   []string // that differ from what is here
	noEffect []string
}

func (p *imported) refuse(format string, args ...any) {
	p.outcome, p.why, p.noEffect = refused, fmt.Sprintf(format, args...), nil
}

// importer knows what is here and what is to come.
type importer struct {
	store datastore.Store
	flags importFlags
	items []*imported
	// taken says which object has a name.
	taken  map[datastore.Key]string
	tiers  map[string]bool
	pools  map[string]*v3.IPPool
	blocks map[netip.Prefix]string // those here: the names
}

// planImport says what is to become of each object, in an order in which they can be written. It writes nothing.
func planImport(ctx context.Context, store datastore.Store, stored []calico.Stored, flags importFlags) ([]*imported, error) {
	m := &importer{store: store, flags: flags, taken: map[datastore.Key]string{}}
	for _, s := range stored {
		m.add(calico.Convert(s))
	}
	if flags.addresses {
		m.adoptAddresses()
	}
	if err := m.readHere(ctx); err != nil {
		return nil, err
	}
	slices.SortStableFunc(m.items, func(a, b *imported) int {
		return cmp.Or(a.rank()-b.rank(), cmp.Compare(a.ref, b.ref))
	})
	// Pools and tiers are looked at first: blocks lie in the ones, policies in the others.
	for _, first := range []bool{true, false} {
		for _, p := range m.items {
			if p.object == nil || p.outcome != "" || first != (kindOf(p) == v3.KindIPPool || kindOf(p) == v3.KindTier) {
				continue
			}
			if err := m.decide(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	return m.items, nil
}

func kindOf(p *imported) string {
	kind, _ := v3.KindOf(p.object)
	return kind
}

func isAddressKind(kind string) bool {
	return kind == v3.KindIPAMBlock || kind == v3.KindIPAMHandle || kind == v3.KindBlockAffinity
}

// rank has the books of addresses come first, a handle before the block that names it and an affinity after its block;
// what is not written comes last.
func (p *imported) rank() int {
	if p.object == nil {
		return 1000
	}
	kind := kindOf(p)
	if i := slices.Index([]string{v3.KindIPAMHandle, v3.KindIPAMBlock, v3.KindBlockAffinity}, kind); i >= 0 {
		return i
	}
	return 10 + writeRank(kind)
}

// add takes one object into the plan.
func (m *importer) add(item calico.Item) {
	p := &imported{ref: item.Ref, object: item.Object}
	m.items = append(m.items, p)
	switch {
	case item.LeftOut != "":
		p.outcome, p.why = leftOut, item.LeftOut
	case item.Refused != nil:
		p.object = nil
		p.refuse("%v", item.Refused)
	case isAddressKind(item.Kind) && !m.flags.addresses:
		p.object, p.outcome, p.why = nil, leftOut, "addresses in use are imported with --addresses"
	default:
		m.name(p, item.Ref)
	}
}

// name gives p its name here, which no other object may have.
func (m *importer) name(p *imported, storedAs string) {
	key := datastore.KeyOf(p.object)
	info, _ := v3.LookupKind(key.Kind)
	p.ref = refOf(info, strings.TrimPrefix(key.Namespace+"/"+key.Name, "/"))
	if other, twice := m.taken[key]; twice {
		p.object = nil
		p.refuse("%s is %v here, which %s is too: rename one of them", storedAs, key, other)
		return
	}
	m.taken[key] = storedAs
}

// readHere reads what objects depend on.
func (m *importer) readHere(ctx context.Context) error {
	l, err := m.store.List(ctx, v3.KindTier, v3.KindIPPool, v3.KindIPAMBlock)
	if err != nil {
		return fmt.Errorf("read what is here: %w", err)
	}
	m.tiers, m.pools, m.blocks = map[string]bool{}, map[string]*v3.IPPool{}, map[netip.Prefix]string{}
	for _, t := range v3.BuiltinTiers() {
		m.tiers[t.Name] = true
	}
	for _, o := range l.Items {
		switch o := o.(type) {
		case *v3.Tier:
			m.tiers[o.Name] = true
		case *v3.IPPool:
			m.pools[o.Name] = o
		case *v3.IPAMBlock:
			if cidr, err := netip.ParsePrefix(o.Spec.CIDR); err == nil {
				m.blocks[cidr] = o.Name
			}
		}
	}
	return nil
}

// decide compares an object with what is here.
func (m *importer) decide(ctx context.Context, p *imported) error {
	kind, key := kindOf(p), datastore.KeyOf(p.object)
	live, err := m.store.Get(ctx, key)
	switch {
	case errors.Is(err, datastore.ErrNotFound):
		if t, builtin := v3.BuiltinTier(key.Name); builtin && kind == v3.KindTier && sameSpec(t, p.object) {
			p.outcome, p.why = leftOut, "built in"
			return nil
		}
		p.outcome = created
	case err != nil:
		return fmt.Errorf("compare %s with what is here: %w", p.ref, err)
	default:
		if err := m.compare(p, live); err != nil {
			return err
		}
	}
	if p.writes() {
		m.check(p)
	}
	if !p.writes() {
		return nil
	}
	switch o := p.object.(type) {
	case *v3.Tier:
		m.tiers[o.Name] = true
	case *v3.IPPool:
		m.pools[o.Name] = o
	}
	p.noEffect, err = accept.WithoutEffect(p.object)
	return err
}

// writes tells that something is to be written.
func (p *imported) writes() bool { return p.outcome == created || p.outcome == changed }

func sameSpec(a *v3.Tier, b v3.Object) bool {
	t, ok := b.(*v3.Tier)
	return ok && reflect.DeepEqual(a.Spec, t.Spec)
}

// compare says what takes the place of live, if anything.
func (m *importer) compare(p *imported, live v3.Object) error {
	kind := kindOf(p)
	info, _ := v3.LookupKind(kind)
	want := p.object
	want.SetFinalizers(live.GetFinalizers())
	want.SetOwnerReferences(live.GetOwnerReferences())
	// What others noted stays; what Calico says goes before.
	notes := maps.Clone(live.GetAnnotations())
	if notes == nil && want.GetAnnotations() != nil {
		notes = map[string]string{}
	}
	maps.Copy(notes, want.GetAnnotations())
	want.SetAnnotations(notes)
	want, equal, err := adopt(input{object: want, kind: info}, live)
	if err != nil {
		return fmt.Errorf("compare %s with what is here: %w", p.ref, err)
	}
	if equal {
		p.outcome = same
		return nil
	}
	if p.fields, err = differences(live, want); err != nil {
		return err
	}
	switch {
	case isAddressKind(kind):
		p.refuse("ours is another, and nodes may have changed it since: books of addresses are never overwritten")
	case !m.flags.overwrite:
		p.refuse("ours differs, from -> to; --overwrite changes it")
	default:
		p.object, p.outcome = want, changed
	}
	return nil
}

// check refuses what does not agree with other objects, of those here and those to come.
func (m *importer) check(p *imported) {
	if t := v3.PolicyOf(p.object); t != nil && !m.tiers[t.Tier] {
		p.refuse("spec.tier: there is no tier %q, and none is imported", t.Tier)
	}
	switch o := p.object.(type) {
	case *v3.IPPool:
		if err := v3.PoolOverlap(o, slices.Collect(maps.Values(m.pools))...); err != nil {
			p.refuse("%v", err)
		}
	case *v3.IPAMBlock:
		m.checkBlock(p, o)
	}
}

func (m *importer) checkBlock(p *imported, b *v3.IPAMBlock) {
	cidr, err := netip.ParsePrefix(b.Spec.CIDR)
	if err != nil {
		p.refuse("spec.cidr: %v", err)
		return
	}
	for other, name := range m.blocks {
		if other.Overlaps(cidr) && other != cidr {
			p.refuse("it overlaps with block %s, which is here", name)
			return
		}
	}
	for _, pool := range m.pools {
		if r, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil && r.Contains(cidr.Addr()) && r.Bits() <= cidr.Bits() {
			m.blocks[cidr] = b.Name
			return
		}
	}
	p.refuse("it lies in no IPPool that is here or imported")
}

// adoptAddresses gives blocks, affinities and handles the form that nodes here write, and leaves out what is under way.
func (m *importer) adoptAddresses() {
	var blocks []*v3.IPAMBlock
	there := map[string]bool{}
	for _, p := range m.items {
		if b, ok := p.object.(*v3.IPAMBlock); ok && !b.Spec.Deleted {
			blocks, there[b.Spec.CIDR] = append(blocks, b), true
		}
	}
	nodes := ipam.HandleNodes(blocks)
	for _, p := range m.items {
		if p.object == nil || !isAddressKind(kindOf(p)) {
			continue
		}
		storedAs := p.ref
		delete(m.taken, datastore.KeyOf(p.object))
		if !adoptAddress(p, there, nodes) {
			p.object = nil
			continue
		}
		m.name(p, storedAs)
	}
}

// adoptAddress is false where p is left out or refused.
func adoptAddress(p *imported, there map[string]bool, nodes map[string]string) bool {
	leave := func(why string) bool {
		p.outcome, p.why = leftOut, why
		return false
	}
	switch o := p.object.(type) {
	case *v3.IPAMBlock:
		if o.Spec.Deleted {
			return leave("it is being deleted")
		}
		b, err := ipam.AdoptBlock(o)
		if err != nil {
			p.refuse("%v", err)
			return false
		}
		p.object = b
	case *v3.BlockAffinity:
		switch {
		case bool(o.Spec.Deleted) || o.Spec.State == v3.AffinityPendingDeletion:
			return leave("it is being deleted")
		case !there[o.Spec.CIDR]:
			return leave("it has no block")
		}
		a, err := ipam.AdoptAffinity(o)
		if err != nil {
			p.refuse("%v", err)
			return false
		}
		p.object = a
	case *v3.IPAMHandle:
		if o.Spec.Deleted {
			return leave("it is being deleted")
		}
		p.object = ipam.AdoptHandle(o, nodes[o.Spec.HandleID])
	}
	return true
}

// differences names the fields in which two resources differ, with both values.
func differences(from, to v3.Object) ([]string, error) {
	from = from.DeepCopyObject().(v3.Object)
	v3.Default(from)
	a, err := toMap(from)
	if err != nil {
		return nil, err
	}
	b, err := toMap(to)
	if err != nil {
		return nil, err
	}
	return differ("", a, b), nil
}

func differ(path string, a, b map[string]any) []string {
	names := map[string]bool{}
	for _, m := range []map[string]any{a, b} {
		for name := range m {
			names[name] = true
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		at := strings.TrimPrefix(path+"."+name, ".")
		below, ok := a[name].(map[string]any)
		above, too := b[name].(map[string]any)
		switch {
		case ok && too:
			out = append(out, differ(at, below, above)...)
		case !reflect.DeepEqual(a[name], b[name]):
			out = append(out, fmt.Sprintf("%s: %s -> %s", at, valueText(a[name]), valueText(b[name])))
		}
	}
	return out
}

// valueText prints a value in at most a line.
func valueText(v any) string {
	if v == nil {
		return "(none)"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const most = 200
	if r := []rune(string(data)); len(r) > most {
		return string(r[:most]) + "..."
	}
	return string(data)
}
