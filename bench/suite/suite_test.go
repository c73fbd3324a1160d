package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/bench/report"
	"weft/bench/result"
)

// The parts of these tests are this test's own program, which then measures nothing and writes a record.
const actAs = "WEFT_SUITE_TEST_PART"

func TestMain(m *testing.M) {
	if how := os.Getenv(actAs); how != "" {
		os.Exit(act(how, os.Args[1]))
	}
	os.Exit(m.Run())
}

func act(how, dir string) int {
	f, err := os.Create(filepath.Join(dir, filepath.Base(dir)+".jsonl"))
	if err != nil {
		return 9
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT)
	r := result.Record{Schema: result.Schema, Experiment: filepath.Base(dir), Run: "r", Time: time.Now(), Metric: "m", Unit: result.Count, Value: 7}
	if how == "nothing" {
		return 0
	}
	if err := result.NewWriter(f).Write(r); err != nil {
		return 9
	}
	switch how {
	case "fails":
		fmt.Fprintf(os.Stderr, "something\nthe lab has no such node\n\n")
		return 3
	case "hangs":
		<-ended
		return 1
	case "deaf":
		time.Sleep(time.Minute)
	case "torn":
		fmt.Fprint(f, `{"schema":1,"exp`)
	}
	return 0
}

// parts makes a part of each "NAME HOW"; without how there is none.
func parts(t *testing.T, list ...string) []Part {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out []Part
	for _, l := range list {
		name, how, _ := strings.Cut(l, " ")
		p := Part{Name: name}
		if how != "" {
			p.Argv = func(dir string) []string { return []string{"/usr/bin/env", actAs + "=" + how, self, dir} }
		}
		out = append(out, p)
	}
	return out
}

func newSuite(t *testing.T, list ...string) (*Suite, *bytes.Buffer) {
	var log bytes.Buffer
	s := New("v", parts(t, list...))
	s.Budget, s.Grace, s.Out, s.Log = 20*time.Second, 10*time.Second, &log, &log
	return s, &log
}

// One that fails is named with its reason; it and all others keep what they measured.
func TestPartsFailAlone(t *testing.T) {
	s, log := newSuite(t, "one good", "two fails", "three nothing", "four", "five torn", "six good")
	var file bytes.Buffer
	records, err := s.Run(t.Context(), &file)
	if !errors.Is(err, ErrParts) || !strings.Contains(err.Error(), "two, three, four") {
		t.Errorf("got %v, want two, three and four to have failed\n%s", err, log)
	}
	written, err := result.Read(&file)
	if err != nil || len(written) != len(records) {
		t.Errorf("%d records in the file (%v), %d returned", len(written), err, len(records))
	}
	if got, want := fmt.Sprint(report.Experiments(written)), "[one two five six]"; got != want {
		t.Errorf("experiments %s, want %s", got, want)
	}
	failed := strings.Join(report.Failed(written), "\n")
	for _, want := range []string{"two: exit status 3: the lab has no such node", "three: it wrote no record", "four: this program has no weft bench four"} {
		if !strings.Contains(failed, want) {
			t.Errorf("the file does not say %q:\n%s", want, failed)
		}
	}
	loads, times := 0, 0
	for _, r := range written {
		switch r.Metric {
		case report.LoadAverage:
			loads++
		case report.PartTime:
			times++
		}
		if r.Experiment == report.Suite && (r.Machine.Kernel == "" || r.Run == "") {
			t.Errorf("a record without machine or run: %+v", r)
		}
	}
	if loads != 7 || times != 6 {
		t.Errorf("%d load averages and %d times, want 7 and 6", loads, times)
	}
	if s, log := newSuite(t, "one good"); true {
		if _, err := s.Run(t.Context(), &file); err != nil {
			t.Errorf("nothing failed, but %v\n%s", err, log)
		}
	}
}

// A part that takes too long is told to end, and killed where it does not listen; the next ones run.
func TestShareOfTheTime(t *testing.T) {
	for _, c := range []struct{ how, want string }{{"hangs", "its share of the time, "}, {"deaf", "was killed"}} {
		s, log := newSuite(t, "one "+c.how, "two good")
		s.Share, s.Grace = 0.08, 500*time.Millisecond
		begin := time.Now()
		records, err := s.Run(t.Context(), &bytes.Buffer{})
		if failed := strings.Join(report.Failed(records), "\n"); err == nil || !strings.Contains(failed, c.want) {
			t.Errorf("%s: %v, the file says %q, want %q\n%s", c.how, err, failed, c.want, log)
		}
		if got := fmt.Sprint(report.Experiments(records)); got != "[one two]" {
			t.Errorf("%s: experiments %s", c.how, got)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s: took %v", c.how, took)
		}
	}
}

// However long parts take, the last one is measured.
func TestNoPartTakesAll(t *testing.T) {
	s, log := newSuite(t, "one hangs", "two hangs", "three good")
	s.Budget, s.Grace = 10*time.Second, time.Second
	records, err := s.Run(t.Context(), &bytes.Buffer{})
	failed := strings.Join(report.Failed(records), "\n")
	if !errors.Is(err, ErrParts) || strings.Contains(failed, "three") || strings.Count(failed, "its share of the time") != 2 {
		t.Errorf("%v; the file says:\n%s\n%s", err, failed, log)
	}
}

// The time for all ends the part that runs and begins no other.
func TestBudget(t *testing.T) {
	s, log := newSuite(t, "one hangs", "two good")
	s.Budget, s.Grace, s.Share = 3*time.Second, 2*time.Second, 4 // a third of four times what is left: all, and more
	records, err := s.Run(t.Context(), &bytes.Buffer{})
	failed := strings.Join(report.Failed(records), "\n")
	if err == nil || !strings.Contains(failed, "one: the time for all, 3s, is over") || !strings.Contains(failed, "two: not begun") {
		t.Errorf("%v; the file says:\n%s\n%s", err, failed, log)
	}
}

// Who interrupts keeps what was measured, in the file too.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(500*time.Millisecond, func() { cancel(errors.New("enough")) })
	s, log := newSuite(t, "one good", "two hangs", "three good")
	var file bytes.Buffer
	records, err := s.Run(ctx, &file)
	if err == nil || !strings.Contains(strings.Join(report.Failed(records), "\n"), "three: not begun: enough") {
		t.Errorf("%v\n%s", err, log)
	}
	written, err := result.Read(&file)
	if got := fmt.Sprint(report.Experiments(written)); err != nil || got != "[one two]" {
		t.Errorf("experiments in the file: %s, %v", got, err)
	}
}
