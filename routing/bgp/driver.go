package bgp

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/internal/supervise"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// Options are the parts of a Driver that differ from host to host. The zero value is for a node.
type Options struct {
	Executable string   // the weft binary; empty is the one that runs
	Dir        string   // of the speaker's socket; empty is /run/weft
	LogDir     string   // of its log; empty is /run/weft
	Env        []string // variables that it gets besides a few of ours
	Keeper     string   // socket of the keeper that starts it (supervise.Keeper); empty: this process does
}

// Peer is what there is to say about a session.
type Peer = speaker.Peer

// Without and Lost are a question to the speaker, and its answer.
type (
	Without = speaker.Without
	Lost    = speaker.Lost
)

// Driver makes the BGP speaker of a network namespace do what a routing.Speaker says. Apply is called by one
// goroutine; the rest by any.
type Driver struct {
	log   *slog.Logger
	opts  Options
	procs *supervise.Processes
	again chan struct{} // of capacity 1: an Apply is needed
	news  chan struct{} // of capacity 1: what Learned returns changed

	running sync.Mutex // held by Apply: guards what follows
	told    [sha256.Size]byte
	follow  func() // ends the following of to

	mu      sync.Mutex         // a leaf: guards what follows
	to      *supervise.Process // that was told; nil: nobody. Changed with running held
	routes  routes
	peers   map[netip.Addr]knownPeer
	stream  uint64 // counts the streams that were opened
	settled bool
}

type knownPeer struct {
	Peer
	stream uint64
}

// New returns a Driver for h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger, o Options) *Driver {
	if o.Dir == "" {
		o.Dir = "/run/weft"
	}
	if o.LogDir == "" {
		o.LogDir = "/run/weft"
	}
	d := &Driver{
		log: log, opts: o, again: make(chan struct{}, 1), news: make(chan struct{}, 1),
		peers: map[netip.Addr]knownPeer{},
	}
	d.procs = &supervise.Processes{Handle: h, Log: log, Executable: o.Executable, Env: o.Env, Keeper: o.Keeper, Died: d.onDeath}
	return d
}

func (d *Driver) process() speaker.Process {
	return speaker.Process{Dir: d.opts.Dir, Interface: speaker.Interface}
}

func (d *Driver) command() supervise.Command {
	want := d.process()
	return supervise.Command{
		Name: "bgp", What: "process of the BGP speaker", Args: want.Args(), Socket: want.Socket(), Log: filepath.Join(d.opts.LogDir, "bgp-speaker.log"),
		Version: want.Interface,
		Is: func(args []string) (int, bool) {
			p, ok := speaker.ParseArgs(args)
			return p.Interface, ok && supervise.SameDir(p.Dir, want.Dir)
		},
	}
}

// onDeath is called when the speaker ended that nobody told to.
func (d *Driver) onDeath(p *supervise.Process) {
	d.log.Warn("the process of the BGP speaker ended", "pid", p.PID, "after", time.Since(p.Since).Round(time.Millisecond), "log", p.Log)
	poke(d.again)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Apply makes the speaker do what s says. A zero s withdraws everything from all neighbours and ends it.
func (d *Driver) Apply(ctx context.Context, s routing.Speaker) (reconcile.Result, error) {
	d.running.Lock()
	defer d.running.Unlock()
	if s.ASN == 0 {
		return d.end(ctx)
	}
	p, started, err := d.procs.Get(ctx, d.command())
	if err != nil {
		return reconcile.Result{}, err
	}
	if p != d.to {
		d.unfollow()
		d.told = [sha256.Size]byte{}
		d.startFollowing(p)
	}
	request, err := json.Marshal(speaker.Request{Configure: ptr(speaker.Seal(s))})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("configure the BGP speaker: %w", err)
	}
	sum := sha256.Sum256(request)
	if sum == d.told {
		return reconcile.Result{}, nil
	}
	reply, err := ask(ctx, p, request)
	near := p.PID
	if p.Far { // that number is another's here, and in a container the network namespace is the same
		near = os.Getpid()
	}
	err = taken(err, near, s.ListenPort)
	if err == nil {
		d.told = sum
	} else {
		d.told = [sha256.Size]byte{}
	}
	r := reconcile.Result{Changed: reply.Changes}
	if reply.Changes > 0 {
		d.log.Info("BGP speaker configured", "changes", reply.Changes, "sessions", len(s.Sessions), "advertisements", len(s.Advertisements), "new", started)
	}
	return r, err
}

func ptr[T any](v T) *T { return &v }

// nothing is the request to withdraw everything, as a speaker of any version understands it.
const nothing = `{"configure":{}}`

