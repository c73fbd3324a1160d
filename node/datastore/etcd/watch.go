package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/node/datastore"
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

// Stream is Watch, with how far it has read; see datastore.Streamer. It is one gRPC stream with
// one watcher and no hidden reconnect: when the connection breaks, it returns.
func (s *Store) Stream(ctx context.Context, from string, kinds []string, f func(datastore.Batch) error) error {
	err := s.stream(ctx, from, kinds, f)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watch %s from revision %s: %w", strings.Join(kinds, ", "), from, err)
}

func (s *Store) stream(ctx context.Context, from string, kinds []string, f func(datastore.Batch) error) error {
	at, err := parseRevision(from)
	if err != nil {
		return err
	}
	w := &watcher{store: s, from: at, kinds: map[string]bool{}, f: f}
	first := ""
	for _, k := range kinds {
		prefix, err := s.keys.kind(k)
		if err != nil {
			return err
		}
		w.kinds[k], first = true, prefix
	}
	if len(w.kinds) != 1 { // one watcher over all keeps the changes of different kinds in order
		first = s.keys.root()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the gRPC stream
	timeout := time.AfterFunc(s.cfg.RequestTimeout, cancel)
	defer timeout.Stop()
	begin := func() error {
		c, err := s.conn(ctx)
		if err != nil {
			return err
		}
		s.await(ctx, c)
		if w.stream, err = pb.NewWatchClient(c.ActiveConnection()).Watch(clientv3.WithRequireLeader(ctx)); err != nil {
			return err
		}
		return w.create(first)
	}
	if err := begin(); err != nil {
		if !timeout.Stop() {
			err = fmt.Errorf("no answer within %v: %w", s.cfg.RequestTimeout, context.DeadlineExceeded)
		}
		return s.explain(context.Background(), err)
	}
	if !timeout.Stop() {
		return s.explain(context.Background(), context.DeadlineExceeded)
	}
	return w.run(ctx)
}

// watcher is one watch under way.
type watcher struct {
	store  *Store
	stream pb.Watch_WatchClient
	from   revision // what the caller has
	head   int64    // where the store was when the watch began
	kinds  map[string]bool
	f      func(datastore.Batch) error

	pending  []datastore.Change // fragments of an answer that is not complete yet
	caughtUp bool
}

// create asks for the watch and reads the server's consent.
func (w *watcher) create(prefix string) error {
	err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)),
		StartRevision: w.from.rev + 1, ProgressNotify: true, Fragment: true,
	}}})
	if err != nil {
		return w.sendError(err)
	}
	resp, err := w.stream.Recv()
	if err != nil {
		return err
	}
	if err := canceled(resp); err != nil {
		return err
	}
	if !resp.Created {
		return errors.New("the server answered a watch with something else")
	}
	at := revisionOf(resp.Header)
	switch {
	case w.from.cluster != 0 && w.from.cluster != at.cluster:
		return fmt.Errorf("this is another cluster (%s) than that of the revision: %w", at.history(), datastore.ErrCompacted)
	case at.rev < w.from.rev:
		// Watching a revision to come would be silent until the store gets there.
		return fmt.Errorf("the store is at revision %d, it was set back: %w", at.rev, datastore.ErrCompacted)
	}
	w.head = at.rev
	return nil
}

// sendError finds out why a send failed: gRPC says only EOF and keeps the reason for Recv.
func (w *watcher) sendError(err error) error {
	if _, recv := w.stream.Recv(); recv != nil {
		return recv
	}
	return err
}

// canceled tells why the server ended the watch; nil if it has not.
func canceled(resp *pb.WatchResponse) error {
	switch {
	case resp.CompactRevision != 0:
		return fmt.Errorf("history begins at revision %d: %w", resp.CompactRevision, datastore.ErrCompacted)
	case resp.Canceled && strings.Contains(resp.CancelReason, rpctypes.ErrGRPCPermissionDenied.Error()):
		return rpctypes.ErrPermissionDenied
	case resp.Canceled:
		return fmt.Errorf("the server ended the watch: %s", resp.CancelReason)
	}
	return nil
}

// Asking whether all is delivered: the server does not answer while it is still sending what was
// missed, so ask again, ever less often.
const (
	firstProgressAsk = 20 * time.Millisecond
	lastProgressAsk  = 5 * time.Second
)

func (w *watcher) run(ctx context.Context) error {
	if w.head == w.from.rev {
		w.caughtUp = true
		if err := w.f(datastore.Batch{CaughtUp: true}); err != nil {
			return err
		}
		return w.receive(ctx, func() {})
	}
	asking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.askProgress(asking) })
	err := w.receive(ctx, stop)
	stop()
	wg.Wait()
	return err
}

// askProgress asks until ctx ends. It is the only sender while it runs.
func (w *watcher) askProgress(ctx context.Context) {
	for d := firstProgressAsk; ; d = min(2*d, lastProgressAsk) {
		req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		if w.stream.Send(req) != nil {
			return // Recv says why
		}
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// receive delivers until the stream ends; it calls caughtUp once the store's head is reached.
func (w *watcher) receive(ctx context.Context, caughtUp func()) error {
	for {
		resp, err := w.stream.Recv()
		if err != nil {
			return w.store.explain(ctx, err)
		}
		if err := canceled(resp); err != nil {
			return w.store.explain(ctx, err)
		}
		b, ok := w.batch(resp)
		if !ok {
			continue
		}
		if b.CaughtUp {
			caughtUp()
		}
		if err := w.f(b); err != nil {
			return err
		}
	}
}

// batch turns an answer into a batch; ok is false when there is nothing to tell yet.
func (w *watcher) batch(resp *pb.WatchResponse) (b datastore.Batch, ok bool) {
	for _, e := range resp.Events {
		if c, ok := w.change(e); ok {
			w.pending = append(w.pending, c)
		}
	}
	if resp.Fragment { // a revision may be split: resuming inside of it would lose the rest
		return b, false
	}
	b.Changes, w.pending = w.pending, nil
	reached := revision{resp.Header.Revision, resp.Header.ClusterId}
	switch {
	case len(resp.Events) > 0:
		// The header may be ahead of the events of a watch that is catching up.
		reached.rev = resp.Events[len(resp.Events)-1].Kv.ModRevision
		b.Revision = reached.String()
	case resp.WatchId >= 0:
		b.Revision = reached.String() // the server's own notice, for this watch
	}
	// The answer to askProgress has no watch; servers before 3.4.25 may send it early, so it says
	// that we caught up but is never a place to resume from.
	if !w.caughtUp && reached.rev >= w.head {
		w.caughtUp, b.CaughtUp = true, true
	}
	return b, len(b.Changes) > 0 || b.Revision != "" || b.CaughtUp
}

// change decodes one event; ok is false for what is not of the asked kinds.
func (w *watcher) change(e *mvccpb.Event) (c datastore.Change, ok bool) {
	key, ok, err := w.store.keys.parse(string(e.Kv.Key))
	if !ok || !w.kinds[key.Kind] {
		return c, false
	}
	c = datastore.Change{Key: key, Err: err, Revision: strconv.FormatInt(e.Kv.ModRevision, 10)}
	switch {
	case e.Type == mvccpb.Event_DELETE:
		c.Err = nil
	case err == nil:
		c.Object, c.Err = decode(key, e.Kv)
	}
	return c, true
}
