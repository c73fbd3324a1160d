package ipam

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func TestRetake(t *testing.T) {
	t.Parallel()
	store := startEtcd(t, false)
	ctx := context.Background()
	addPool(t, store, "p", "10.0.0.0/24", nil)
	addConfig(t, store, v3.IPAMConfigurationSpec{IPCooldownSeconds: 600, StrictAffinity: true})
	a, b := newAllocator(t, store, "a", Options{InUse: func(netip.Addr) bool { return true }}), newAllocator(t, store, "b", Options{})
	other := newAllocator(t, store, "c", Options{})
	p := pod()
	ip := mustAssign(t, b, p).Addresses[0].Addr
	p.Addresses = []netip.Addr{ip}
	if got, err := b.Retake(ctx, p); err != nil || len(got) != 0 {
		t.Errorf("of an address that is held: got %v, %v", got, err)
	}
	for _, c := range []struct {
		name string
		lose func()
		by   *Allocator
	}{
		{"released, and cooling down", func() { _, _ = other.Release(ctx, p.HandleID) }, b},
		{"released, by a node that has not the block", func() { _, _ = other.Release(ctx, p.HandleID) }, a},
		{"the block is gone", func() {
			_, _ = other.Release(ctx, p.HandleID)
			deleteAll(t, store, v3.KindIPAMBlock, v3.KindBlockAffinity)
		}, b},
		{"the handle's record is gone", func() { deleteAll(t, store, v3.KindIPAMHandle) }, b},
	} {
		c.lose()
		got, err := c.by.Retake(ctx, p)
		if err != nil || len(got) != 1 || got[0] != ip {
			t.Errorf("%s: got %v, %v", c.name, got, err)
		}
		noProblems(t, store, 1)
		if got, err = c.by.Retake(ctx, p); err != nil || len(got) != 0 {
			t.Errorf("%s, again: got %v, %v", c.name, got, err)
		}
	}
	thief := pod(func(r *Request) { r.Addresses = []netip.Addr{ip} })
	var taken *TakenError
	if _, err := b.Retake(ctx, thief); !errors.As(err, &taken) || taken.Owner != "pod default/"+p.Pod || taken.Addr != ip {
		t.Errorf("of another owner's address: got %v", err)
	}
	noProblems(t, store, 1) // not even a handle
	far := pod(func(r *Request) { r.Addresses = []netip.Addr{addr("192.0.2.1")} })
	if _, err := b.Retake(ctx, far); err == nil {
		t.Error("an address of no pool was taken")
	}
	noProblems(t, store, 1)
}

func deleteAll(t *testing.T, store datastore.Store, kinds ...string) {
	t.Helper()
	l, err := store.List(context.Background(), kinds...)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Items {
		if err := store.Delete(context.Background(), datastore.KeyOf(o), datastore.Precondition{}); err != nil {
			t.Fatal(err)
		}
	}
}
