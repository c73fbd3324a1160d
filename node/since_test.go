package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// TestSinceProperty: over any sequence of events, what a snapshot says of its difference from the last
// one leaves nothing out, and no snapshot changes afterwards.
func TestSinceProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newTestClusterFor(t)
		var last, lastCopy *model.Snapshot
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				name := fmt.Sprint("n", rapid.IntRange(1, 4).Draw(t, "name"))
				ch := datastore.Change{Key: datastore.Key{Kind: "Node", Name: name}}
				if rapid.IntRange(0, 3).Draw(t, "gone") > 0 {
					o := &v3.Node{}
					o.Name = name
					o.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: fmt.Sprintf("172.31.1.%d/24", rapid.IntRange(1, 3).Draw(t, "addr"))}
					ch.Object = o
				}
				c.OnChanges([]datastore.Change{ch})
			},
			"block": func(t *rapid.T) {
				i := rapid.IntRange(0, 3).Draw(t, "block")
				ch := datastore.Change{Key: datastore.Key{Kind: "IPAMBlock", Name: fmt.Sprintf("10-244-%d-0-30", i)}}
				if rapid.IntRange(0, 3).Draw(t, "gone") > 0 {
					o, host := &v3.IPAMBlock{}, fmt.Sprint("host:n", rapid.IntRange(1, 4).Draw(t, "owner"))
					o.Name, o.Spec.CIDR, o.Spec.Affinity = ch.Key.Name, fmt.Sprintf("10.244.%d.0/30", i), &host
					ch.Object = o
				}
				c.OnChanges([]datastore.Change{ch})
			},
			"other reader": func(t *rapid.T) { c.snapshot() },
			"next": func(t *rapid.T) {
				s, _, ok := c.next()
				if !ok {
					t.Fatal("no snapshot")
				}
				if last != nil {
					if !maps.Equal(last.Nodes, lastCopy.Nodes) || !maps.Equal(last.Blocks, lastCopy.Blocks) {
						t.Fatal("a snapshot changed after it was handed out")
					}
					if s.Since == nil || s.Since.Generation != last.Generation {
						t.Fatalf("since %v, want since %d", s.Since, last.Generation)
					}
					for n := range keysOfBoth(last.Nodes, s.Nodes) {
						if last.Nodes[n] != s.Nodes[n] && !slices.Contains(s.Since.Nodes, n) {
							t.Fatalf("node %s differs, only %v are named", n, s.Since.Nodes)
						}
					}
					for p := range keysOfBoth(last.Blocks, s.Blocks) {
						if last.Blocks[p] != s.Blocks[p] && !slices.Contains(s.Since.Blocks, p) {
							t.Fatalf("block %v differs, only %v are named", p, s.Since.Blocks)
						}
					}
				}
				last, lastCopy = s, &model.Snapshot{Nodes: maps.Clone(s.Nodes), Blocks: maps.Clone(s.Blocks)}
			},
		})
	})
}

func newTestClusterFor(t *rapid.T) *cluster {
	c := newTestCluster()
	c.OnState(datastore.StateInSync, nil)
	if _, _, ok := c.snapshot(); !ok {
		t.Fatal("not in sync")
	}
	return c
}

func keysOfBoth[K comparable, V any](a, b map[K]V) map[K]bool {
	keys := map[K]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	return keys
}

// Who does not ask for long has to compare.
func TestSinceIsBounded(t *testing.T) {
	c := newTestCluster()
	c.OnState(datastore.StateInSync, nil)
	c.next()
	for range maxNoted {
		c.noteBlock(netip.MustParsePrefix("10.0.0.0/26"))
	}
	c.noteNode("n1")
	if s, _, _ := c.next(); s.Since != nil {
		t.Errorf("got %d blocks named, want none", len(s.Since.Blocks))
	}
	if s, _, _ := c.next(); s.Since == nil {
		t.Error("the next one tells nothing either")
	}
}
