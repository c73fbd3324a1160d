package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/node/datastore"
	"weft/node/ipam"
)

// eventually waits for what f says to be true, and says how long that took.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// holder returns the handle that the store says has an address.
func (r *rig) holder(a netip.Addr) string {
	r.t.Helper()
	l, err := r.store.List(context.Background(), v3.KindIPAMBlock)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range l.Items {
		cidr, holders, err := ipam.Holders(o.(*v3.IPAMBlock))
		if err == nil && cidr.Contains(a) {
			return holders[a]
		}
	}
	return ""
}

// lookRecord returns the record of a pod, nil when there is none.
func (r *rig) lookRecord(pod string) *v3.WorkloadEndpoint {
	r.t.Helper()
	o, err := r.store.Get(context.Background(), datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: "default", Name: recordName(testNodeName, "k8s", pod, "eth0")})
	if err != nil && !errors.Is(err, datastore.ErrNotFound) {
		r.t.Fatal(err)
	}
	w, _ := o.(*v3.WorkloadEndpoint)
	return w
}

func (r *rig) deleteRecord(pod string) {
	r.t.Helper()
	k := datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: "default", Name: recordName(testNodeName, "k8s", pod, "eth0")}
	if err := r.store.Delete(context.Background(), k, datastore.Precondition{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) problems() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "problems"))
	return string(b)
}

