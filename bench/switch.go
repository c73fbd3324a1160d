package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"weft/bench/result"
	"weft/internal/kernel"
	"weft/internal/traffic"
)

// Switch changes how pods reach each other while they send, and counts what that costs.
type Switch struct {
	trafficVerb
}

// What the records of a change are.
const (
	metricSent    = "packets_sent"
	metricLost    = "packets_lost"
	metricShare   = "lost_share" // ratio; of its control, where nothing was changed, 1 and the share
	metricInForce = "in_force"
	metricGap     = "longest_gap" // seconds; as a ratio to that of a window without a change
	quietWindow   = "nothing changed"
	naiveChange   = "naive: VXLAN's device deleted and made anew"
)

func switchCommand(version string) *cobra.Command {
	s := &Switch{}
	return s.command(version, trafficKind{
		verb:  "switch",
		short: "Change mode, VNI, port and encryption under traffic and count what is lost",
		long: `Bring up a lab of three nodes in two racks and attach two pods to each. While every pod sends every other 1,000 packets a
second and a TCP stream, change the mode of their pool between all five modes in all directions, then VNI and port of
VXLAN; and switch encryption on and off at 250 packets a second. For each change: packets lost of those sent, the time
until every node uses the new way, and the longest time of a pair without a packet. Beside them a window in which
nothing changes, and, as a control that loses, a change made the naive way: the device deleted and made anew.

Files in --out: switch.jsonl (a record a line as it is measured) and switch.md. Ctrl-C ends it; what was measured is
reported. The exit code is 1 when a change lost a packet or broke a stream, the control lost none, or it ended early.`,
		flag: "rounds", often: "how often every change is made", times: 3, most: 100,
		quick: "one round: about half a minute", quickTimes: 1,
		title: "Changes under traffic", measure: s.rounds, print: writeSwitch,
	})
}

// neverWalk makes each change to and from the last of demoModes, which encapsulates nothing.
var neverWalk = []int{0, 4, 1, 4, 2, 4, 3, 4, 0}

// switchRun is one run of traffic with changes.
type switchRun struct {
	hosts    int // of each node
	interval time.Duration
	changes  []liveChange
	loses    bool // it is meant to
}

func (s *Switch) runs() []switchRun {
	quiet := func() liveChange {
		return liveChange{what: quietWindow, apply: func(context.Context) error { return nil }, inForce: func(context.Context) error { return nil }}
	}
	changes := append([]liveChange{quiet()}, s.modeChanges(demoWalk)...)
	changes = append(append(changes, s.outerChanges()...), quiet())
	return []switchRun{
		{2, time.Millisecond, changes, false},
		{2, time.Millisecond, s.modeChanges(neverWalk), false},
		{1, encryptedInterval, []liveChange{s.encryptionChange(true), s.encryptionChange(false)}, false},
		{2, time.Millisecond, []liveChange{s.naive()}, true},
	}
}

func (s *Switch) encryptionChange(on bool) liveChange {
	what, reach := "encryption off", demoModes[0].reach
	if on {
		what, reach = "encryption on", func(string, string) string { return wireGuardMode }
	}
	return liveChange{what: what, inForce: func(context.Context) error { return nil }, apply: func(ctx context.Context) error {
		_, err := s.encrypt(ctx, on, reach)
		return err
	}}
}

