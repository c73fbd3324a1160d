package controllers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// LeaseName is the lease of who acts among several controllers.
const LeaseName = "weft-controllers"

// The timings of the election. A leader that could not renew its lease for leaseDeadline stops; others wait for
// leaseDuration without a sign of it, so that what it was doing has the time between the two to end.
const (
	leaseDuration = 15 * time.Second
	leaseDeadline = 10 * time.Second
	leaseRetry    = 2 * time.Second
)

// timings of an election; the zero value stands for those above.
type timings struct{ duration, deadline, retry time.Duration }

func (t timings) defaults() timings {
	if t == (timings{}) {
		return timings{leaseDuration, leaseDeadline, leaseRetry}
	}
	return t
}

// election has one of several processes act at a time.
type election struct {
	leases   datastore.Leaser
	identity string
	times    timings
	log      *slog.Logger
	changed  func(leads bool)

	mu    sync.Mutex
	seen  datastore.Lease // as last read
	since time.Time       // when it was first seen so
	err   error           // of the last call
	until time.Time       // this process may act; zero: it does not lead
}

func newElection(leases datastore.Leaser, cfg Config, changed func(bool)) *election {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails (package documentation)
	host, _ := os.Hostname()
	return &election{leases: leases, identity: host + "_" + hex.EncodeToString(id), times: cfg.times.defaults(), log: cfg.Log, changed: changed}
}

// run calls lead whenever this process has become the leader, until ctx ends. The context of lead ends when the lease
// could not be renewed; it is given up only when lead has returned.
func (e *election) run(ctx context.Context, lead func(context.Context) error) error {
	for {
		if err := e.campaign(ctx); err != nil {
			return err
		}
		e.log.Info("leads the controllers of this cluster", "identity", e.identity)
		err := e.term(ctx, lead)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !errors.Is(err, errLost):
			return err
		}
		e.log.Warn("does not lead the controllers any more: everything is stopped", "err", err)
	}
}

// errLost: the lease is somebody else's, or could not be renewed.
var errLost = errors.New("the lease was lost")

// campaign returns when this process has the lease.
func (e *election) campaign(ctx context.Context) error {
	for {
		call, cancel := context.WithTimeout(ctx, e.times.deadline)
		won, err := e.try(call)
		cancel()
		e.note(err)
		if won {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(e.times.retry):
		}
	}
}

// try reads the lease and takes it, if nobody has it any more.
func (e *election) try(ctx context.Context) (bool, error) {
	l, err := e.leases.GetLease(ctx, LeaseName)
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	if l.Version != e.seen.Version || e.since.IsZero() {
		e.since = time.Now()
	}
	e.seen = l
	// Of this process's own name: it took the lease, and the answer was lost.
	free := l.Holder == "" || l.Holder == e.identity || time.Since(e.since) >= max(l.Duration, e.times.duration)
	e.mu.Unlock()
	if !free {
		return false, nil
	}
	begun := time.Now()
	next := datastore.Lease{Holder: e.identity, Duration: e.times.duration, Acquired: begun, Renewed: begun, Transitions: l.Transitions + 1, Version: l.Version}
	if err := e.put(ctx, next, begun); err != nil {
		if errors.Is(err, datastore.ErrConflict) {
			err = nil // somebody was faster
		}
		return false, err
	}
	return true, nil
}

// put writes the lease as this process's; it may act for deadline from when the write began.
func (e *election) put(ctx context.Context, l datastore.Lease, begun time.Time) error {
	out, err := e.leases.PutLease(ctx, LeaseName, l)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen, e.since, e.until = out, time.Now(), begun.Add(e.times.deadline)
	return nil
}

// term has lead act for as long as the lease is renewed. When lead has ended it gives the lease up.
func (e *election) term(ctx context.Context, lead func(context.Context) error) error {
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	e.changed(true)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		stop(e.renew(work))
	}()
	err := lead(work)
	stop(err)
	<-renewed
	e.changed(false)
	if cause := context.Cause(work); errors.Is(cause, errLost) {
		err = cause
	}
	if e.leads() {
		e.release()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.until = time.Time{}
	return err
}

