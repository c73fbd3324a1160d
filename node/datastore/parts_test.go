package datastore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// parted is a Store whose kinds are each a script of their own.
type parted struct {
	datastore.Store
	parts map[string]*streamer
	mu    sync.Mutex
	lists []string // in the order in which they were asked for
}

func (p *parted) Partition(kinds []string) [][]string {
	var out [][]string
	for _, k := range kinds {
		out = append(out, []string{k})
	}
	return out
}

func (p *parted) List(ctx context.Context, kinds ...string) (*datastore.List, error) {
	if kinds[0] == v3.KindNode {
		time.Sleep(10 * time.Millisecond) // the others wait for it
	}
	p.mu.Lock()
	p.lists = append(p.lists, strings.Join(kinds, "+"))
	p.mu.Unlock()
	return p.parts[kinds[0]].List(ctx, kinds...)
}

func (p *parted) Watch(ctx context.Context, rev string, kinds []string, f func([]datastore.Change) error) error {
	return p.parts[kinds[0]].Watch(ctx, rev, kinds, f)
}

func (p *parted) Stream(ctx context.Context, rev string, kinds []string, f func(datastore.Batch) error) error {
	return p.parts[kinds[0]].Stream(ctx, rev, kinds, f)
}

// Of kinds without a common revision, one that is away makes the whole be away, one that lost its history is the
// only one listed again, and all of them are in sync before the whole is.
func TestFollowParts(t *testing.T) {
	type batch = datastore.Batch
	list := func(names ...string) *datastore.List {
		l := &datastore.List{Revision: "5", History: "h"}
		for _, n := range names {
			l.Items = append(l.Items, obj(n, "1"))
		}
		return l
	}
	synctest.Test(t, func(t *testing.T) {
		first := &streamer{script: &script{lists: lists(list("a"), list("a", "b"))}, streams: []func(string, func(batch) error) error{
			func(_ string, f func(batch) error) error {
				time.Sleep(time.Second)
				_ = f(batch{CaughtUp: true})
				return fmt.Errorf("x: %w", datastore.ErrCompacted)
			}}}
		second := &streamer{script: &script{lists: lists(errAway, list("c"))}, streams: []func(string, func(batch) error) error{
			func(_ string, f func(batch) error) error {
				_ = f(batch{CaughtUp: true, Changes: []datastore.Change{{Key: key("never"), Revision: "8"}}})
				time.Sleep(5 * time.Second)
				return errAway
			},
			func(_ string, f func(batch) error) error {
				_ = f(batch{CaughtUp: true})
				return errAway
			}}}
		p := &parted{parts: map[string]*streamer{v3.KindNode: first, v3.KindIPPool: second}}
		s := &sink{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := datastore.Follow(ctx, p, []string{v3.KindNode, v3.KindIPPool}, s, datastore.FollowOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Follow returned %v, want the context's error", err)
		}
		const wait, resync, sync = "wait-for-datastore", "resync-in-progress", "in-sync"
		want := []string{wait, resync, "put a@1", wait + ": away", resync, "put c@1", sync,
			resync, "put b@1", sync, wait + ": away", sync, wait + ": away"}
		if diff := cmp.Diff(want, s.log); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if got := strings.Join(p.lists, " "); got != "Node IPPool IPPool Node" {
			t.Errorf("lists of %s: want the first of the second kind after that of the first, and one more of the first", got)
		}
	})
}