// naive deletes the device on every node; it is in force when all nodes have one again.
func (s *Switch) naive() liveChange {
	each := func(ctx context.Context, argv ...string) error {
		var errs []error
		for _, n := range demoNodes {
			_, err := run(ctx, kernel.NetnsPath(s.lab.Netns(n)), argv...)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	return liveChange{what: naiveChange,
		apply: func(ctx context.Context) error { return each(ctx, "ip", "link", "del", kernel.VXLANDevice) },
		inForce: func(ctx context.Context) error {
			return s.until(ctx, "every node has its device again", func() string {
				if err := each(ctx, "ip", "link", "show", kernel.VXLANDevice); err != nil {
					return err.Error()
				}
				return ""
			})
		}}
}

func (s *Switch) rounds(ctx context.Context) error {
	for _, r := range s.runs() {
		s.all += s.Times * len(r.changes)
	}
	for round := 1; round <= s.Times; round++ {
		for _, r := range s.runs() {
			s.show(fmt.Sprintf("round %d", round))
			rep, err := s.underTraffic(ctx, s.hosts(r.hosts), r.interval, r.changes, func(c *liveChange) {
				s.done++
				s.show(fmt.Sprintf("round %d, %s", round, c.what))
			})
			for _, rec := range switchRecords(r.changes, rep) {
				rec.Round = round
				err = errors.Join(err, s.sheet.write(rec))
			}
			s.judge(r, rep)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// judge notes what is wrong with what a run lost.
func (s *Switch) judge(r switchRun, rep traffic.Report) {
	all, broken, _ := rep.Streams()
	if broken > 0 {
		s.errs = append(s.errs, fmt.Errorf("%d of %d TCP streams broke", broken, all))
	}
	for _, c := range r.changes {
		if c.to == 0 {
			continue // not made any more
		}
		sent, lost := rep.Between(c.from, c.to)
		switch {
		case r.loses && lost == 0:
			s.errs = append(s.errs, fmt.Errorf("%s: 0 of %d packets lost: whoever counts is blind", c.what, sent))
		case !r.loses && lost > 0:
			s.errs = append(s.errs, fmt.Errorf("%s: %d of %d packets lost", c.what, lost, sent))
		}
	}
}

// switchRecords are those of the changes that were made, see the metrics. Windows in which nothing changed are the
// reference of the gaps, and the controls.
func switchRecords(changes []liveChange, rep traffic.Report) []result.Record {
	var out []result.Record
	var quiet time.Duration
	for _, c := range changes {
		if c.to == 0 {
			continue
		}
		sent, lost := rep.Between(c.from, c.to)
		gap, share := rep.GapBetween(c.from, c.to), float64(lost)/float64(max(sent, 1))
		add := func(r result.Record) {
			r.Setting = c.what
			out = append(out, r)
		}
		add(result.Record{Metric: metricSent, Unit: result.Count, Value: float64(sent)})
		add(result.Record{Metric: metricLost, Unit: result.Count, Value: float64(lost)})
		add(result.Record{Metric: metricGap, Unit: result.Seconds, Value: gap.Seconds()})
		if c.what == quietWindow {
			add(result.Record{Metric: metricShare, Unit: result.Ratio, Value: 1 + share, Better: result.Less, Control: true})
			if quiet > 0 {
				add(result.Record{Metric: metricGap, Unit: result.Ratio, Value: gap.Seconds() / quiet.Seconds(), Better: result.Less, Control: true})
			}
			quiet = max(gap, time.Microsecond)
			continue
		}
		add(result.Record{Metric: metricInForce, Unit: result.Seconds, Value: c.took.Seconds()})
		if c.what == naiveChange {
			continue // that it loses is its purpose
		}
		add(result.Record{Metric: metricShare, Unit: result.Ratio, Value: share, Better: result.Less})
		if quiet > 0 {
			add(result.Record{Metric: metricGap, Unit: result.Ratio, Value: gap.Seconds() / quiet.Seconds(), Better: result.Less})
		}
	}
	return out
}

// writeSwitch prints a line for each change.
func writeSwitch(w io.Writer, all []figure) {
	t := newTable(w, "change under traffic", "times", "packets sent", "lost", "in force after, median", "at most", "longest gap")
	order, of := bySetting(all)
	for _, what := range order {
		f := of[what]
		row := table.Row{what, f[metricSent].N, fmt.Sprintf("%.0f", f[metricSent].Sum), fmt.Sprintf("%.0f", f[metricLost].Sum), "-", "-", inUnit(result.Seconds, f[metricGap].Most)}
		if took, ok := f[metricInForce]; ok {
			row[4], row[5] = inUnit(result.Seconds, took.Value), inUnit(result.Seconds, took.Most)
		}
		t.AppendRow(row)
	}
	t.Render()
	fmt.Fprintln(w, "Sent and lost are sums of all times. The gap is the longest of a pair without an arrival, the machine's own pauses included: see \""+quietWindow+"\".")
}