// renew writes the lease again and again, until ctx ends or it is lost.
func (e *election) renew(ctx context.Context) error {
	for {
		e.mu.Lock()
		next, until := e.seen, e.until
		e.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(e.times.retry, time.Until(until))):
		}
		begun := time.Now()
		if !begun.Before(until) {
			return fmt.Errorf("%w: it could not be renewed for %v: %w", errLost, e.times.deadline, e.last())
		}
		next.Renewed = begun
		call, cancel := context.WithDeadline(ctx, until)
		err := e.put(call, next, begun)
		if errors.Is(err, datastore.ErrConflict) {
			err = e.conflict(call)
		}
		cancel()
		if errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		e.note(err)
	}
}

// conflict looks who wrote the lease instead of this process: it may have been itself, when an answer was lost.
func (e *election) conflict(ctx context.Context) error {
	l, err := e.leases.GetLease(ctx, LeaseName)
	if err != nil {
		return err
	}
	if l.Holder != e.identity {
		return fmt.Errorf("%w: %q has it", errLost, l.Holder)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = l
	return nil
}

// release gives the lease up, so that others need not wait.
func (e *election) release() {
	ctx, cancel := context.WithTimeout(context.Background(), e.times.retry)
	defer cancel()
	e.mu.Lock()
	l := datastore.Lease{Duration: time.Second, Renewed: time.Now(), Transitions: e.seen.Transitions, Version: e.seen.Version}
	e.mu.Unlock()
	if _, err := e.leases.PutLease(ctx, LeaseName, l); err != nil {
		e.log.Warn("could not give up the lease of the controllers: others wait until it is over", "err", err)
	}
}

func (e *election) note(err error) {
	if err != nil {
		e.log.Warn("the lease of the controllers could not be read or written, will try again", "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *election) last() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		return errors.New("this process did not run")
	}
	return e.err
}

// leads tells whether this process may act now.
func (e *election) leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.until)
}

// holder is who has the lease as far as this process knows, and why it does not know.
func (e *election) holder() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.Holder, e.err
}

// fenced is a Store that takes writes only while this process leads: one that was stopped for a while and goes on writes
// nothing that it decided before.
type fenced struct {
	datastore.Store
	leads func() bool
}

var errNotLeading = fmt.Errorf("this process does not lead the controllers any more: %w", datastore.ErrUnavailable)

// Create implements datastore.Store.
func (f *fenced) Create(ctx context.Context, o v3.Object) (v3.Object, error) {
	if !f.leads() {
		return nil, errNotLeading
	}
	return f.Store.Create(ctx, o)
}

// Update implements datastore.Store.
func (f *fenced) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	if !f.leads() {
		return nil, errNotLeading
	}
	return f.Store.Update(ctx, o)
}

// Delete implements datastore.Store.
func (f *fenced) Delete(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	if !f.leads() {
		return errNotLeading
	}
	return f.Store.Delete(ctx, key, p)
}

// conditionsOf returns what writes the conditions of a store's objects, where it has such; fenced like the store.
func conditionsOf(s datastore.Store) (datastore.ConditionWriter, bool) {
	w, ok := unfenced(s).(datastore.ConditionWriter)
	if f, is := s.(*fenced); ok && is {
		w = &fencedConditions{w, f.leads}
	}
	return w, ok
}

type fencedConditions struct {
	datastore.ConditionWriter
	leads func() bool
}

// WriteConditions implements datastore.ConditionWriter.
func (f *fencedConditions) WriteConditions(ctx context.Context, key datastore.Key, version string, conditions []metav1.Condition) (bool, error) {
	if !f.leads() {
		return false, errNotLeading
	}
	return f.ConditionWriter.WriteConditions(ctx, key, version, conditions)
}
