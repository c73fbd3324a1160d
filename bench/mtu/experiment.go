// Package mtu measures what each encapsulation carries at each MTU, and writes it down: the experiment of
// `weft bench mtu`. Paths are given to it, by a lab or by two hosts; traffic is bench/load's, and what it means
// bench/report's.
package mtu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/bench/load"
	"weft/bench/report"
	"weft/bench/result"
)

// Path is one encapsulation between two ends.
type Path struct {
	report.Encapsulation
	ID     string // among the paths of a lab
	Client *load.Client
	// Most is the MTU of the path's interfaces: what does fit is found by probes up to it.
	Most int
	// Overhead is how many bytes the encapsulation adds.
	Overhead int
	// SetMTU bounds what is sent from now on.
	SetMTU func(ctx context.Context, mtu int) error

	mtus []int
}

// Experiment is what is measured.
type Experiment struct {
	Rounds  int
	Time    time.Duration // of one measurement, without what settles before it
	Streams []int         // numbers of TCP streams at once
	MTUs    []int         // to try, of each path those that fit; none: Candidates
	Few     bool          // candidates: the shortest list that tells something
	Write   func(result.Record) error
	Base    result.Record // what all records have
	Say     func(format string, args ...any)
	// Progress tells how many of all measurements are done, before each and after the last.
	Progress func(done, all int, now string, left time.Duration)

	done, all int
	began     time.Time
}

const (
	leastMTU = 576 // every IPv4 host takes that (RFC 791)
	// smallBytes is the size of a request and of a small packet's payload.
	smallBytes = 64
)

// Done returns how many measurements were made, of how many.
func (e *Experiment) Done() (done, all int) { return e.done, e.all }

// Run measures all paths, in rounds, in which they take turns. What it measured before an error was written.
func (e *Experiment) Run(ctx context.Context, paths []*Path) error {
	if err := e.find(ctx, paths); err != nil {
		return err
	}
	var tries []try
	for _, p := range paths {
		for _, m := range p.mtus {
			tries = append(tries, try{p, m})
		}
	}
	// Sides by side: of near MTUs all encapsulations one after the other.
	slices.SortStableFunc(tries, func(a, b try) int { return (a.mtu + a.path.Overhead) - (b.mtu + b.path.Overhead) })
	e.all = e.Rounds * (len(tries)*len(e.Streams) + 2*len(paths))
	e.began = time.Now()
	for round := 1; round <= e.Rounds; round++ {
		for _, t := range tries {
			if err := e.try(ctx, t, round); err != nil {
				return err
			}
		}
		slices.Reverse(tries) // so that a load that grows or shrinks favours none
	}
	e.tell("done")
	return nil
}

// try is a path at an MTU.
type try struct {
	path *Path
	mtu  int
}

func (e *Experiment) tell(now string) {
	if e.Progress == nil {
		return
	}
	each := e.Time + e.Time/3 // what settles, and a moment for connections
	if e.done > 0 {
		each = time.Since(e.began) / time.Duration(e.done)
	}
	e.Progress(e.done, e.all, now, time.Duration(e.all-e.done)*each)
}

// find probes what fits each path and chooses the MTUs to try.
func (e *Experiment) find(ctx context.Context, paths []*Path) error {
	for _, p := range paths {
		fits, err := p.Client.MTU(ctx, min(leastMTU, p.Most), p.Most)
		if err != nil {
			return fmt.Errorf("%v: find the MTU of the path: %w", p.Encapsulation, err)
		}
		if err := e.record(p, fits, 0, result.Record{Metric: report.PathMTU, Unit: result.Bytes, Value: float64(fits)}); err != nil {
			return err
		}
		p.mtus = Candidates(fits, p.Overhead, e.Few)
		if len(e.MTUs) > 0 {
			p.mtus = slices.DeleteFunc(slices.Clone(e.MTUs), func(m int) bool { return m > fits })
		}
		if len(p.mtus) == 0 {
			return fmt.Errorf("%v: none of the MTUs %v fits: a packet of %d bytes does", p.Encapsulation, e.MTUs, fits)
		}
		e.Say("%v: %d bytes fit; trying MTUs %s", p.Encapsulation, fits, strings.Trim(fmt.Sprint(p.mtus), "[]"))
	}
	return nil
}

// Candidates returns the MTUs to try where fits bytes pass, with an encapsulation that adds overhead, ascending: what
// IPv6 needs at least, what common networks carry, and steps up to the limit; few leaves most of them out.
func Candidates(fits, overhead int, few bool) []int {
	all := []int{1280, 1400, 1440, 1500 - overhead, 3000, 6000, fits}
	if few {
		all = []int{1280, 1500 - overhead, fits}
	}
	ok := map[int]bool{}
	for _, m := range all {
		// One that is nearly the limit tells nothing that the limit does not.
		if m == fits || m < fits-16 && m >= leastMTU {
			ok[m] = true
		}
	}
	return slices.Sorted(maps.Keys(ok))
}