// What the store loses of a pod that is attached comes back: from what the watch showed, or, after a restart of the
// node, from the journal.
func TestNodeKeepsItsRecords(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	r.configure("1.1.0", map[string]any{"args": map[string]any{
		"cni":  map[string]any{"labels": []map[string]string{{"key": "app", "value": "web"}}},
		"weft": map[string]any{"serviceAccount": "robot", "annotations": map[string]string{"note": "x"}, "ports": []map[string]any{{"name": "http", "port": 80}}},
	}})
	rt := r.runtime("c1", "p", testkit.NewNetns(t).Path)
	res := r.mustAdd(rt)
	v4, v6 := addrOf(t, res, true), addrOf(t, res, false)
	want := r.lookRecord("p")
	same := func() error {
		w := r.lookRecord("p")
		if w == nil {
			return errors.New("there is no record")
		}
		if !reflect.DeepEqual(w.Spec, want.Spec) || !reflect.DeepEqual(w.Labels, want.Labels) || !reflect.DeepEqual(w.Annotations, want.Annotations) {
			return fmt.Errorf("got %+v, want %+v", w, want)
		}
		for _, a := range []netip.Addr{v4, v6} {
			if h := r.holder(a); h != "weft.c1" {
				return fmt.Errorf("%v is held by %q", a, h)
			}
		}
		return nil
	}
	if err := same(); err != nil {
		t.Fatal(err)
	}

	r.deleteRecord("p")
	t.Logf("a deleted record was there again after %v", eventually(t, 20*time.Second, "record", same))

	alloc := ipam.New(r.store, "elsewhere", ipam.Options{})
	defer alloc.Close()
	if n, err := alloc.Release(context.Background(), "weft.c1"); err != nil {
		t.Fatalf("%d released, %v", n, err)
	}
	t.Logf("released addresses were taken again after %v", eventually(t, 20*time.Second, "addresses", same))

	r.node.stop(t)
	r.deleteRecord("p")
	for _, k := range []string{v3.KindIPAMBlock, v3.KindIPAMHandle, v3.KindBlockAffinity} { // as if the store had been put back
		l, err := r.store.List(context.Background(), k)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Items {
			if err := r.store.Delete(context.Background(), datastore.KeyOf(o), datastore.Precondition{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.start(testNode{})
	t.Logf("record and addresses lost while the node was dead were there again after %v", eventually(t, 20*time.Second, "all", same))
	if err := r.check(rt); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := r.del(rt); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(1)
}

// An address that another owner has is a problem that names both, and the record does not come back: it would give
// the other one what policy allows the pod.
func TestNodeTellsOfAnAddressThatAnotherHas(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	rt := r.runtime("c1", "p", testkit.NewNetns(t).Path)
	v4 := addrOf(t, r.mustAdd(rt), true)
	r.node.stop(t)
	alloc := ipam.New(r.store, "n-2", ipam.Options{})
	defer alloc.Close()
	ctx := context.Background()
	if _, err := alloc.Release(ctx, "weft.c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := alloc.Assign(ctx, ipam.Request{HandleID: "weft.other", Namespace: "default", Pod: "thief", Addresses: []netip.Addr{v4}}); err != nil {
		t.Fatal(err)
	}
	r.deleteRecord("p")
	r.start(testNode{})
	eventually(t, 20*time.Second, "problem", func() error {
		p := r.problems()
		for _, part := range []string{"default/p", "default/thief", v4.String(), "n-2"} {
			if !strings.Contains(p, part) {
				return fmt.Errorf("the problems are %q, without %q", p, part)
			}
		}
		return nil
	})
	if w := r.lookRecord("p"); w != nil {
		t.Errorf("the record is back although %v belongs to another pod", v4)
	}
	if h := r.holder(v4); h != "weft.other" {
		t.Errorf("%v is held by %q", v4, h)
	}
	if _, err := alloc.Release(ctx, "weft.other"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "all well again", func() error {
		if h, p := r.holder(v4), r.problems(); h != "weft.c1" || p != "" || r.lookRecord("p") == nil {
			return fmt.Errorf("%v is held by %q, problems are %q", v4, h, p)
		}
		return nil
	})
	if err := r.del(rt); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(1)
}

// A DEL that meets the Keeper wins: whatever is deleted around it, nothing is left of a pod that is gone.
func TestDELWinsAgainstTheKeeper(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	const pods = 25
	for i := range pods {
		ns := testkit.NewNetns(t)
		rt := r.runtime(fmt.Sprint("c", i), fmt.Sprint("p", i), ns.Path)
		r.mustAdd(rt)
		gone := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(i%5) * 3 * time.Millisecond)
			gone <- r.del(rt)
		}()
		k := datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: "default", Name: recordName(testNodeName, "k8s", rt.Args[2][1], "eth0")}
		for range 3 {
			if err := r.store.Delete(context.Background(), k, datastore.Precondition{}); err != nil && !errors.Is(err, datastore.ErrNotFound) {
				t.Error(err)
			}
			time.Sleep(3 * time.Millisecond)
		}
		if err := <-gone; err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	time.Sleep(300 * time.Millisecond) // what the Keeper were to write late would be there
	r.nothingLeft(pods)
}

// Somebody who deletes again and again is not fought with, and is a problem.
func TestKeeperDoesNotFight(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	rt := r.runtime("c1", "p", testkit.NewNetns(t).Path)
	r.mustAdd(rt)
	rewritten := 0
	for start := time.Now(); time.Since(start) < 3*time.Second; time.Sleep(5 * time.Millisecond) {
		if r.lookRecord("p") != nil {
			rewritten++
			r.deleteRecord("p")
		}
	}
	t.Logf("deleted %d times in 3 s", rewritten)
	if rewritten < 3 || rewritten > 5 { // the first, and what the brake lets through
		t.Errorf("the record was there %d times", rewritten)
	}
	eventually(t, 20*time.Second, "problem", func() error {
		if p := r.problems(); !strings.Contains(p, "find out who") {
			return fmt.Errorf("the problems are %q", p)
		}
		return nil
	})
	if err := r.del(rt); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(1)
}

// Where the store makes the records of pods itself, one that is absent stays so, and one that is wrong is put right.
func TestDerivedRecordsAreNotMade(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{Derived: true})
	rt := r.runtime("c1", "p", testkit.NewNetns(t).Path)
	v4 := addrOf(t, r.mustAdd(rt), true)
	w := r.lookRecord("p")
	w.Spec.ContainerID, w.ResourceVersion = "another", ""
	if _, err := r.store.Update(context.Background(), w); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "record", func() error {
		if w := r.lookRecord("p"); w == nil || w.Spec.ContainerID != "c1" {
			return fmt.Errorf("got %v", w)
		}
		return nil
	})
	r.deleteRecord("p")
	alloc := ipam.New(r.store, "elsewhere", ipam.Options{})
	defer alloc.Close()
	if _, err := alloc.Release(context.Background(), "weft.c1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "address", func() error {
		if h := r.holder(v4); h != "weft.c1" {
			return fmt.Errorf("%v is held by %q", v4, h)
		}
		return nil
	})
	if w := r.lookRecord("p"); w != nil {
		t.Errorf("the record was made: %v", w)
	}
	if err := r.del(rt); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(1)
}
