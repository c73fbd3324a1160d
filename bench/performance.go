package bench

import (
	_ "embed"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"weft/bench/compare"
	"weft/bench/report"
	"weft/bench/result"
)

//go:embed performance.md.tmpl
var performancePage string

// claim is a figure that is asked of this project: where it is measured, and how it is judged.
type claim struct {
	what  string
	asked string // in words; empty: no figure is asked, it is told
	how   string // what measures it

	experiment, metric string
	setting            string   // what the record's Setting contains
	except             []string // and what it does not
	merge              bool     // all settings in one row
	streams            int      // 0: any
	encapsulations     []string // none: any
	way                string   // empty: any
	ratio              bool     // only ratios; else only what is none
	// stat is what is taken of the values.
	stat stat
	// of is the metric whose sum is the denominator of a sum.
	of      string
	percent bool   // a share is told as one
	control bool   // what is measured is to be bad: else the claim before would say nothing
	goes    string // where it goes, for where it is not met
	// within says whether a value is what is asked; noise is how far the experiment's controls are from 1.
	within func(value, noise float64) bool
}

type stat int

const (
	atMedian stat = iota
	atP99
	inAll
)

func atMost(limit float64) func(float64, float64) bool {
	return func(v, _ float64) bool { return v <= limit }
}

func atLeast(limit float64) func(float64, float64) bool {
	return func(v, _ float64) bool { return v >= limit }
}

// mostNoise is how far a reference may be from itself for a ratio to be judged.
const mostNoise = 0.15

// asTheReference holds when a ratio is 1 or more, as far as the noise lets see.
func asTheReference(v, noise float64) bool { return v >= 1-noise }

// row is a claim and what a file says of it.
type row struct{ What, Asked, Measured, N, Verdict, How, Goes string }

// rowsOf judges the claims by records: a row for each thing that a claim is measured of, or one that says that it is not.
func rowsOf(claims []claim, records []result.Record) []row {
	groups, noise := report.Groups(records), compare.NoiseOf(records)
	var out []row
	for _, c := range claims {
		mine := c.groups(groups)
		if len(mine) == 0 {
			out = append(out, row{What: c.what, Asked: c.words(), Measured: "not measured in these files", How: c.how})
		}
		for _, g := range mine {
			out = append(out, c.row(g, groups, noise.Of(g.Key)))
		}
	}
	return out
}

func (c claim) words() string {
	if c.asked == "" {
		return "no figure"
	}
	return c.asked
}

// groups are those that the claim is about; merged, they are one.
func (c claim) groups(all []report.Group) (out []report.Group) {
	for _, g := range all {
		switch {
		case !c.matches(g.Key):
		case c.merge && len(out) > 0:
			out[0].Values = append(slices.Clip(out[0].Values), g.Values...)
		default:
			out = append(out, g)
		}
	}
	if c.merge && len(out) > 0 {
		out[0].Key.Setting = ""
	}
	return out
}

func (c claim) matches(k result.Key) bool {
	if slices.ContainsFunc(c.except, func(s string) bool { return strings.Contains(k.Setting, s) }) {
		return false
	}
	return k.Experiment == c.experiment && k.Metric == c.metric && strings.Contains(k.Setting, c.setting) && !k.Control &&
		(k.Unit == result.Ratio) == c.ratio && (c.streams == 0 || k.Streams == c.streams) &&
		(len(c.encapsulations) == 0 || slices.Contains(c.encapsulations, k.Encapsulation)) && (c.way == "" || k.Way == c.way)
}

func (c claim) row(g report.Group, all []report.Group, noise float64) row {
	r := row{What: c.what, Asked: c.words(), How: c.how, N: fmt.Sprint(len(g.Values))}
	for _, part := range []string{subject(g.Key), g.Key.Setting} {
		if part != "" && part != c.setting {
			r.What += ", " + part
		}
	}
	m := compare.MedianOf(g.Values)
	value, empty := m.Value, false
	switch c.stat {
	case atMedian:
		r.Measured = report.Value(report.Spread{Low: m.Low, Median: m.Value, High: m.High, N: m.N}, g.Key.Unit)
	case atP99:
		value = rank(g.Values, 99)
		r.Measured = report.Value(report.Spread{Low: value, Median: value, High: value, N: 1}, g.Key.Unit)
	case inAll:
		value = total(g)
		of := c.denominator(g.Key, all)
		r.Measured, empty = fmt.Sprintf("%.0f of %.0f", value, of), of == 0
	}
	if c.percent {
		r.Measured = fmt.Sprintf("%.2f %%", 100*value)
	}
	if noise > 0 && c.ratio {
		r.Measured += fmt.Sprintf("; noise %.2f", noise)
	}
	switch {
	case empty: // of nothing, none is no result
		r.Verdict = "not measured"
	case c.control && value == 0: // what counts does not see what is there
		r.Verdict = "**blind**"
	case c.control:
		r.Verdict = "control"
	case c.within == nil:
	case c.ratio && noise > mostNoise:
		r.Verdict = "too noisy to judge"
	case c.within(value, noise):
		r.Verdict = "met"
	default:
		r.Verdict, r.Goes = "**not met**", c.goes
	}
	return r
}

// denominator adds up what a sum is of: the same thing's other metric.
func (c claim) denominator(k result.Key, all []report.Group) (sum float64) {
	other := c
	other.metric = c.of
	for _, g := range all {
		if other.matches(g.Key) && (c.merge || g.Key.Setting == k.Setting) {
			sum += total(g)
		}
	}
	return sum
}

// subject names what a key is of: an encapsulation, or what else has a way.
func subject(k result.Key) string {
	if k.Encapsulation == "" {
		return k.Way
	}
	return report.Encapsulation{Name: k.Encapsulation, Way: k.Way}.String()
}

func total(g report.Group) (sum float64) {
	for _, v := range g.Values {
		sum += v
	}
	return sum
}

// rank returns the value that so many of a hundred do not exceed.
func rank(values []float64, percent int) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[(len(v)*percent+99)/100-1]
}

// source is a file of results and what is in it.
type source struct {
	name    string
	records []result.Record
}

// miss is what is not met for one reason.
type miss struct {
	Goes string
	Rows []row
}

func missed(all []miss, r row) []miss {
	for i := range all {
		if all[i].Goes == r.Goes {
			all[i].Rows = append(all[i].Rows, r)
			return all
		}
	}
	return append(all, miss{r.Goes, []row{r}})
}

// writePerformance writes docs/performance.md of files of results.
func writePerformance(w io.Writer, sources []source) error {
	page, err := template.New("performance").Parse(performancePage)
	if err != nil {
		return err
	}
	var data struct {
		Files   []string
		Origins []struct{ File, Origin string }
		Failed  []string
		Rows    []row
		Missed  []miss
		Open    int
	}
	var all []result.Record
	for _, s := range sources {
		name := filepath.ToSlash(s.name)
		data.Files = append(data.Files, name)
		data.Origins = append(data.Origins, struct{ File, Origin string }{name, report.Origin(s.records)})
		data.Failed = append(data.Failed, report.Failed(s.records)...)
		all = append(all, s.records...)
	}
	data.Rows = rowsOf(claims, all)
	for _, r := range data.Rows {
		if r.N == "" {
			data.Open++
		}
		if r.Goes != "" {
			data.Missed = missed(data.Missed, r)
		}
	}
	var b strings.Builder
	if err := page.Execute(&b, data); err != nil {
		return err
	}
	_, err = io.WriteString(w, b.String())
	return err
}
