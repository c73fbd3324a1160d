package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"weft/bench/load"
	"weft/bench/report"
	"weft/bench/result"
)

// encapWay is one of the ways that take turns.
type encapWay struct {
	report.Encapsulation
	hand   bool // configured by hand
	again  bool // plain routing a second time
	client *load.Client
}

func (w encapWay) String() string {
	switch {
	case w.hand:
		return w.Encapsulation.String() + " by hand"
	case w.again:
		return w.Encapsulation.String() + " again"
	}
	return w.Encapsulation.String()
}

func (w encapWay) plain() bool { return w.Name == "none" && !w.hand && !w.again }

// What a record's Setting says.
const (
	settingHand  = "by hand"
	settingAgain = "again"
	toPlain      = "to plain routing"
	toHand       = "to the same by hand"
	toItself     = "to itself"
	encapBytes   = 64 // of a small packet and of a request
)

// encapRun measures all ways in rounds.
type encapRun struct {
	ways     []encapWay
	rounds   int
	time     time.Duration
	write    func(result.Record) error
	progress func(done, all int, now string, left time.Duration)

	done, all int
	began     time.Time
}

func (r *encapRun) has(e report.Encapsulation) bool {
	return slices.ContainsFunc(r.ways, func(w encapWay) bool { return !w.hand && w.Encapsulation == e })
}

// encapTries is how often one measurement is tried, each time for longer: on a busy machine nothing may arrive in a short one.
const encapTries = 4

// encapWorks are what is measured of each way, one after the other in each round.
var encapWorks = []struct {
	name string
	do   func(context.Context, *load.Client, time.Duration) ([]result.Record, error)
}{
	{"TCP, 1 stream", func(ctx context.Context, c *load.Client, d time.Duration) ([]result.Record, error) {
		return encapTCP(ctx, c, 1, d)
	}},
	{"TCP, 4 streams", func(ctx context.Context, c *load.Client, d time.Duration) ([]result.Record, error) {
		return encapTCP(ctx, c, 4, d)
	}},
	{"small packets", encapPackets},
	{"requests", encapRequests},
}

func encapTCP(ctx context.Context, c *load.Client, streams int, d time.Duration) ([]result.Record, error) {
	f, err := c.TCP(ctx, streams, d)
	return []result.Record{
		{Metric: report.Throughput, Unit: result.BitsPerSecond, Streams: streams, Value: f.Rate, Better: result.More},
		{Metric: report.CPU, Unit: result.SecondsPerGbit, Streams: streams, Side: "both", Value: f.Receiver.Seconds() / (max(f.Bits, 1) / 1e9), Better: result.Less},
	}, err
}

func encapPackets(ctx context.Context, c *load.Client, d time.Duration) ([]result.Record, error) {
	f, err := c.Packets(ctx, encapBytes, d)
	return []result.Record{
		{Metric: report.PacketsReceived, Unit: result.PacketsPerSecond, Size: encapBytes, Value: f.Rate, Better: result.More},
		{Metric: report.PacketsSent, Unit: result.PacketsPerSecond, Size: encapBytes, Value: f.Sent},
	}, err
}

func encapRequests(ctx context.Context, c *load.Client, d time.Duration) ([]result.Record, error) {
	l, err := c.Requests(ctx, encapBytes, d)
	out := []result.Record{{Metric: report.Requests, Unit: result.Count, Size: encapBytes, Value: float64(len(l))}}
	if len(l) == 0 { // on a machine that had no time for any
		return out, err
	}
	return append(out,
		result.Record{Metric: report.LatencyP50, Unit: result.Seconds, Size: encapBytes, Value: l.Percentile(0.5).Seconds(), Better: result.Less},
		result.Record{Metric: report.LatencyP99, Unit: result.Seconds, Size: encapBytes, Value: l.Percentile(0.99).Seconds(), Better: result.Less}), err
}

// run measures. What it measured before an error was written.
func (r *encapRun) run(ctx context.Context) error {
	if !slices.ContainsFunc(r.ways, encapWay.plain) {
		return errors.New("nothing to compare with: plain routing is not there")
	}
	r.all, r.began = r.rounds*len(encapWorks)*len(r.ways), time.Now()
	ways := slices.Clone(r.ways)
	for round := 1; round <= r.rounds; round++ {
		for _, work := range encapWorks {
			of := map[string][]result.Record{}
			for _, w := range ways {
				r.tell(fmt.Sprintf("round %d, %v, %s", round, w, work.name))
				records, err := work.do(ctx, w.client, r.time)
				for try := 1; err != nil && ctx.Err() == nil && try < encapTries; try++ {
					records, err = work.do(ctx, w.client, r.time<<try)
				}
				if err != nil {
					return fmt.Errorf("%v, %s: %w", w, work.name, err)
				}
				of[w.String()] = records
				r.done++
			}
			if err := r.record(round, of); err != nil {
				return err
			}
		}
		slices.Reverse(ways) // so that a load that grows or shrinks favours none
	}
	r.tell("done")
	return nil
}