func (e *Experiment) try(ctx context.Context, t try, round int) error {
	p := t.path
	if err := p.SetMTU(ctx, t.mtu); err != nil {
		return fmt.Errorf("%v: set MTU %d: %w", p.Encapsulation, t.mtu, err)
	}
	for _, n := range e.Streams {
		e.tell(fmt.Sprintf("round %d, %v, MTU %d, TCP %d", round, p.Encapsulation, t.mtu, n))
		f, err := e.patiently(func(d time.Duration) (load.Flow, error) { return p.Client.TCP(ctx, n, d) })
		if err != nil {
			return fmt.Errorf("%v, MTU %d: %w", p.Encapsulation, t.mtu, err)
		}
		records := append(cpu(p, f),
			result.Record{Metric: report.Throughput, Unit: result.BitsPerSecond, Value: f.Rate},
			result.Record{Metric: report.Retransmits, Unit: result.Count, Value: float64(f.Retransmits)})
		for _, r := range records {
			r.Streams = n
			if err := e.record(p, t.mtu, round, r); err != nil {
				return err
			}
		}
		e.done++
	}
	if t.mtu != p.mtus[len(p.mtus)-1] { // small packets are the same at every MTU
		return nil
	}
	return e.small(ctx, t, round)
}

// patiently measures for the usual time, and once more for longer where nothing came through in it.
func (e *Experiment) patiently(measure func(time.Duration) (load.Flow, error)) (load.Flow, error) {
	f, err := measure(e.Time)
	if errors.Is(err, load.ErrNothing) {
		longer := max(5*e.Time, time.Second)
		e.tell(fmt.Sprintf("nothing came through in %v; once more, %v", e.Time, longer))
		f, err = measure(longer)
	}
	return f, err
}

// cpu returns what the processors did for a gigabit.
func cpu(p *Path, f load.Flow) []result.Record {
	each := func(side string, d time.Duration) result.Record {
		return result.Record{Side: side, Metric: report.CPU, Unit: result.SecondsPerGbit, Value: d.Seconds() / (f.Bits / 1e9)}
	}
	if p.Client.SameMachine {
		return []result.Record{each("both", f.Receiver)}
	}
	return []result.Record{each("sender", f.Sender), each("receiver", f.Receiver)}
}

// small measures requests and packets of 64 bytes.
func (e *Experiment) small(ctx context.Context, t try, round int) error {
	p := t.path
	e.tell(fmt.Sprintf("round %d, %v, requests", round, p.Encapsulation))
	var l load.Latencies
	_, err := e.patiently(func(d time.Duration) (load.Flow, error) {
		var err error
		if l, err = p.Client.Requests(ctx, smallBytes, d); err == nil && len(l) == 0 {
			err = fmt.Errorf("not one request was answered within %v: %w", d, load.ErrNothing)
		}
		return load.Flow{}, err
	})
	if err != nil {
		return fmt.Errorf("%v: %w", p.Encapsulation, err)
	}
	e.done++
	e.tell(fmt.Sprintf("round %d, %v, small packets", round, p.Encapsulation))
	f, err := p.Client.Packets(ctx, smallBytes, e.Time)
	if err != nil {
		return fmt.Errorf("%v: %w", p.Encapsulation, err)
	}
	e.done++
	seconds := func(metric string, share float64) result.Record {
		return result.Record{Metric: metric, Unit: result.Seconds, Value: l.Percentile(share).Seconds()}
	}
	var errs []error
	for _, r := range []result.Record{
		seconds(report.LatencyP50, 0.5), seconds(report.LatencyP90, 0.9), seconds(report.LatencyP99, 0.99), seconds(report.LatencyP999, 0.999),
		{Metric: report.Requests, Unit: result.Count, Value: float64(len(l))},
		{Metric: report.PacketsReceived, Unit: result.PacketsPerSecond, Value: f.Rate},
		{Metric: report.PacketsSent, Unit: result.PacketsPerSecond, Value: f.Sent},
	} {
		r.Size = smallBytes
		errs = append(errs, e.record(p, t.mtu, round, r))
	}
	return errors.Join(errs...)
}

// record completes a record and writes it.
func (e *Experiment) record(p *Path, mtu, round int, r result.Record) error {
	full := e.Base
	full.Time = time.Now().UTC()
	if !p.Client.SameMachine {
		full.Peer = &p.Client.Machine
	}
	full.Encapsulation, full.Way, full.MTU, full.Round = p.Name, p.Way, mtu, round
	full.Streams, full.Size, full.Side, full.Metric, full.Unit, full.Value = r.Streams, r.Size, r.Side, r.Metric, r.Unit, r.Value
	return e.Write(full)
}
