package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/watch"

	"weft/node/datastore"
)

const (
	// watchTime is how long a watch lasts before it is opened anew, at least; at most twice as long.
	watchTime = 5 * time.Minute
	// settleTime: a watch has caught up when it brought nothing for so long.
	settleTime = 300 * time.Millisecond
	// absentPoll is how often an optional kind that is not there is looked for, where nothing tells that it has come; and
	// appears how soon after its definition came, which is before it is served.
	absentPoll, appears = 5 * time.Minute, 500 * time.Millisecond
	// definitionRetry is how soon a watch of the definition that ended early begins anew, at first; up to absentPoll.
	definitionRetry = time.Second
	// maxBatch is how many events are delivered together, of those that have come already.
	maxBatch = 256
)

// Watch sends the changes of the kinds after revision; see datastore.Store.
func (s *Store) Watch(ctx context.Context, revision string, kinds []string, f func([]datastore.Change) error) error {
	return s.Stream(ctx, revision, kinds, func(b datastore.Batch) error {
		if len(b.Changes) == 0 {
			return nil
		}
		return f(b.Changes)
	})
}

// Stream is Watch, with how far it has read; see datastore.Streamer. Each kind has a watch of its own, which is
// opened anew where the server ends it as agreed; f is called by one of them at a time.
func (s *Store) Stream(ctx context.Context, from string, kinds []string, f func(datastore.Batch) error) error {
	err := s.stream(ctx, from, kinds, f)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watch %s from revision %s: %w", strings.Join(kinds, ", "), from, err)
}

func (s *Store) stream(ctx context.Context, from string, kinds []string, f func(datastore.Batch) error) error {
	at, err := parseRevisions(from)
	if err != nil {
		return err
	}
	var watchers []*watcher
	for _, k := range kinds {
		src, err := s.source(k)
		if err != nil {
			return err
		}
		if at.of[k] == "" {
			return fmt.Errorf("revision %q has none of %s: %w", from, k, datastore.ErrInvalid)
		}
		watchers = append(watchers, &watcher{store: s, source: src, at: at.of[k], history: at.history})
	}
	if err := s.sameHistory(ctx, at.history); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.closed, cancel)
	defer stop()
	var mu sync.Mutex
	behind := len(watchers)
	of := maps.Clone(at.of)
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range watchers {
		w.deliver = func(changes []datastore.Change, caughtUp bool) error {
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if caughtUp {
				behind--
			}
			of[w.source.kind] = w.at
			return f(datastore.Batch{Changes: changes, Revision: revisions{of, at.history}.String(), CaughtUp: caughtUp && behind == 0})
		}
		g.Go(func() error { return w.run(ctx) })
	}
	err = g.Wait()
	if s.closed.Err() != nil {
		return errors.New("the store is closed")
	}
	return err
}

// watcher follows one kind.
type watcher struct {
	store   *Store
	source  *source
	at      string // revision up to which all is delivered
	history string
	// deliver passes on what came up to at.
	deliver func(changes []datastore.Change, caughtUp bool) error

	caughtUp bool
	head     string // what the server had when the watch began; empty: not known
}

func (w *watcher) run(ctx context.Context) error {
	if w.at == notThere {
		return w.awaitKind(ctx)
	}
	relist := time.NewTimer(w.store.untilRelist(w.source.kind))
	defer relist.Stop()
	for {
		begin, lasts := time.Now(), watchTime+rand.N(watchTime)
		if err := w.once(ctx, lasts, relist.C); err != nil {
			return err
		}
		if time.Since(begin) < lasts/2 { // not as agreed: the server restarts, or something between us and it
			return fmt.Errorf("the server has ended the watch: %w", datastore.ErrUnavailable)
		}
	}
}

// untilRelist is how long the last list of a kind is to last.
func (s *Store) untilRelist(kind string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.listed[kind]
	if !ok {
		l.at = time.Now()
	}
	period := s.cfg.Relist
	if l.count > relistObjects {
		period = time.Duration(float64(period) * float64(l.count) / relistObjects)
	}
	return max(0, time.Until(l.at.Add(period+rand.N(period/4+1))))
}

// once watches until the server ends it; nil when it did so by itself.
func (w *watcher) once(ctx context.Context, lasts time.Duration, relist <-chan time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	body, err := w.open(ctx, cancel, lasts)
	if err != nil {
		cancel()
		return err
	}
	in := make(chan frame, maxBatch)
	var ended error
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended = w.read(ctx, body, in)
		close(in)
	}()
	defer func() { cancel(); _ = body.Close(); <-done }()
	if !w.caughtUp {
		// After the watch was opened: what the server has by now, the watch will bring.
		if w.head, err = w.store.head(ctx, w.source); err != nil {
			return err
		}
		if older(w.head, w.at) {
			w.store.wentBack(w.history)
			return fmt.Errorf("the server is at revision %s, it was set back: %w", w.head, datastore.ErrCompacted)
		}
	}
	if err := w.receive(ctx, in, relist); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ended == nil || endedWell(ended) {
		return nil
	}
	return w.store.explain(ctx, get(w.source.path("", "", "")), fmt.Errorf("the watch broke: %w", ended))
}

