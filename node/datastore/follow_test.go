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
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a Store whose List and Watch do what a test says, one entry a call; after the last,
// Watch waits for ctx to end. It has no Stream.
type script struct {
	datastore.Store
	mu      sync.Mutex
	lists   []func() (*datastore.List, error)
	watches []func(rev string, f func([]datastore.Change) error) error
	calls   []string
}

func (s *script) note(format string, a ...any) {
	s.calls = append(s.calls, fmt.Sprintf(format, a...))
}

func (s *script) List(context.Context, ...string) (*datastore.List, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("list")
	if len(s.lists) == 0 {
		return nil, errors.New("no more lists")
	}
	l := s.lists[0]
	s.lists = s.lists[1:]
	return l()
}

func (s *script) Watch(ctx context.Context, rev string, _ []string, f func([]datastore.Change) error) error {
	s.mu.Lock()
	s.note("watch %s", rev)
	if len(s.watches) == 0 {
		s.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	w := s.watches[0]
	s.watches = s.watches[1:]
	s.mu.Unlock()
	return w(rev, f)
}

// streamer is a script that can stream.
type streamer struct {
	*script
	streams []func(rev string, f func(datastore.Batch) error) error
}

func (s *streamer) Stream(ctx context.Context, rev string, kinds []string, f func(datastore.Batch) error) error {
	s.mu.Lock()
	if len(s.streams) == 0 {
		s.mu.Unlock()
		return s.Watch(ctx, rev, kinds, func([]datastore.Change) error { return nil })
	}
	s.note("stream %s", rev)
	w := s.streams[0]
	s.streams = s.streams[1:]
	s.mu.Unlock()
	return w(rev, f)
}

// pager is a script whose lists come in pages; an error among them ends the list.
type pager struct {
	*script
	pages []any
}

func (p *pager) ListPages(_ context.Context, _ []string, f func(*datastore.List)) error {
	p.mu.Lock()
	p.note("pages")
	pages := p.pages
	p.pages = nil
	p.mu.Unlock()
	for _, l := range pages {
		if err, bad := l.(error); bad {
			return err
		}
		f(l.(*datastore.List))
	}
	return nil
}

// sink writes down what it gets.
type sink struct{ log []string }

func (s *sink) OnState(st datastore.State, err error) {
	line := string(st)
	if err != nil {
		line += ": " + err.Error()
	}
	s.log = append(s.log, line)
}

func (s *sink) OnChanges(c []datastore.Change) {
	var parts []string
	for _, c := range c {
		switch {
		case c.Err != nil:
			parts = append(parts, "reject "+c.Key.Name)
		case c.Object == nil:
			parts = append(parts, "delete "+c.Key.Name)
		default:
			parts = append(parts, "put "+c.Key.Name+"@"+c.Revision)
		}
	}
	s.log = append(s.log, strings.Join(parts, ", "))
}

func obj(name, rev string) v3.Object {
	return &v3.Node{TypeMeta: metav1.TypeMeta{Kind: v3.KindNode}, ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: rev}}
}

func key(name string) datastore.Key { return datastore.Key{Kind: v3.KindNode, Name: name} }

func lists(ls ...any) (out []func() (*datastore.List, error)) {
	for _, l := range ls {
		out = append(out, func() (*datastore.List, error) {
			if err, bad := l.(error); bad {
				return nil, err
			}
			return l.(*datastore.List), nil
		})
	}
	return out
}

// run follows for d of fake time and returns what the sink got.
func run(t *testing.T, store datastore.Store, d time.Duration) []string {
	t.Helper()
	s := &sink{}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := datastore.Follow(ctx, store, []string{v3.KindNode}, s, datastore.FollowOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Follow returned %v, want the context's error", err)
	}
	return s.log
}

var errAway = errors.New("away")

