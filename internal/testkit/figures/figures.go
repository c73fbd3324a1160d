// Package figures lets a test that measures something leave what it measured as records, for docs/performance.md
// (make bench-tests).
package figures

import (
	"cmp"
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/bench/report"
	"weft/bench/result"
)

const (
	// file is where records are appended; unset: nowhere. version is the program's, as make knows it.
	file    = "WEFT_FIGURES"
	version = "WEFT_FIGURES_VERSION"
)

// Write appends records of an experiment, completed with what all have, and the load average at this moment.
func Write(t testing.TB, experiment string, records ...result.Record) {
	t.Helper()
	name := os.Getenv(file)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("write figures: %v", err)
	}
	defer f.Close()
	run := strings.ToLower(rand.Text()[:12])
	write := func(r result.Record) {
		r.Schema, r.Run, r.Time, r.Version, r.Machine = result.Schema, run, time.Now().UTC(), cmp.Or(os.Getenv(version), "unknown"), result.ThisMachine()
		r.Experiment = cmp.Or(r.Experiment, experiment)
		if err := result.NewWriter(f).Write(r); err != nil {
			t.Fatalf("write figures: %v", err)
		}
	}
	for _, r := range records {
		write(r)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	if v, err := strconv.ParseFloat(strings.SplitN(string(load), " ", 2)[0], 64); err == nil {
		write(result.Record{Experiment: report.Suite, Metric: report.LoadAverage, Unit: result.Count, Value: v, Setting: "after " + experiment})
	}
}

// Seconds are records of durations that were measured one after the other.
func Seconds(metric, setting string, took ...time.Duration) (out []result.Record) {
	for i, d := range took {
		out = append(out, result.Record{Metric: metric, Unit: result.Seconds, Setting: setting, Round: i + 1, Value: d.Seconds()})
	}
	return out
}

// Share are two records: how many there were of one thing, and of how many.
func Share(setting, metric string, n int64, of string, total int64) []result.Record {
	return []result.Record{{Metric: metric, Unit: result.Count, Setting: setting, Value: float64(n)},
		{Metric: of, Unit: result.Count, Setting: setting, Value: float64(total)}}
}

// Ratios are records of one thing beside another, in rounds; more is better.
func Ratios(metric, setting string, ratios ...float64) (out []result.Record) {
	for i, v := range ratios {
		out = append(out, result.Record{Metric: metric, Unit: result.Ratio, Setting: setting, Round: i + 1, Value: v, Better: result.More})
	}
	return out
}