func (r *encapRun) tell(now string) {
	each := r.time + r.time/3
	if r.done > 0 {
		each = time.Since(r.began) / time.Duration(r.done)
	}
	r.progress(r.done, r.all, now, time.Duration(r.all-r.done)*each)
}

// record writes what one round measured of one work, and its ratios.
func (r *encapRun) record(round int, of map[string][]result.Record) error {
	var errs []error
	for _, w := range r.ways {
		for _, rec := range of[w.String()] {
			rec.Better = "" // values are not compared, ratios are
			rec.Encapsulation, rec.Way, rec.Round = w.Name, w.Way, round
			switch {
			case w.hand:
				rec.Setting = settingHand
			case w.again:
				rec.Setting = settingAgain
			}
			errs = append(errs, r.write(rec))
		}
	}
	for _, rec := range encapRatios(r.ways, of) {
		rec.Round = round
		errs = append(errs, r.write(rec))
	}
	return errors.Join(errs...)
}

// encapRatios divides the values of each way by those of plain routing, and by those of the same made by hand.
func encapRatios(ways []encapWay, of map[string][]result.Record) []result.Record {
	var out []result.Record
	ratio := func(w, to encapWay, setting string) {
		reference := of[to.String()]
		for i, rec := range of[w.String()] {
			if rec.Better == "" || i >= len(reference) || reference[i].Value <= 0 || rec.Value <= 0 {
				continue
			}
			rec.Encapsulation, rec.Way, rec.Setting, rec.Unit, rec.Value, rec.Control = w.Name, w.Way, setting, result.Ratio, rec.Value/reference[i].Value, w.again
			out = append(out, rec)
		}
	}
	plain := encapWay{Encapsulation: report.Encapsulation{Name: "none"}}
	for _, w := range ways {
		switch {
		case w.hand:
		case w.again:
			ratio(w, plain, toItself)
		default:
			if !w.plain() {
				ratio(w, plain, toPlain)
			}
			hand := encapWay{Encapsulation: w.Encapsulation, hand: true}
			if w.Name == "crosssubnet" {
				hand.Encapsulation = plain.Encapsulation // what it is within a subnet
			}
			ratio(w, hand, toHand)
		}
	}
	return out
}

func encapsulationOf(k result.Key) report.Encapsulation {
	return report.Encapsulation{Name: k.Encapsulation, Way: k.Way}
}

// encapColumns are the columns of the table.
var encapColumns = []struct {
	title, metric string
	streams       int
}{
	{"TCP, 1", report.Throughput, 1}, {"TCP, 4", report.Throughput, 4}, {"packets/s", report.PacketsReceived, 0},
	{"p50", report.LatencyP50, 0}, {"p99", report.LatencyP99, 0}, {"processor/Gbit, 4", report.CPU, 4},
}

// writeEncap prints ratios: a line for each pair of ways.
func writeEncap(w io.Writer, all []figure) {
	type line struct{ what, setting string }
	cells := map[line]map[string]string{}
	var order []line
	rounds := 0
	for _, f := range all {
		if f.Unit != result.Ratio {
			continue
		}
		rounds = max(rounds, f.N)
		l := line{encapsulationOf(f.Key).String(), f.Setting}
		if cells[l] == nil {
			cells[l], order = map[string]string{}, append(order, l)
		}
		for _, c := range encapColumns {
			if c.metric == f.Metric && c.streams == f.Streams {
				cells[l][c.title] = fmt.Sprintf("%.2f\n%.2f-%.2f", f.Value, f.Low, f.High)
			}
		}
	}
	header := []any{"ratio of", "to"}
	for _, c := range encapColumns {
		header = append(header, c.title)
	}
	t := newTable(w, header...)
	t.Style().Options.SeparateRows = true
	for _, l := range order {
		row := table.Row{l.what, l.setting[len("to "):]}
		for _, c := range encapColumns {
			row = append(row, cells[l][c.title])
		}
		t.AppendRow(row)
	}
	t.Render()
	fmt.Fprintf(w, "Medians of %d rounds, below them the range that holds the median at 95 %%. Times and processor time: less is better.\n"+
		"Plain routing to itself, between other pods of the same nodes, is the control: how far it is from 1 is noise.\n", rounds)
}