func TestFollowDelivers(t *testing.T) {
	bad := datastore.Rejection{Key: key("bad"), Err: errors.New("bad"), Revision: "3"}
	first := &datastore.List{Items: []v3.Object{obj("a", "1"), obj("b", "2")}, Rejected: []datastore.Rejection{bad}, Revision: "5", History: "h"}
	second := &datastore.List{Items: []v3.Object{obj("a", "1"), obj("c", "8")}, Rejected: []datastore.Rejection{bad}, Revision: "9", History: "h"}
	other := &datastore.List{Items: []v3.Object{obj("a", "1")}, Revision: "2", History: "x"}
	const wait, resync, sync = "wait-for-datastore", "resync-in-progress", "in-sync"
	type batch = datastore.Batch
	for _, tc := range []struct {
		name  string
		store func() datastore.Store
		calls string
		want  []string
	}{
		{
			"a plain watch that is lost costs a list, which brings only what differs",
			func() datastore.Store {
				return &script{lists: lists(first, second), watches: []func(string, func([]datastore.Change) error) error{
					func(_ string, f func([]datastore.Change) error) error {
						_ = f([]datastore.Change{{Key: key("d"), Object: obj("d", "6"), Revision: "6"}, {Key: key("b"), Revision: "7"}})
						return errAway
					}}}
			},
			"list, watch 5, list, watch 9",
			[]string{wait, resync, "put a@1, put b@2, reject bad", sync, "put d@6, delete b", wait + ": away", resync, "delete d, put c@8", sync},
		}, {
			"pages are delivered one by one, and all of them are the first snapshot",
			func() datastore.Store {
				empty := &datastore.List{Revision: "5", History: "h"}
				more := &datastore.List{Items: []v3.Object{obj("c", "4")}, Revision: "5", History: "h"}
				return &pager{&script{}, []any{first, empty, more}}
			},
			"pages, watch 5",
			[]string{wait, resync, "put a@1, put b@2, reject bad", "put c@4", sync},
		}, {
			"what came before the pages broke off is compared with the next list",
			func() datastore.Store { return &pager{&script{lists: lists(second)}, []any{first, errAway}} },
			"pages, list, watch 9",
			[]string{wait, resync, "put a@1, put b@2, reject bad", wait + ": away", resync, "delete b, put c@8", sync},
		}, {
			"a stream resumes where it was, and is in sync when it has caught up",
			func() datastore.Store {
				return &streamer{&script{lists: lists(first)}, []func(string, func(batch) error) error{
					func(_ string, f func(batch) error) error {
						_ = f(batch{CaughtUp: true})
						_ = f(batch{Revision: "77"})
						return errAway
					},
					func(_ string, f func(batch) error) error {
						_ = f(batch{Changes: []datastore.Change{{Key: key("a"), Revision: "78"}}, Revision: "78"})
						_ = f(batch{Revision: "80", CaughtUp: true})
						return errAway
					}}}
			},
			"list, stream 5, stream 77, watch 80",
			[]string{wait, resync, "put a@1, put b@2, reject bad", sync, wait + ": away", "delete a", sync, wait + ": away"},
		}, {
			"after a compaction only differences come, and no state but resync",
			func() datastore.Store {
				return &streamer{&script{lists: lists(first, second)}, []func(string, func(batch) error) error{
					func(_ string, f func(batch) error) error {
						_ = f(batch{CaughtUp: true})
						return fmt.Errorf("x: %w", datastore.ErrCompacted)
					}}}
			},
			"list, stream 5, list, watch 9",
			[]string{wait, resync, "put a@1, put b@2, reject bad", sync, resync, "delete b, put c@8", sync},
		}, {
			"another history: equal revisions mean nothing",
			func() datastore.Store {
				return &streamer{&script{lists: lists(first, other)}, []func(string, func(batch) error) error{
					func(string, func(batch) error) error { return datastore.ErrCompacted }}}
			},
			"list, stream 5, list, watch 2",
			[]string{wait, resync, "put a@1, put b@2, reject bad", sync, resync, "delete b, delete bad, put a@1", sync},
		}, {
			"the store is away at first",
			func() datastore.Store { return &script{lists: lists(errAway, errAway, first)} },
			"list, list, list, watch 5",
			[]string{wait, resync, wait + ": away", resync, "put a@1, put b@2, reject bad", sync},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := tc.store()
				got := run(t, store, time.Minute)
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				var s *script
				switch store := store.(type) {
				case *script:
					s = store
				case *streamer:
					s = store.script
				case *pager:
					s = store.script
				}
				if calls := strings.Join(s.calls, ", "); calls != tc.calls {
					t.Errorf("calls %q, want %q", calls, tc.calls)
				}
			})
		})
	}
}

// While the store is away attempts get rarer, up to one in 5 s, and after an outage of any length
// the pause is never longer.
func TestFollowBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		s := &script{}
		for range 1000 {
			s.lists = append(s.lists, func() (*datastore.List, error) {
				at = append(at, time.Now())
				return nil, errAway
			})
		}
		run(t, s, 10*time.Minute)
		for i := 1; i < len(at); i++ {
			d := at[i].Sub(at[i-1])
			if d > 5*time.Second || i < 4 && d > time.Second || i > 8 && d < 2*time.Second {
				t.Errorf("pause %d is %v", i, d)
			}
		}
		if len(at) < 100 || len(at) > 310 {
			t.Errorf("%d attempts in 10 minutes", len(at))
		}
	})
}

// A store that compacts everything at once does not make Follow spin.
func TestFollowDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streamer{script: &script{}}
		for range 2000 {
			s.lists = append(s.lists, lists(&datastore.List{Revision: "1"})...)
			s.streams = append(s.streams, func(string, func(datastore.Batch) error) error { return datastore.ErrCompacted })
		}
		run(t, s, time.Minute)
		if n := len(s.calls); n > 60 {
			t.Errorf("%d calls in a minute", n)
		}
	})
}