// endedWell tells that the server ended a watch by itself.
func endedWell(err error) bool { return errors.Is(err, io.EOF) }

// open asks for the watch. Its answer must come within RequestTimeout.
func (w *watcher) open(ctx context.Context, cancel func(), lasts time.Duration) (io.ReadCloser, error) {
	s := w.store
	r := get(w.source.path(w.source.namespace, "", ""))
	r.params = map[string]string{"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": w.at,
		"timeoutSeconds": strconv.Itoa(int(lasts.Seconds()))}
	if w.source.fields != "" {
		r.params["fieldSelector"] = w.source.fields
	}
	if w.source.pods {
		r.accept = protobufType
	}
	late := time.AfterFunc(s.cfg.RequestTimeout, cancel)
	for {
		wait, stop := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		err := s.gate.wait(wait)
		stop()
		var body io.ReadCloser
		if err == nil {
			body, err = s.build(r).Stream(ctx)
		}
		if err != nil && s.tooBusy(err) {
			continue
		}
		switch {
		case err == nil && late.Stop():
			return body, nil
		case err == nil:
			_ = body.Close()
			err = context.DeadlineExceeded
		case !late.Stop():
			err = context.DeadlineExceeded
		}
		return nil, s.explain(context.Background(), r, err)
	}
}

// read passes the events on until the watch ends.
func (w *watcher) read(ctx context.Context, body io.ReadCloser, in chan<- frame) error {
	var fs frames = &jsonFrames{json.NewDecoder(body)}
	if w.source.pods {
		fs = newProtobufFrames(body)
	}
	for {
		f, err := fs.next()
		if err != nil {
			return err
		}
		select {
		case in <- f:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive delivers what comes, together what has come already.
func (w *watcher) receive(ctx context.Context, in <-chan frame, relist <-chan time.Time) error {
	settle := time.NewTimer(settleTime)
	defer settle.Stop()
	if !w.caughtUp && w.head == w.at {
		w.caughtUp = true
		if err := w.deliver(nil, true); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-relist:
			return fmt.Errorf("a list of long ago is made again: %w", datastore.ErrCompacted)
		case <-settle.C:
			if !w.caughtUp {
				w.caughtUp = true
				if err := w.deliver(nil, true); err != nil {
					return err
				}
			}
		case f, more := <-in:
			if !more {
				return nil
			}
			if err := w.batch(f, in); err != nil {
				return err
			}
			settle.Reset(settleTime)
		}
	}
}

// batch delivers one event and those that have come with it.
func (w *watcher) batch(f frame, in <-chan frame) error {
	var changes []datastore.Change
	var broken error
	for n := 1; ; n++ {
		c, err := w.take(f)
		if broken = err; err != nil {
			break
		}
		if c.Key.Name != "" {
			changes = append(changes, c)
		}
		if n == maxBatch || len(in) == 0 {
			break
		}
		f = <-in
	}
	caughtUp := !w.caughtUp && broken == nil && !older(w.at, w.head)
	w.caughtUp = w.caughtUp || caughtUp
	return errors.Join(w.deliver(changes, caughtUp), broken)
}

// take reads one event and moves the revision on. Events come in the order of their revisions: where they do not, what
// was between is not known.
func (w *watcher) take(f frame) (datastore.Change, error) {
	var c datastore.Change
	var err error
	switch f.event {
	case watch.Error:
		return c, w.store.explain(context.Background(), get(w.source.path("", "", "")), w.source.failure(f.raw))
	case watch.Bookmark:
		c.Revision, err = w.source.bookmark(f.raw)
	case watch.Added, watch.Modified, watch.Deleted:
		c, err = w.source.change(f)
	default:
		err = fmt.Errorf("an event of type %q", f.event)
	}
	switch {
	case err != nil:
		return datastore.Change{}, fmt.Errorf("the watch cannot be understood: %w: %w", err, datastore.ErrCompacted)
	case c.Revision == w.at:
		return datastore.Change{}, nil // told already
	case c.Revision == "" || older(c.Revision, w.at):
		return datastore.Change{}, fmt.Errorf("an event of revision %q came after one of revision %s: %w", c.Revision, w.at, datastore.ErrCompacted)
	}
	w.at = c.Revision
	return c, nil
}
