package ipam

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// AnnotationNode is the annotation of an IPAMHandle that says of which node it is: a handle itself does not, and in
// Kubernetes no other node may write it.
const AnnotationNode = "weft.io/node"

// handleName is the resource name of a handle: the ID itself where that is a valid name, else what
// is left of it and a hash.
func handleName(id string) string {
	valid := func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}
	name := strings.Map(valid, strings.ToLower(id))
	edges := strings.Trim(name, "-.") == name && !strings.Contains(name, "..") && !strings.Contains(name, ".-") && !strings.Contains(name, "-.")
	if name == id && len(id) <= 253 && edges && id != "" {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	short := strings.Trim(strings.ReplaceAll(name[:min(len(name), 180)], ".", "-"), "-")
	return "h-" + strings.Trim(short+"-"+hex.EncodeToString(sum[:16]), "-")
}

func handleKey(id string) datastore.Key {
	return datastore.Key{Kind: v3.KindIPAMHandle, Name: handleName(id)}
}

// openHandle writes the handle with the chosen blocks and returns the demands that are still open:
// all of them, unless the handle was there already and has their addresses.
func (t *task) openHandle(ctx context.Context) ([]*demand, error) {
	for range commitAttempts {
		h := &v3.IPAMHandle{TypeMeta: typeMeta(v3.KindIPAMHandle)}
		h.Name, h.Spec.HandleID, h.Spec.Block = handleName(t.request.HandleID), t.request.HandleID, map[string]int{}
		h.Annotations = map[string]string{AnnotationNode: t.a.node}
		for _, d := range t.demands {
			h.Spec.Block[d.choice.cidr.String()]++
		}
		created, err := t.a.store.Create(ctx, h)
		if err == nil {
			return t.demands, t.setHandle(created)
		}
		if !errors.Is(err, datastore.ErrAlreadyExists) {
			return nil, fmt.Errorf("write handle %s: %w", t.request.HandleID, err)
		}
		open, err := t.resume(ctx)
		if !errors.Is(err, datastore.ErrNotFound) && !errors.Is(err, datastore.ErrConflict) {
			return open, err
		}
	}
	return nil, fmt.Errorf("write handle %s: %d attempts lost to other writers: %w", t.request.HandleID, commitAttempts, datastore.ErrConflict)
}

// resume takes over a handle that exists: what it holds serves the demands, the rest is added.
func (t *task) resume(ctx context.Context) ([]*demand, error) {
	h, err := t.a.readHandle(ctx, t.request.HandleID)
	if err != nil {
		return nil, err
	}
	t.handle = h
	var open []*demand
	for _, d := range t.demands {
		done, err := t.findHeld(ctx, d)
		if err != nil {
			return nil, err
		}
		if !done {
			open = append(open, d)
		}
	}
	for _, d := range open {
		if err := t.addToHandle(ctx, d.choice.cidr); err != nil {
			return nil, err
		}
	}
	return open, nil
}

// findHeld looks for an address of d's family that the handle has.
func (t *task) findHeld(ctx context.Context, d *demand) (bool, error) {
	for _, cidr := range handleBlocks(t.handle) {
		if model.FamilyOf(cidr.Addr()) != d.family {
			continue
		}
		s, err := t.a.blocks.read(ctx, cidr)
		if errors.Is(err, datastore.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, held := range s.block.Held(t.request.HandleID) {
			if d.fixed.IsValid() && held.Addr != d.fixed {
				return false, fmt.Errorf("the handle holds %v and cannot have %v as well: release it first", held.Addr, d.fixed)
			}
			d.got = AssignedAddress{Addr: held.Addr, Block: cidr, Pool: t.poolName(held.Addr), Sequence: held.Sequence}
			return true, nil
		}
	}
	return false, nil
}

func (t *task) poolName(a netip.Addr) string {
	for _, p := range t.cluster.Pools {
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && cidr.Contains(a) {
			return p.Name
		}
	}
	return ""
}

// addToHandle has the handle name a block before the block names the handle. Entries for blocks
// that then had no address stay: a release makes sure of each of them.
func (t *task) addToHandle(ctx context.Context, cidr netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handle.Spec.Block[cidr.String()] > 0 {
		return nil
	}
	h := t.handle.DeepCopy()
	if h.Spec.Block == nil {
		h.Spec.Block = map[string]int{}
	}
	if h.Annotations[AnnotationNode] == "" {
		if h.Annotations == nil {
			h.Annotations = map[string]string{}
		}
		h.Annotations[AnnotationNode] = t.a.node
	}
	h.Spec.Block[cidr.String()] = 1
	updated, err := t.a.store.Update(ctx, h)
	if err != nil {
		return fmt.Errorf("write handle %s: %w", t.request.HandleID, err)
	}
	return t.setHandle(updated)
}

func (t *task) setHandle(o v3.Object) error {
	h, ok := o.(*v3.IPAMHandle)
	if !ok {
		return fmt.Errorf("write handle %s: the store returned %T", t.request.HandleID, o)
	}
	t.handle = h
	return nil
}

func (a *Allocator) readHandle(ctx context.Context, id string) (*v3.IPAMHandle, error) {
	o, err := a.store.Get(ctx, handleKey(id))
	if err != nil {
		return nil, fmt.Errorf("read handle %s: %w", id, err)
	}
	h, ok := o.(*v3.IPAMHandle)
	if !ok {
		return nil, fmt.Errorf("read handle %s: the store returned %T", id, o)
	}
	if h.Spec.HandleID != id {
		return nil, fmt.Errorf("read handle %s: the resource %s belongs to handle %s", id, h.Name, h.Spec.HandleID)
	}
	return h, nil
}

// handleBlocks returns the blocks that a handle names; what is no CIDR is left out.
func handleBlocks(h *v3.IPAMHandle) []netip.Prefix {
	var cidrs []netip.Prefix
	for s := range h.Spec.Block {
		if cidr, err := netip.ParsePrefix(s); err == nil {
			cidrs = append(cidrs, cidr)
		}
	}
	return cidrs
}

// keyedLock has one lock for each key. Its zero value works.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	token chan struct{}
	users int
}

// lock returns with the lock of key, or when ctx ends.
func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyLock{token: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
