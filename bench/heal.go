package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"weft/bench/mtu"
	"weft/bench/result"
	"weft/internal/traffic"
)

// Heal breaks what a node keeps in the kernel while its pods send, and measures until it is whole again.
type Heal struct {
	trafficVerb
}

// What the records of a piece of sabotage are; metricSent, metricLost and metricShare as those of a change.
const (
	metricHealed   = "heal_time" // seconds, and as a ratio to a look at the same state just before
	metricLook     = "look_time"
	metricUnhealed = "not_healed" // pieces that were not healed, of those done: 0 or 1 each
	// healNode is the node that is broken.
	healNode = "n1"
	// healLimit is how long healing may take.
	healLimit = 20 * time.Second
	// phaseRest is for how long nothing changes once what was used before has gone.
	phaseRest = 2 * time.Second
	// stoppedRest is for how long nothing changes once the node service was killed.
	stoppedRest = 300 * time.Millisecond
	// controlTime is for how long nothing may heal while the node service is not there.
	controlTime = 2 * time.Second
)

func healCommand(version string) *cobra.Command {
	h := &Heal{}
	return h.command(version, trafficKind{
		verb:  "heal",
		short: "Break what a node keeps in the kernel and measure until it is whole again",
		long: `Bring up a lab of three nodes in two racks and attach two pods to each. While every pod sends every other a packet every
4 ms, break something on one node, several times each: tunnel devices, routes, nftables, neighbours, forwarding entries,
sysctls and eBPF programs, WireGuard's process, the BGP speaker and the node service itself. For each: the time until the
node's state in the kernel is what it was, and packets lost of those sent. The time is also said as a ratio to a look at
that state. Each is done once before, while the node service is stopped, and has to change that state; the control is
broken then too, under traffic, and must not heal.

Files in --out: heal.jsonl (a record a line as it is measured) and heal.md. Ctrl-C ends it; what was measured is reported.
The exit code is 1 when something was not healed within ` + healLimit.String() + ` or changed nothing, the control healed or lost nothing, or it
ended early.`,
		flag: "times", often: "how often each thing is broken", times: 10, most: 1000,
		quick: "each piece twice: about two minutes", quickTimes: 2,
		title: "Sabotage under traffic, healed", measure: h.phases, print: writeHeal,
	})
}

