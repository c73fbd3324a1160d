// Package suite runs measurements one after the other, each a process of its own, within a time that is given, and
// keeps what they measured in one file. It measures nothing but the machine's load.
package suite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/bench/report"
	"weft/bench/result"
)

// Part is one measurement: a program that leaves its records in Dir/Name.jsonl.
type Part struct {
	Name string
	Argv func(dir string) []string // nil: this program cannot measure it
}

// Suite runs parts.
type Suite struct {
	Parts  []Part
	Budget time.Duration // for all of them
	// Share is how much of the time that is left a part may take, with n of them left: Share/(n+1). With 2, the usual one,
	// the first of seven gets a quarter and the last one all that is left, and none can leave nothing to those behind it.
	Share float64
	Grace time.Duration // from the time a part is told to end until it is killed
	Base  result.Record // what this suite's own records have
	Out   io.Writer     // what parts print
	Log   io.Writer
}

// New returns a suite with limits that fit many labs one after the other.
func New(version string, parts []Part) *Suite {
	return &Suite{Parts: parts, Share: 2, Grace: 30 * time.Second,
		Base: result.Record{Schema: result.Schema, Experiment: report.Suite, Run: strings.ToLower(rand.Text()[:12]), Version: version,
			Commit: result.Commit(), Machine: result.ThisMachine()}}
}

// ErrParts is what Run returns when a part failed and all others were measured.
var ErrParts = errors.New("not everything was measured")

// Run runs all parts and writes their records into the file as each ends. A part that fails is an error in the end, and
// what it measured is kept; ctx ends all.
func (s *Suite) Run(ctx context.Context, file io.Writer) ([]result.Record, error) {
	begin := time.Now()
	ctx, cancel := context.WithDeadlineCause(ctx, begin.Add(s.Budget-s.Grace), fmt.Errorf("the time for all, %v, is over", s.Budget))
	defer cancel()
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the parts: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &book{base: s.Base, w: result.NewWriter(file)}
	b.load("before")
	var failed []string
	for i, p := range s.Parts {
		fmt.Fprintf(s.Log, "== %s, %d of %d; %v of %v are over\n", p.Name, i+1, len(s.Parts), time.Since(begin).Round(time.Second), s.Budget)
		start := time.Now()
		err := s.part(ctx, p, s.share(ctx, len(s.Parts)-i), dir, b)
		b.own(report.PartTime, result.Seconds, time.Since(start).Seconds(), p.Name)
		b.load("after " + p.Name)
		if err != nil {
			failed = append(failed, p.Name)
			b.own(report.PartFailed, result.Count, 1, p.Name+": "+err.Error())
			fmt.Fprintf(s.Log, "== %s failed: %v\n", p.Name, err)
		}
		if b.err != nil {
			return b.all, fmt.Errorf("write the results: %w", b.err)
		}
	}
	if len(failed) > 0 {
		return b.all, fmt.Errorf("%w: %s", ErrParts, strings.Join(failed, ", "))
	}
	return b.all, nil
}

// share is how long a part may take when n of them are left, itself one of them.
func (s *Suite) share(ctx context.Context, n int) time.Duration {
	end, _ := ctx.Deadline()
	return time.Duration(float64(time.Until(end)) * s.Share / float64(n+1))
}

// part runs one for no longer than the limit and takes over what it wrote.
func (s *Suite) part(ctx context.Context, p Part, limit time.Duration, dir string, b *book) error {
	if p.Argv == nil {
		return fmt.Errorf("this program has no weft bench %s", p.Name)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("not begun: %w", context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("its share of the time, %v, is over", limit.Round(100*time.Millisecond)))
	defer cancel()
	own := filepath.Join(dir, p.Name)
	if err := os.Mkdir(own, 0o755); err != nil {
		return err
	}
	runErr := s.process(ctx, p.Argv(own))
	records, err := readFile(filepath.Join(own, p.Name+".jsonl"))
	for _, r := range records {
		b.add(r)
	}
	if runErr == nil && err == nil && len(records) == 0 {
		err = errors.New("it wrote no record")
	}
	if errors.Is(err, os.ErrNotExist) && runErr != nil {
		err = nil // it ended before it could
	}
	return errors.Join(runErr, err)
}

func readFile(name string) ([]result.Record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return result.Read(f)
}

// book is the file, and what is in it.
type book struct {
	base result.Record
	w    *result.Writer
	all  []result.Record
	err  error
}

func (b *book) add(r result.Record) {
	b.err = errors.Join(b.err, b.w.Write(r))
	b.all = append(b.all, r)
}

func (b *book) own(metric string, unit result.Unit, value float64, setting string) {
	r := b.base
	r.Time, r.Metric, r.Unit, r.Value, r.Setting = time.Now().UTC(), metric, unit, value, setting
	b.add(r)
}

// load notes the load average of a minute (proc(5)); nothing where the kernel tells none.
func (b *book) load(when string) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return
	}
	one, _, _ := strings.Cut(string(text), " ")
	if v, err := strconv.ParseFloat(one, 64); err == nil {
		b.own(report.LoadAverage, result.Count, v, when)
	}
}
