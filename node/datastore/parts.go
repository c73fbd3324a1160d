package datastore

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// followParts follows each part of the kinds by itself and makes one stream of them. Their first lists come one
// after the other, in order, so that what others refer to comes first. While the store is away each tries by itself; the first
// that gets through tells the others.
func followParts(ctx context.Context, store Store, parts [][]string, sink Sink, opts FollowOptions) error {
	j := &joiner{sink: sink, log: opts.Logger, states: make([]partState, len(parts)), calls: make(chan func()), contact: make(chan struct{})}
	for i := range j.states {
		j.states[i] = partState{state: StateWait, begins: make(chan struct{})}
	}
	close(j.states[0].begins)
	j.tell()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i, kinds := range parts {
		wg.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-j.states[i].begins:
			}
			f := newFollower(store, kinds, &part{j, i, ctx}, opts)
			f.level = slog.LevelDebug // the whole is told at Info
			f.contact = j.nextContact
			_ = f.run(ctx)
		})
	}
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case call := <-j.calls:
			call()
		case <-done: // after ctx
			return context.Cause(ctx)
		}
	}
}

// joiner joins the parts. Its first fields belong to the goroutine that runs calls.
type joiner struct {
	sink   Sink
	log    *slog.Logger
	states []partState
	calls  chan func()
	state  State
	reason string

	mu      sync.Mutex
	contact chan struct{} // closed when a part gets through that was away
}

// nextContact returns what is closed when a part gets through that was away.
func (j *joiner) nextContact() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.contact
}

func (j *joiner) gotThrough() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.contact)
	j.contact = make(chan struct{})
}

type partState struct {
	state  State
	err    error
	begins chan struct{} // closed when the part may list for the first time
}

// part is the Sink of one part; its calls are made by the one goroutine.
type part struct {
	j     *joiner
	index int
	ctx   context.Context
}

func (p *part) call(f func()) {
	done := make(chan struct{})
	select {
	case p.j.calls <- func() { f(); close(done) }:
		<-done
	case <-p.ctx.Done():
	}
}

// OnState implements Sink.
func (p *part) OnState(s State, err error) {
	p.call(func() {
		st := &p.j.states[p.index]
		if st.state == StateWait && st.err != nil && s != StateWait {
			p.j.gotThrough()
		}
		st.state, st.err = s, err
		if next := p.index + 1; s == StateInSync && next < len(p.j.states) {
			select {
			case <-p.j.states[next].begins:
			default:
				close(p.j.states[next].begins)
			}
		}
		p.j.tell()
	})
}

// OnChanges implements Sink.
func (p *part) OnChanges(c []Change) { p.call(func() { p.j.sink.OnChanges(c) }) }

// tell tells the state of the whole when it has changed: away when one part is, in sync when all are.
func (j *joiner) tell() {
	whole := partState{state: StateResync}
	all := func(s State) bool {
		return !slices.ContainsFunc(j.states, func(p partState) bool { return p.state != s })
	}
	if away := slices.IndexFunc(j.states, func(p partState) bool { return p.state == StateWait && p.err != nil }); away >= 0 {
		whole = j.states[away]
	} else if all(StateInSync) {
		whole.state = StateInSync
	} else if all(StateWait) {
		whole.state = StateWait
	}
	reason := ""
	if whole.err != nil {
		reason = whole.err.Error()
	}
	if whole.state == j.state && reason == j.reason {
		return
	}
	if whole.state != j.state {
		j.log.Info("datastore state", "state", string(whole.state), "err", reason)
	}
	j.state, j.reason = whole.state, reason
	j.sink.OnState(whole.state, whole.err)
}
