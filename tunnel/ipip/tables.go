package ipip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"weft/internal/reconcile"
	"weft/tunnel"
)

// targetKey and sourceKey are the keys of the programs' maps: bits counts those of all addresses.
type targetKey struct {
	Bits  uint32
	Inner [4]byte
}

type sourceKey struct {
	Bits         uint32
	Outer, Inner [4]byte
}

func (k targetKey) String() string { return fmt.Sprintf("%v/%d", netip.AddrFrom4(k.Inner), k.Bits) }

func (k sourceKey) String() string {
	return fmt.Sprintf("%v in %v/%d", netip.AddrFrom4(k.Outer), netip.AddrFrom4(k.Inner), k.Bits-32)
}

// target is what a source asks for as the way back: packets to its prefix go to its node.
func target(s tunnel.Source) (targetKey, [4]byte) {
	return targetKey{uint32(s.Inner.Bits()), s.Inner.Addr().As4()}, s.Outer.As4()
}

func source(s tunnel.Source) (sourceKey, uint32) {
	return sourceKey{uint32(32 + s.Inner.Bits()), s.Outer.As4(), s.Inner.Addr().As4()}, 1
}

// mapTable is a whole eBPF map that is ours.
type mapTable[K comparable, V comparable] struct {
	name string
	m    func() *ebpf.Map
}

// batchSize is how many entries one system call carries.
const batchSize = 1024

// List reads the map in a few system calls.
func (t mapTable[K, V]) List(ctx context.Context) (map[K]V, error) {
	out := map[K]V{}
	keys, values := make([]K, batchSize), make([]V, batchSize)
	var cursor ebpf.MapBatchCursor
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := t.m().BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was all
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the eBPF map %s: %w", t.name, err)
		}
	}
}

// Put writes one entry.
func (t mapTable[K, V]) Put(_ context.Context, k K, v V) error {
	if err := t.m().Put(k, v); err != nil {
		return fmt.Errorf("write to the eBPF map %s: %w", t.name, err)
	}
	return nil
}

// Delete removes one entry.
func (t mapTable[K, V]) Delete(_ context.Context, k K, _ V) error {
	if err := t.m().Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from the eBPF map %s: %w", t.name, err)
	}
	return nil
}

// Equal compares.
func (mapTable[K, V]) Equal(a, b V) bool { return a == b }

// PutMany writes in few system calls, and one by one where the kernel refuses that.
func (t mapTable[K, V]) PutMany(ctx context.Context, puts []reconcile.Change[K, V]) []error {
	errs := make([]error, len(puts))
	for start := 0; start < len(puts); start += batchSize {
		part := puts[start:min(start+batchSize, len(puts))]
		keys, values := make([]K, len(part)), make([]V, len(part))
		for i, c := range part {
			keys[i], values[i] = c.Key, c.Want
		}
		if n, err := t.m().BatchUpdate(keys, values, nil); err == nil && n == len(part) {
			continue
		}
		for i, c := range part {
			if errs[start+i] = ctx.Err(); errs[start+i] == nil {
				errs[start+i] = t.Put(ctx, c.Key, c.Want)
			}
		}
	}
	return errs
}

// DeleteMany removes in few system calls, and one by one where an entry is absent.
func (t mapTable[K, V]) DeleteMany(ctx context.Context, deletes []reconcile.Change[K, V]) []error {
	errs := make([]error, len(deletes))
	for start := 0; start < len(deletes); start += batchSize {
		part := deletes[start:min(start+batchSize, len(deletes))]
		keys := make([]K, len(part))
		for i, c := range part {
			keys[i] = c.Key
		}
		if n, err := t.m().BatchDelete(keys, nil); err == nil && n == len(part) {
			continue
		}
		for i, c := range part {
			if errs[start+i] = ctx.Err(); errs[start+i] == nil {
				errs[start+i] = t.Delete(ctx, c.Key, c.Have)
			}
		}
	}
	return errs
}

// firsts returns the sources without those whose inner prefix an earlier one has: two nodes claim
// it, and only one can be sent to. Sources are sorted by the node's name. Where there is none to
// leave out, it is sources itself.
func firsts(sources []tunnel.Source) []tunnel.Source {
	seen := make(map[netip.Prefix]bool, len(sources))
	var out []tunnel.Source
	for i, s := range sources {
		switch {
		case seen[s.Inner] && out == nil:
			out = append(make([]tunnel.Source, 0, len(sources)), sources[:i]...)
		case !seen[s.Inner] && out != nil:
			out = append(out, s)
		}
		seen[s.Inner] = true
	}
	if out == nil {
		return sources
	}
	return out
}
