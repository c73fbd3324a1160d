package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// watch shows what there is and then every change, until ctx ends. A store that goes away is told;
// what changed meanwhile is shown when it is back.
func (g getter) watch(ctx context.Context, t target) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &watchSink{g: g, target: t, shown: map[datastore.Key]v3.Object{}, fail: cancel}
	err := datastore.Follow(ctx, g.store, []string{t.kind.Kind}, s, datastore.FollowOptions{})
	if s.err != nil {
		return fmt.Errorf("watch %s: %w", t.kind.Plural, s.err)
	}
	if ctx.Err() != nil {
		return nil
	}
	return failed("watch", t.kind.Plural, err)
}

// watchSink prints what Follow delivers.
type watchSink struct {
	g      getter
	target target
	shown  map[datastore.Key]v3.Object // what was printed and not deleted since
	widths []int                       // of the columns; nil before the header
	first  table                       // rows of the first snapshot, until it is complete
	synced bool
	away   bool
	fail   context.CancelCauseFunc
	err    error // of writing
}

// OnState prints the first snapshot when it is complete, and tells when the store goes and comes.
func (s *watchSink) OnState(state datastore.State, err error) {
	stderr := s.g.cmd.ErrOrStderr()
	switch {
	case state == datastore.StateWait && err != nil && !s.away:
		s.away = true
		printError(stderr, fmt.Errorf("watch %s: the store is away: %w; the watch goes on when it is back", s.target.kind.Plural, err))
	case state == datastore.StateInSync:
		if s.away {
			fmt.Fprintln(stderr, "weft: the store is back")
		}
		s.away = false
		if !s.synced {
			s.synced = true
			s.begin()
		}
	}
}

// begin prints the first snapshot, which sets the widths of the columns.
func (s *watchSink) begin() {
	if !s.asTable() {
		return
	}
	s.first.header = newRows(s.target.kind, s.g.o, time.Now()).header()
	if s.first.header != nil {
		s.first.header = append([]string{"EVENT"}, s.first.header...)
	}
	// The widths stay from here on: what comes later and is wider shifts its own line only.
	s.first.least = []int{len("MODIFIED"), 20}
	for len(s.first.rows) == 0 && len(s.first.least) < len(s.first.header) {
		s.first.least = append(s.first.least, 16)
	}
	s.widths = s.first.widths()
	s.check(s.first.print(s.g.cmd.OutOrStdout()))
	s.first.rows = nil
}

func (s *watchSink) asTable() bool { return s.g.o.output == "table" || s.g.o.output == "wide" }

func (s *watchSink) check(err error) {
	if err != nil && s.err == nil {
		s.err = err
		s.fail(err)
	}
}

// OnChanges prints changes, or keeps them for begin.
func (s *watchSink) OnChanges(changes []datastore.Change) {
	for _, c := range changes {
		if s.err != nil {
			return
		}
		s.change(c)
	}
}

func (s *watchSink) change(c datastore.Change) {
	before, was := s.shown[c.Key]
	switch {
	case c.Err != nil:
		if s.named(c.Key) && s.g.inNamespace(s.target.kind, c.Key.Namespace) {
			s.g.reject(s.target.kind, c.Key, c.Err)
		}
	case c.Object != nil && s.named(c.Key) && s.g.wanted(s.target.kind, c.Object):
		s.shown[c.Key] = c.Object
		event := "ADDED"
		if was {
			event = "MODIFIED"
		}
		s.print(event, c.Object)
	case was:
		// Deleted, or its labels match no longer.
		delete(s.shown, c.Key)
		s.print("DELETED", before)
	}
}

func (s *watchSink) named(k datastore.Key) bool {
	return len(s.target.names) == 0 || slices.Contains(s.target.names, k.Name)
}

func (s *watchSink) print(event string, o v3.Object) {
	out := s.g.cmd.OutOrStdout()
	value := shown(o, len(s.target.names) > 0)
	switch s.g.o.output {
	case "yaml":
		_, err := io.WriteString(out, "---\n# "+event+"\n")
		s.check(err)
		s.check(printValue(out, "yaml", value))
	case "json":
		s.check(printValue(out, "json", map[string]any{"type": event, "object": value}))
	case "name":
		_, err := fmt.Fprintln(out, clean(refOf(s.target.kind, o.GetName())))
		s.check(err)
	default:
		cells := append([]string{event}, newRows(s.target.kind, s.g.o, time.Now()).row(o, false)...)
		if !s.synced {
			s.first.add(cells...)
			return
		}
		t := table{rows: [][]string{cells}, least: s.widths}
		s.check(t.print(out))
	}
}
