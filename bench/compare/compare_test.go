package compare

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/bench/result"
)

// rounds makes the records of one metric, a value a round.
func rounds(metric string, better result.Better, control bool, values ...float64) []result.Record {
	var out []result.Record
	for i, v := range values {
		out = append(out, result.Record{Schema: result.Schema, Experiment: "encap", Run: "r", Time: time.Unix(1, 0), Encapsulation: "vxlan",
			Round: i + 1, Metric: metric, Unit: result.Ratio, Value: v, Better: better, Control: control})
	}
	return out
}

func TestVerdicts(t *testing.T) {
	around := func(v float64) []float64 { return []float64{v * 0.99, v, v * 1.01, v * 0.995, v * 1.005, v, v, v} }
	quiet := rounds("reference", "", true, around(1)...)
	loud := rounds("loud reference", "", true, 0.8, 1, 1.2, 1.1, 0.9, 1, 0.7, 1.3)
	for _, c := range []struct {
		name          string
		before, after []result.Record
		want          Verdict
	}{
		{"unchanged", rounds("m", result.More, false, around(0.9)...), rounds("m", result.More, false, around(0.9)...), Same},
		{"less of what should be more", rounds("m", result.More, false, around(0.9)...), rounds("m", result.More, false, around(0.8)...), Worse},
		{"more of what should be less", rounds("m", result.Less, false, around(2)...), rounds("m", result.Less, false, around(2.3)...), Worse},
		{"less of what should be less", rounds("m", result.Less, false, around(2)...), rounds("m", result.Less, false, around(1.5)...), Better},
		{"a change within the noise of the new run", rounds("m", result.More, false, around(0.9)...), slices.Concat(loud, rounds("m", result.More, false, around(0.8)...)), Unclear},
		{"a change within the noise of the old run", slices.Concat(loud, rounds("m", result.More, false, around(0.9)...)), rounds("m", result.More, false, around(0.8)...), Unclear},
		{"better within the noise", slices.Concat(loud, rounds("m", result.More, false, around(0.8)...)), rounds("m", result.More, false, around(0.9)...), Same},
		{"beyond the noise", slices.Concat(loud, rounds("m", result.More, false, around(0.9)...)), rounds("m", result.More, false, around(0.4)...), Worse},
		{"rounds that scatter", rounds("m", result.More, false, 0.7, 0.8, 0.9, 1), rounds("m", result.More, false, 0.6, 0.7, 0.8, 0.75), Same},
		{"a small change, but a sure one", rounds("m", result.More, false, around(1)...), rounds("m", result.More, false, around(0.96)...), Worse},
		{"below the floor", rounds("m", result.More, false, 1, 1, 1, 1), rounds("m", result.More, false, 0.99, 0.99, 0.99, 0.99), Same},
		{"not measured any more", rounds("m", result.More, false, 1), nil, Gone},
		{"not measured before", nil, rounds("m", result.More, false, 1), New},
		{"something lost where nothing was", rounds("m", result.Less, false, 0, 0), rounds("m", result.Less, false, 0.1, 0.1), Worse},
	} {
		rep := Compare(slices.Concat(quiet, c.before), slices.Concat(quiet, c.after), 0.02)
		if len(rep.Rows) != 1 || rep.Rows[0].Verdict != c.want {
			t.Errorf("%s: %+v, want one %s", c.name, rep.Rows, c.want)
			continue
		}
		if want := c.want == Worse || c.want == Gone; rep.Failed() != want {
			t.Errorf("%s: failed is %v, want %v", c.name, rep.Failed(), want)
		}
		var b strings.Builder
		if err := rep.Print(&b); err != nil || !strings.Contains(b.String(), string(c.want)) {
			t.Errorf("%s: printed %q, %v", c.name, b.String(), err)
		}
	}
}

// What is no ratio is not judged; a ratio that does not say which way is good is counted.
func TestOnlyRatios(t *testing.T) {
	speed := rounds("speed", "", false, 5)
	speed[0].Unit = result.BitsPerSecond
	rep := Compare(speed, rounds("unclear", "", false, 1), 0)
	if len(rep.Rows) != 0 || rep.Ignored != 1 || rep.Failed() {
		t.Errorf("%+v", rep)
	}
}

// The interval holds the true median as often as it says, whatever the distribution, and no run fails against another
// of the same kind more often than by chance.
func TestIntervals(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = rng.ExpFloat64() // its median is ln 2
		}
		return v
	}
	const runs = 4000
	for _, n := range []int{6, 7, 12, 25, 60} {
		held, apart := 0, 0
		for range runs {
			a, b := MedianOf(draw(n)), MedianOf(draw(n))
			if a.Low <= 0.693147 && 0.693147 <= a.High {
				held++
			}
			if a.High < b.Low || b.High < a.Low {
				apart++
			}
		}
		t.Logf("n=%d: %d of %d intervals hold the median; %d of %d pairs are apart", n, held, runs, apart, runs)
		if held < runs*94/100 || apart > runs*2/100 {
			t.Errorf("n=%d: %d of %d intervals hold the median, want 95 %%; %d pairs of one distribution are apart", n, held, runs, apart)
		}
		if n >= 25 && held > runs*99/100 {
			t.Errorf("n=%d: the interval is wider than it has to be: it holds the median %d of %d times", n, held, runs)
		}
	}
	for _, c := range []struct{ values, want []float64 }{{[]float64{3}, []float64{3, 3, 3}}, {[]float64{4, 1, 2}, []float64{2, 1, 4}}, {[]float64{1, 2, 3, 4}, []float64{2.5, 1, 4}}} {
		if m := MedianOf(c.values); m.Value != c.want[0] || m.Low != c.want[1] || m.High != c.want[2] || m.N != len(c.values) {
			t.Errorf("%v: %+v, want %v", c.values, m, c.want)
		}
	}
}
