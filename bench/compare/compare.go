// Package compare holds two files of measurements against each other. It judges ratios only, each measured beside its
// reference in the same run: absolute values tell of the machine and of who else used it.
package compare

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"

	"weft/bench/result"
)

// Confidence of the intervals around medians.
const Confidence = 0.95

// Median is the median of a sample with the interval in which that of many more values would be, at Confidence. Of
// fewer values than six, which no such interval fits, it is all that was measured.
type Median struct {
	Value float64 `json:"median"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	N     int     `json:"n"`
}

// MedianOf returns the median of values, of which there is at least one. The interval is between two order statistics,
// by the binomial distribution, so it assumes nothing of how values are distributed.
func MedianOf(values []float64) Median {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	m := Median{Value: (v[(n-1)/2] + v[n/2]) / 2, Low: v[0], High: v[n-1], N: n}
	b := distuv.Binomial{N: float64(n), P: 0.5}
	// The k smallest and the k greatest are outside with a probability of twice the chance of fewer than k on a side.
	for k := 1; k <= (n-1)/2 && 2*b.CDF(float64(k)) <= 1-Confidence; k++ {
		m.Low, m.High = v[k], v[n-1-k]
	}
	return m
}

// Verdict is what became of a ratio.
type Verdict string

// Verdicts. Worse and Gone are failures.
const (
	Same   Verdict = "same"
	Better Verdict = "better"
	Worse  Verdict = "WORSE"
	// Unclear is what would be Worse, were the noise less: the rounds of the runs agree on it, and their controls are
	// no better.
	Unclear Verdict = "unclear"
	Gone    Verdict = "NOT MEASURED" // only the old file has it
	New     Verdict = "new"          // only the new file has it
)

// Row is one ratio in both files.
type Row struct {
	Key      result.Key
	Old, New Median  // N is 0 where a file has none
	Change   float64 // share by which it is better, of the old one; negative: worse
	Noise    float64 // the same, as far as the runs' own noise goes
	Verdict  Verdict
}

// Report is what Compare found.
type Report struct {
	Rows    []Row // in the order of their names
	Ignored int   // ratios that do not say which way is good
}

// Failed tells whether something got worse or is not measured any more.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Verdict == Worse || row.Verdict == Gone })
}

// Compare holds the ratios of two runs against each other. One got worse, or better, when the intervals of its medians
// do not meet, and the medians are further apart than the noise: what its controls, see Noise, differ from 1 in
// either run, and at least floor, a share such as 0.02.
func Compare(before, after []result.Record, floor float64) Report {
	var rep Report
	was, is := group(before), group(after)
	noise := NoiseOf(before, after)
	keys := map[result.Key]bool{}
	for _, run := range []map[result.Key][]float64{was, is} {
		for k := range run {
			keys[k] = true
		}
	}
	for k := range keys {
		switch {
		case k.Control || k.Unit != result.Ratio:
		case k.Better == "":
			rep.Ignored++
		default:
			rep.Rows = append(rep.Rows, judge(k, was[k], is[k], floor, max(floor, noise.Of(k))))
		}
	}
	slices.SortFunc(rep.Rows, func(a, b Row) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return rep
}

// Noise is how far controls are from the 1 that they should be.
type Noise map[noiseOf]float64

type noiseOf struct {
	experiment, metric string
	streams            int
}

// NoiseOf returns the noise of runs, each by itself.
func NoiseOf(runs ...[]result.Record) Noise {
	n := Noise{}
	for _, run := range runs {
		for k, values := range group(run) {
			if !k.Control {
				continue
			}
			d := distance(MedianOf(values))
			for _, of := range []noiseOf{{k.Experiment, k.Metric, k.Streams}, {experiment: k.Experiment}} {
				n[of] = max(n[of], d)
			}
		}
	}
	return n
}

// Of returns the noise of a ratio: of the controls of its metric and number of streams, or, where there are none, of
// all controls of its experiment.
func (n Noise) Of(k result.Key) float64 {
	if d, ok := n[noiseOf{k.Experiment, k.Metric, k.Streams}]; ok {
		return d
	}
	return n[noiseOf{experiment: k.Experiment}]
}

func group(records []result.Record) map[result.Key][]float64 {
	out := map[result.Key][]float64{}
	for _, r := range records {
		k := r.Key()
		out[k] = append(out[k], r.Value)
	}
	return out
}

// distance is how far a control is from the 1 that it should be.
func distance(m Median) float64 {
	return max(math.Abs(m.Low-1), math.Abs(m.High-1))
}

func judge(k result.Key, before, after []float64, floor, noise float64) Row {
	row := Row{Key: k, Noise: noise}
	if len(before) > 0 {
		row.Old = MedianOf(before)
	}
	if len(after) > 0 {
		row.New = MedianOf(after)
	}
	switch {
	case row.New.N == 0:
		row.Verdict = Gone
		return row
	case row.Old.N == 0:
		row.Verdict = New
		return row
	}
	row.Change = change(row.Old.Value, row.New.Value)
	apart := row.New.High < row.Old.Low || row.New.Low > row.Old.High
	if k.Better == result.Less {
		row.Change = -row.Change
	}
	switch {
	case !apart || math.Abs(row.Change) <= floor:
		row.Verdict = Same
	case math.Abs(row.Change) <= noise && row.Change < 0:
		row.Verdict = Unclear
	case math.Abs(row.Change) <= noise:
		row.Verdict = Same
	case row.Change < 0:
		row.Verdict = Worse
	default:
		row.Verdict = Better
	}
	return row
}

// change is the share of a by which b is greater. From 0, whatever is more is all of it.
func change(a, b float64) float64 {
	if a == 0 {
		return float64(cmp.Compare(b, 0))
	}
	return (b - a) / math.Abs(a)
}
