// Package storetest holds a datastore.Store to its contract, whatever it is made of: the tests of each
// driver run this suite against the real thing, by a connection that can be broken.
package storetest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Recorder is a datastore.Sink that keeps everything. Its fields are for functions given to Wait, and for when
// nothing follows any more.
type Recorder struct {
	mu      sync.Mutex
	States  []string
	Changes []datastore.Change
	Batches int
	Why     error // the store was away last
	notify  chan struct{}
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return &Recorder{notify: make(chan struct{}, 1)} }

// Away is what LastState says when the store is away.
const Away = string(datastore.StateWait) + " (away)"

// OnState implements datastore.Sink.
func (r *Recorder) OnState(s datastore.State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := string(s)
	if err != nil {
		text += " (away)"
		r.Why = err
	}
	r.States = append(r.States, text)
	r.wake()
}

// OnChanges implements datastore.Sink.
func (r *Recorder) OnChanges(c []datastore.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Batches++
	r.Changes = append(r.Changes, c...)
	r.wake()
}

func (r *Recorder) wake() {
	select {
	case r.notify <- struct{}{}:
	default:
	}
}

// Wait blocks until ok, which sees the recorder locked.
func (r *Recorder) Wait(t testing.TB, what string, limit time.Duration, ok func(*Recorder) bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		done := ok(r)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.notify:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("%s: not within %v; states %v, last away for %v; %d changes", what, limit, r.States[max(0, len(r.States)-20):], r.Why, len(r.Changes))
		}
	}
}

// LastState is the state told last, "" for none.
func (r *Recorder) LastState() string {
	if len(r.States) == 0 {
		return ""
	}
	return r.States[len(r.States)-1]
}

// InSync tells that all is delivered.
func (r *Recorder) InSync() bool { return r.LastState() == string(datastore.StateInSync) }

// Logger tells what happens in a verbose test; else it is nil.
func Logger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// Follow runs datastore.Follow until the test ends, or until stop is called.
func Follow(t testing.TB, s datastore.Store, sink datastore.Sink, kinds ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- datastore.Follow(ctx, s, kinds, sink, datastore.FollowOptions{Logger: Logger(t)}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow returned %v, want context canceled", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Must returns v, or ends the test.
func Must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Pool returns an IPPool.
func Pool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{TypeMeta: typeMeta(v3.KindIPPool), ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.IPPoolSpec{CIDR: cidr}}
}

// Node returns a Node without addresses.
func Node(name string, labels map[string]string) *v3.Node {
	return &v3.Node{TypeMeta: typeMeta(v3.KindNode), ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// Reservation returns an IPReservation.
func Reservation(name string, cidrs ...string) *v3.IPReservation {
	return &v3.IPReservation{TypeMeta: typeMeta(v3.KindIPReservation), ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v3.IPReservationSpec{ReservedCIDRs: cidrs}}
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v3.Group + "/" + v3.Version, Kind: kind}
}
