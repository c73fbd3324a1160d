package accept

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/kube"
	"weft/node/status"
)

// Entry is a resource that is not honoured, all of it.
type Entry struct {
	Key      datastore.Key
	Problems []Problem
}

// Book keeps, of all that a store holds, what is not honoured. It is a datastore.Sink for the kinds of Kinds, Foreign and
// Needed, and may be fed others. What is well costs it nothing but tiers, filters and pools.
type Book struct {
	oneSecret bool

	mu     sync.Mutex
	judged map[datastore.Key]Judgement // with problems or needs
	there  map[datastore.Key]bool      // tiers and filters
	pools  map[string]*v3.IPPool
}

// NewBook returns an empty Book of a store; on Kubernetes nodes may read one Secret alone.
func NewBook(kubernetes bool) *Book {
	return &Book{oneSecret: kubernetes, judged: map[datastore.Key]Judgement{}, there: map[datastore.Key]bool{}, pools: map[string]*v3.IPPool{}}
}

// Read returns the Book of a list.
func Read(l *datastore.List, kubernetes bool) *Book {
	b := NewBook(kubernetes)
	for _, o := range l.Items {
		b.take(datastore.Change{Key: datastore.KeyOf(o), Object: o})
	}
	for _, r := range l.Rejected {
		b.take(datastore.Change{Key: r.Key, Err: r.Err})
	}
	return b
}

// OnState implements datastore.Sink.
func (b *Book) OnState(datastore.State, error) {}

// OnChanges implements datastore.Sink.
func (b *Book) OnChanges(changes []datastore.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range changes {
		b.take(c)
	}
}

func (b *Book) take(c datastore.Change) {
	if !judges(c.Key.Kind) {
		return
	}
	switch c.Key.Kind {
	case v3.KindTier, v3.KindBGPFilter:
		if c.Object == nil && c.Err == nil {
			delete(b.there, c.Key)
		} else {
			b.there[c.Key] = true
		}
	case v3.KindIPPool:
		if p, ok := c.Object.(*v3.IPPool); ok {
			b.pools[c.Key.Name] = p
		} else {
			delete(b.pools, c.Key.Name)
		}
	}
	var j Judgement
	switch {
	case c.Err != nil:
		j = Refused(c.Err)
	case c.Object != nil:
		j = Judge(c.Object)
	}
	if len(j.Problems)+len(j.Needs) == 0 {
		delete(b.judged, c.Key)
	} else {
		b.judged[c.Key] = j
	}
}

// judges tells whether a kind is one of Kinds, Foreign and Needed. It is asked of every change of a store.
func judges(kind string) bool {
	switch kind {
	case v3.KindNetworkPolicy, v3.KindGlobalNetworkPolicy, v3.KindStagedNetworkPolicy, v3.KindStagedGlobalNetworkPolicy, v3.KindStagedKubernetesNetworkPolicy,
		v3.KindTier, v3.KindProfile, v3.KindBGPPeer, v3.KindBGPConfiguration, v3.KindFelixConfiguration, v3.KindKubeControllersConfiguration, v3.KindIPPool,
		v3.KindKubernetesNetworkPolicy, v3.KindClusterNetworkPolicy, v3.KindBGPFilter:
		return true
	}
	return false
}

// Problems returns what is not honoured of a resource; the worst comes first.
func (b *Book) Problems(k datastore.Key) []Problem {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.problems(k)
}

func (b *Book) problems(k datastore.Key) []Problem {
	j := b.judged[k]
	out := slices.Clone(j.Problems)
	for _, n := range j.Needs {
		if !b.has(n.Key) {
			out = append(out, n.Problem)
		}
	}
	if p := b.pools[k.Name]; p != nil && k.Kind == v3.KindIPPool {
		if overlap, is := Overlap(p, b.pools); is {
			out = append(out, overlap)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return cmp.Compare(weight(a.Reason), weight(b.Reason)) })
	return out
}

func (b *Book) has(k datastore.Key) bool {
	if k.Kind == v3.KindSecret {
		return !b.oneSecret || k.Name == kube.BGPSecret
	}
	return b.there[k]
}

// weight orders reasons: what is of no effect at all before what is in part.
func weight(reason string) int {
	return slices.Index([]string{v3.ReasonInvalid, v3.PoolReasonCIDROverlap, v3.ReasonNotFound, v3.ReasonUnsupported}, reason)
}

// Naming returns the keys of the resources that name a tier or a filter.
func (b *Book) Naming(k datastore.Key) []datastore.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []datastore.Key
	for by, j := range b.judged {
		if slices.ContainsFunc(j.Needs, func(n Need) bool { return n.Key == k }) {
			out = append(out, by)
		}
	}
	return out
}

// Told returns entries as a status tells them.
func Told(entries []Entry) []status.NotAccepted {
	var out []status.NotAccepted
	for _, e := range entries {
		c := Condition(e.Problems, 0)
		out = append(out, status.NotAccepted{Resource: e.Key.String(), Reason: c.Reason, Message: c.Message})
	}
	return out
}

// Entries returns all that is not honoured, sorted.
func (b *Book) Entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys := maps.Clone(b.judged)
	for name := range b.pools {
		keys[datastore.Key{Kind: v3.KindIPPool, Name: name}] = Judgement{}
	}
	var out []Entry
	for k := range keys {
		if p := b.problems(k); len(p) > 0 {
			out = append(out, Entry{k, p})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out
}