// phases goes through what nodes can be set to; in each, all that can be broken then takes turns.
func (h *Heal) phases(ctx context.Context) error {
	phases := healPhases(h)
	for _, p := range phases {
		h.all += len(p.pieces) * h.Times
	}
	h.all++ // the control
	for i, p := range phases {
		if err := p.begin(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		pieces, err := h.possible(ctx, p)
		if err == nil {
			err = h.breaks(ctx, pieces)
		}
		if err == nil {
			err = h.rounds(ctx, p.name, pieces, i == 0)
		}
		if err := errors.Join(err, p.end(ctx)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	h.show("done")
	return nil
}

// rounds lets all pieces of a phase take turns, and the control after them, and writes what became of each.
func (h *Heal) rounds(ctx context.Context, phase string, pieces []sabotage, control bool) error {
	if _, err := h.quiet(ctx, phaseRest); err != nil {
		return err
	}
	run, err := traffic.Start(ctx, traffic.Config{Hosts: h.hosts(2), Interval: encryptedInterval})
	if err != nil {
		return err
	}
	var all []healed
	for round := 1; round <= h.Times && err == nil; round++ {
		for _, s := range pieces {
			var got healed
			if got, err = h.breakOne(ctx, run, s, healLimit); err != nil {
				break
			}
			got.round, got.what = round, phase+": "+s.what
			all = append(all, got)
		}
	}
	if err == nil && control {
		var got healed
		if got, err = h.control(ctx, run); err == nil {
			all = append(all, got)
		}
	}
	rep := run.Stop()
	for _, g := range all {
		g.sent, g.lost = rep.Between(g.from, g.to)
		h.judge(g)
		for _, r := range healRecords(g) {
			err = errors.Join(err, h.sheet.write(r))
		}
	}
	return err
}

// healed is what became of one piece of sabotage.
type healed struct {
	what       string
	round      int
	took, look time.Duration
	whole      bool // it was healed
	control    bool
	from, to   uint64
	sent, lost uint64
}

// breakOne does a piece and waits until the state is as before.
func (h *Heal) breakOne(ctx context.Context, run *traffic.Run, s sabotage, limit time.Duration) (healed, error) {
	g := healed{what: s.what}
	before, err := h.quiet(ctx, 0)
	if err != nil {
		return g, fmt.Errorf("before %s: %w", s.what, err)
	}
	h.show(s.what)
	begin := time.Now()
	if _, err := h.state(ctx); err != nil {
		return g, err
	}
	g.look, g.from = time.Since(begin), run.Mark()
	begin = time.Now()
	if err := s.do(ctx); err != nil {
		return g, fmt.Errorf("%s: %w", s.what, err)
	}
	if g.whole, err = h.heals(ctx, before, s.back, begin.Add(limit)); err != nil {
		return g, err
	}
	g.took = time.Since(begin)
	select {
	case <-ctx.Done():
		return g, context.Cause(ctx)
	case <-time.After(lateLoss):
	}
	g.to = run.Mark()
	h.done++
	return g, nil
}

// heals waits until the state is as before and back says so too, where there is one. It tells whether that was so in time.
func (h *Heal) heals(ctx context.Context, before string, back func(context.Context) bool, end time.Time) (bool, error) {
	for time.Now().Before(end) {
		now, err := h.state(ctx)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err == nil && now == before && (back == nil || back(ctx)) {
			return true, nil
		}
	}
	return false, nil
}

// possible leaves out pieces for which this kernel has nothing to break.
func (h *Heal) possible(ctx context.Context, p healPhase) ([]sabotage, error) {
	var out []sabotage
	for _, s := range p.pieces {
		if s.only != nil {
			way, err := mtu.Way(ctx, h.lab, healNode, s.only[0])
			if err != nil {
				return nil, err
			}
			if way != s.only[1] {
				h.progress.say("%s: %s is left out: %s is done by %s here, not by %s", p.name, s.what, s.only[0], way, s.only[1])
				h.all -= h.Times
				continue
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// breaks does each piece that ends no process once while the node service is stopped: it has to change the state that
// shows, under traffic, that it was healed. One stop serves as many as find something to break behind others; the last
// ones of a phase break least.
func (h *Heal) breaks(ctx context.Context, pieces []sabotage) error {
	pieces = slices.DeleteFunc(slices.Clone(pieces), func(s sabotage) bool { return s.process })
	slices.Reverse(pieces)
	whole, err := h.quiet(ctx, phaseRest)
	for err == nil && len(pieces) > 0 {
		var done int
		if done, err = h.stopped(ctx, pieces); err == nil {
			pieces = pieces[done:]
			err = h.whole(ctx, whole)
		}
	}
	return err
}

// stopped kills the node service, does pieces until one changes nothing, and starts it again. It returns how many did, and
// an error when already the first one did not.
func (h *Heal) stopped(ctx context.Context, pieces []sabotage) (done int, err error) {
	start, err := h.stopNode(ctx)
	if err != nil {
		return 0, err
	}
	if _, err = h.quiet(ctx, stoppedRest); err == nil {
		done, err = changing(ctx, pieces, h.state)
	}
	return done, errors.Join(err, start())
}

// changing does pieces until one changes nothing: that it is the first one is an error.
func changing(ctx context.Context, pieces []sabotage, look func(context.Context) (string, error)) (done int, err error) {
	for i, s := range pieces {
		if err := s.changes(ctx, look); err != nil {
			if i == 0 || ctx.Err() != nil {
				return i, err
			}
			return i, nil // those before may have left it nothing: it comes first next time
		}
	}
	return len(pieces), nil
}

// whole waits until the state is as it was before the node service was stopped.
func (h *Heal) whole(ctx context.Context, before string) error {
	healed, err := h.heals(ctx, before, nil, time.Now().Add(healLimit))
	if err == nil && !healed {
		err = fmt.Errorf("what was broken while the node service was stopped is not whole within %v of starting it again", healLimit)
	}
	return err
}

// quiet waits until the state has not changed from one look to another, and for rest.
func (h *Heal) quiet(ctx context.Context, rest time.Duration) (string, error) {
	last, err := h.state(ctx)
	since := time.Now()
	for begin := since; err == nil && time.Since(begin) < healLimit; {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		var now string
		now, err = h.state(ctx)
		if now != last {
			last, since = now, time.Now()
		} else if err == nil && time.Since(since) >= rest {
			return now, nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("the state of %s in the kernel does not come to rest within %v", healNode, healLimit))
}

// control breaks something while nobody is there to heal it.
func (h *Heal) control(ctx context.Context, run *traffic.Run) (healed, error) {
	stop, err := h.stopNode(ctx)
	if err != nil {
		return healed{}, err
	}
	g, err := h.breakOne(ctx, run, sabotage{what: "routes flushed, the node service stopped", do: h.flushRoutes}, controlTime)
	g.control = true
	return g, errors.Join(err, stop())
}

// judge notes what is wrong.
func (h *Heal) judge(g healed) {
	switch {
	case g.control && (g.whole || g.lost == 0):
		h.errs = append(h.errs, fmt.Errorf("%s: healed: %v, %d of %d packets lost: whoever looks is blind", g.what, g.whole, g.lost, g.sent))
	case !g.control && !g.whole:
		h.errs = append(h.errs, fmt.Errorf("%s: not healed within %v", g.what, healLimit))
	}
}

// healRecords are those of one piece.
func healRecords(g healed) []result.Record {
	what := g.what
	if g.control {
		what = "control: " + what
	}
	out := []result.Record{
		{Metric: metricSent, Unit: result.Count, Value: float64(g.sent)},
		{Metric: metricLost, Unit: result.Count, Value: float64(g.lost)},
		{Metric: metricLook, Unit: result.Seconds, Value: g.look.Seconds()},
		{Metric: metricUnhealed, Unit: result.Count, Value: map[bool]float64{false: 1}[g.whole]},
	}
	if g.whole && !g.control {
		out = append(out,
			result.Record{Metric: metricHealed, Unit: result.Seconds, Value: g.took.Seconds()},
			result.Record{Metric: metricHealed, Unit: result.Ratio, Value: g.took.Seconds() / max(g.look.Seconds(), 1e-6), Better: result.Less})
	}
	for i := range out {
		out[i].Setting, out[i].Round = what, g.round
	}
	return out
}

// writeHeal prints a line for each kind of sabotage.
func writeHeal(w io.Writer, all []figure) {
	t := newTable(w, "broken under traffic", "times", "healed", "after, median", "at most", "packets sent", "lost", "lost, median")
	order, of := bySetting(all)
	slices.SortStableFunc(order, func(a, b string) int { // controls last
		return len(strings.TrimPrefix(b, "control")) - len(b) - len(strings.TrimPrefix(a, "control")) + len(a)
	})
	for _, what := range order {
		f := of[what]
		times := f[metricUnhealed].N
		row := table.Row{what, times, float64(times) - f[metricUnhealed].Sum, "-", "-", fmt.Sprintf("%.0f", f[metricSent].Sum), fmt.Sprintf("%.0f", f[metricLost].Sum), fmt.Sprintf("%.0f", f[metricLost].Value)}
		if took, ok := f[metricHealed]; ok {
			row[3], row[4] = inUnit(result.Seconds, took.Value), inUnit(result.Seconds, took.Most)
		}
		t.AppendRow(row)
	}
	t.Render()
	fmt.Fprintln(w, "Healed is when the node's state in the kernel is what it was, the look at it included. Sent and lost are of all times together, between all pods.")
}
