package rotation

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// fakeStore holds FelixConfigurations and Nodes, with revisions that Update compares.
type fakeStore struct {
	datastore.Store // what is not asked for here
	mu              sync.Mutex
	felix           *v3.FelixConfiguration
	nodes           []*v3.Node
	revision        int
	writes          int
	read            func() // after each List
}

func (s *fakeStore) List(context.Context, ...string) (*datastore.List, error) {
	s.mu.Lock()
	var l datastore.List
	if s.felix != nil {
		l.Items = append(l.Items, s.felix.DeepCopy())
	}
	for _, n := range s.nodes {
		l.Items = append(l.Items, n.DeepCopy())
	}
	s.mu.Unlock()
	if s.read != nil {
		s.read()
	}
	return &l, nil
}

func (s *fakeStore) Update(_ context.Context, o v3.Object) (v3.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.GetResourceVersion() != s.felix.ResourceVersion {
		return nil, datastore.ErrConflict
	}
	s.revision++
	s.writes++
	s.felix = o.(*v3.FelixConfiguration).DeepCopy()
	s.felix.ResourceVersion = strconv.Itoa(s.revision)
	return s.felix, nil
}

// follow makes every node's key be of the current epoch alone, or of the one before, too.
func (s *fakeStore) follow(done bool) {
	epoch := 0
	if s.felix.Spec.WireguardKeyEpoch != nil {
		epoch = *s.felix.Spec.WireguardKeyEpoch
	}
	for _, n := range s.nodes {
		n.Status.WireguardKeys = []v3.NodeKey{{Epoch: epoch}}
		if !done {
			n.Status.WireguardKeys = append(n.Status.WireguardKeys, v3.NodeKey{Epoch: epoch - 1})
		}
	}
}

func newFakeStore(period time.Duration) *fakeStore {
	on := true
	s := &fakeStore{felix: &v3.FelixConfiguration{}}
	s.felix.Name, s.felix.Spec.WireguardEnabled = "default", &on
	s.felix.Spec.WireguardKeyRotationPeriod = &metav1.Duration{Duration: period}
	for i := range 3 {
		n := &v3.Node{}
		n.Name = fmt.Sprint("n", i)
		s.nodes = append(s.nodes, n)
	}
	s.follow(true)
	return s
}

// TestFollow goes through two periods, of which the second ends while a node still has an old key.
func TestFollow(t *testing.T) {
	s := newFakeStore(24 * time.Hour)
	day := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		what   string
		after  time.Duration
		before func()
		wait   time.Duration
		epoch  int
		mark   string
		writes int
		notYet string
	}{
		{what: "nobody knows since when: from here on", wait: 24 * time.Hour, mark: "0 2026-11-22T12:00:00Z", writes: 1},
		{what: "not due", after: 23 * time.Hour, wait: time.Hour, mark: "0 2026-11-22T12:00:00Z", writes: 1},
		{what: "due", after: 24 * time.Hour, wait: 24 * time.Hour, epoch: 1, mark: "1 2026-11-23T12:00:00Z", writes: 2},
		{what: "not again", after: 24*time.Hour + time.Second, wait: 24*time.Hour - time.Second, epoch: 1, mark: "1 2026-11-23T12:00:00Z", writes: 2},
		{what: "due, under way", after: 49 * time.Hour, before: func() { s.follow(false) }, epoch: 1, mark: "1 2026-11-23T12:00:00Z", writes: 2,
			notYet: "the keys are due to rotate: the rotation to epoch 1 is under way: 3 of 3 nodes"},
		{what: "due, over", after: 50 * time.Hour, before: func() { s.follow(true) }, wait: 24 * time.Hour, epoch: 2, mark: "2 2026-11-24T14:00:00Z", writes: 3},
		{what: "somebody sets another epoch: from there on", after: 80 * time.Hour, before: func() { e := 7; s.felix.Spec.WireguardKeyEpoch = &e; s.follow(true) },
			wait: 24 * time.Hour, epoch: 7, mark: "7 2026-11-25T20:00:00Z", writes: 4},
		{what: "switched off", after: 500 * time.Hour, before: func() { s.felix.Spec.WireguardKeyRotationPeriod.Duration = 0 }, epoch: 7, mark: "7 2026-11-25T20:00:00Z", writes: 4},
	} {
		if step.before != nil {
			step.before()
		}
		wait, _, err := Follow(t.Context(), s, day.Add(step.after), 0)
		var notYet *NotYetError
		if errors.As(err, &notYet) != (step.notYet != "") || err != nil && !strings.Contains(err.Error(), cmpText(step.notYet)) {
			t.Errorf("%s: error %v, want %q", step.what, err, step.notYet)
		}
		epoch := 0
		if e := s.felix.Spec.WireguardKeyEpoch; e != nil {
			epoch = *e
		}
		if wait != step.wait || epoch != step.epoch || s.felix.Annotations[Mark] != step.mark || s.writes != step.writes {
			t.Errorf("%s: wait %v, epoch %d, mark %q, %d writes; want %v, %d, %q, %d", step.what, wait, epoch, s.felix.Annotations[Mark], s.writes,
				step.wait, step.epoch, step.mark, step.writes)
		}
		s.follow(true)
	}
}

// cmpText is what an error must contain; of none, something that none has.
func cmpText(want string) string {
	if want == "" {
		return "\x00"
	}
	return want
}

// TestOneOfManyBegins: of 20 nodes that find the keys due at the same moment one begins the next epoch.
func TestOneOfManyBegins(t *testing.T) {
	const nodes = 20
	s := newFakeStore(time.Hour)
	now := time.Now()
	mark(s.felix, 0, now.Add(-2*time.Hour))
	var ready, done sync.WaitGroup
	ready.Add(nodes)
	s.read = func() { ready.Done(); ready.Wait() } // all have read before anybody writes
	var mu sync.Mutex
	begun := 0
	for range nodes {
		done.Go(func() {
			_, step, err := Follow(t.Context(), s, now, 0)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if step != nil {
				begun++
			}
		})
	}
	done.Wait()
	if begun != 1 || s.writes != 1 || *s.felix.Spec.WireguardKeyEpoch != 1 {
		t.Errorf("%d of %d began, %d writes, epoch %d; want one", begun, nodes, s.writes, *s.felix.Spec.WireguardKeyEpoch)
	}
}