// end withdraws everything and ends the speaker. One of another version is not ended before it has withdrawn, either:
// without a word neighbours would keep for RestartSeconds what it told them.
func (d *Driver) end(ctx context.Context) (reconcile.Result, error) {
	c := d.command()
	is := c.Is
	c.Is = func(args []string) (int, bool) {
		_, ok := is(args)
		return c.Version, ok
	}
	p := d.procs.Take(c.Name)
	var err error
	if p == nil || !p.Alive() {
		p, err = d.procs.Adopt(ctx, c)
	}
	d.unfollow()
	d.mu.Lock()
	d.to = nil
	had := d.routes.clear()
	clear(d.peers)
	d.settled = true
	d.mu.Unlock()
	if had {
		poke(d.news)
	}
	if err != nil || p == nil {
		return reconcile.Result{}, err
	}
	_, err = ask(ctx, p, []byte(nothing))
	d.log.Info("ending the BGP speaker", "pid", p.PID)
	return reconcile.Result{Changed: 1}, errors.Join(err, d.procs.End(ctx, p))
}

// Watch calls kick when the speaker ended, so that the next Apply starts another, until ctx ends, whose error
// it returns.
func (d *Driver) Watch(ctx context.Context, kick func()) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.again:
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(d.procs.Wait()):
			}
			kick()
		}
	}
}

// News has a value when what Learned returns changed.
func (d *Driver) News() <-chan struct{} { return d.news }

// learnedMost is how many changes one call of Learned tells at most: others wait while the kernel gets them.
const learnedMost = 4000

// Learned returns the best routes, sorted by prefix, with at most 4,000 changes since the call before; where there are
// more, News has a value again. settled false means that there may be more: a speaker
// that has just begun, or this process, does not know all yet. Nothing of what the kernel has is to be
// deleted then.
func (d *Driver) Learned() (routes []routing.Learned, settled bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	routes, more := d.routes.sorted(learnedMost)
	if more {
		poke(d.news)
	}
	return routes, d.settled && !more
}

// Settled tells whether every peer has told all that it has, or had the time for it, to a speaker that is configured:
// then Learned, called often enough, returns all.
func (d *Driver) Settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settled
}

// Pending tells whether Learned has as many changes to tell as it tells at once.
func (d *Driver) Pending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.routes.fresh) >= learnedMost
}

// States returns the sessions without their counts, sorted by address: what was last heard of them.
func (d *Driver) States() []Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Peer, 0, len(d.peers))
	for _, p := range d.peers {
		out = append(out, p.Peer)
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Address.Compare(b.Address) })
	return out
}

// Peers asks the speaker for its sessions, sorted by address, with their counts. It waits for no Apply.
func (d *Driver) Peers(ctx context.Context) ([]Peer, error) {
	d.mu.Lock()
	p := d.to
	d.mu.Unlock()
	if p == nil {
		return nil, nil
	}
	request, err := json.Marshal(speaker.Request{Peers: true})
	if err != nil {
		return nil, err
	}
	reply, err := ask(ctx, p, request)
	return reply.Peers, err
}

// Without asks the speaker what would be lost, were something taken away.
func (d *Driver) Without(ctx context.Context, w Without) (Lost, error) {
	d.running.Lock()
	p := d.to
	d.running.Unlock()
	if p == nil {
		return Lost{}, errors.New("the BGP speaker does not run yet")
	}
	request, err := json.Marshal(speaker.Request{Without: &w})
	if err != nil {
		return Lost{}, err
	}
	reply, err := ask(ctx, p, request)
	if err == nil && reply.Lost == nil {
		err = fmt.Errorf("the BGP speaker (process %d) did not say what would be lost", p.PID)
	}
	if err != nil {
		return Lost{}, err
	}
	return *reply.Lost, nil
}

// Invalidate makes the next Apply tell the speaker everything again.
func (d *Driver) Invalidate() {
	d.running.Lock()
	defer d.running.Unlock()
	d.told = [sha256.Size]byte{}
}

// Close releases what the Driver holds and leaves the speaker as it is: neighbours notice nothing.
func (d *Driver) Close() {
	d.running.Lock()
	defer d.running.Unlock()
	d.unfollow()
	d.procs.Close()
}

func (d *Driver) unfollow() {
	if d.follow != nil {
		d.follow()
		d.follow = nil
	}
}

// take takes an event of a stream.
func (d *Driver) take(stream uint64, e speaker.Event) {
	d.mu.Lock()
	changed := d.routes.take(stream, &e)
	for _, p := range e.Peers {
		d.peers[p.Address] = knownPeer{p, stream}
	}
	for _, a := range e.Gone {
		delete(d.peers, a)
	}
	if e.Synced {
		maps.DeleteFunc(d.peers, func(_ netip.Addr, p knownPeer) bool { return p.stream != stream })
	}
	if e.Settled {
		changed = changed || !d.settled
		d.settled = true
	}
	d.mu.Unlock()
	if changed {
		poke(d.news)
	}
}
