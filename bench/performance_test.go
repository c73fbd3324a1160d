package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/bench/result"
)

// The committed page is what its files of results say, to the last byte.
func TestPerformancePage(t *testing.T) {
	const page = "../docs/performance.md"
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(have), "\n")
	names, ok := strings.CutPrefix(first, "<!-- Made by: weft bench report --doc ")
	names, end := strings.CutSuffix(names, " -->")
	if !ok || !end || names == "" {
		t.Fatalf("%s does not begin with what it is made by: %q", page, first)
	}
	var sources []source
	for _, name := range strings.Fields(names) {
		records, err := readResults(filepath.Join("..", name))
		if err != nil {
			t.Fatalf("%s is made of a file that is not there: commit it with git add -f: %v", page, err)
		}
		sources = append(sources, source{name, records})
	}
	var want bytes.Buffer
	if err := writePerformance(&want, sources); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(have)); diff != "" {
		t.Errorf("%s is not what its files say: weft bench report --doc %s > docs/performance.md (-want +got):\n%s", page, names, diff)
	}
	if !strings.Contains(want.String(), "| met |") {
		t.Errorf("%s: not one figure is met: are these the files of results?", page)
	}
}

func TestClaims(t *testing.T) {
	record := func(experiment, metric, setting string, unit result.Unit, control bool, values ...float64) (out []result.Record) {
		for i, v := range values {
			out = append(out, result.Record{Schema: result.Schema, Experiment: experiment, Run: "r", Time: time.Unix(1, 0), Metric: metric,
				Unit: unit, Value: v, Setting: setting, Control: control, Round: i + 1})
		}
		return out
	}
	ratio := claim{what: "speed", asked: "as fast", experiment: "e", metric: "m", ratio: true, within: asTheReference}
	lost := claim{what: "lost", asked: "0", experiment: "e", metric: "lost", stat: inAll, of: "sent", within: atMost(0)}
	merged, control := lost, lost
	merged.merge, merged.except = true, []string{"naive"}
	control.control, control.asked = true, "more than 0"
	late := claim{what: "time, p99", asked: "1 s", experiment: "e", metric: "t", stat: atP99, within: atMost(1)}
	slow := make([]float64, 100)
	for i := range slow {
		slow[i] = 0.5
	}
	slow[97], slow[98] = 1.5, 2
	noise := record("e", "m", "itself", result.Ratio, true, 0.95, 1.02)
	for _, c := range []struct {
		name    string
		claim   claim
		records []result.Record
		want    row
	}{
		{"as fast", ratio, record("e", "m", "", result.Ratio, false, 1.01, 1), row{What: "speed", Asked: "as fast", Measured: "1.005 (1.000-1.010)", N: "2", Verdict: "met"}},
		{"slower", ratio, record("e", "m", "x", result.Ratio, false, 0.9), row{What: "speed, x", Asked: "as fast", Measured: "0.900", N: "1", Verdict: "**not met**"}},
		{"within the noise", ratio, append(record("e", "m", "", result.Ratio, false, 0.96), noise...),
			row{What: "speed", Asked: "as fast", Measured: "0.960; noise 0.05", N: "1", Verdict: "met"}},
		{"beyond the noise", ratio, append(record("e", "m", "", result.Ratio, false, 0.9), noise...),
			row{What: "speed", Asked: "as fast", Measured: "0.900; noise 0.05", N: "1", Verdict: "**not met**"}},
		{"a noisy run", ratio, append(record("e", "m", "", result.Ratio, false, 0.9), record("e", "m", "itself", result.Ratio, true, 0.7, 1.4)...),
			row{What: "speed", Asked: "as fast", Measured: "0.900; noise 0.40", N: "1", Verdict: "too noisy to judge"}},
		{"none lost", lost, append(record("e", "lost", "", result.Count, false, 0, 0), record("e", "sent", "", result.Count, false, 10, 5)...),
			row{What: "lost", Asked: "0", Measured: "0 of 15", N: "2", Verdict: "met"}},
		{"some lost", lost, append(record("e", "lost", "", result.Count, false, 0, 2), record("e", "sent", "", result.Count, false, 10, 5)...),
			row{What: "lost", Asked: "0", Measured: "2 of 15", N: "2", Verdict: "**not met**"}},
		{"two settings in one", merged, slices.Concat(record("e", "lost", "a", result.Count, false, 0), record("e", "sent", "a", result.Count, false, 10),
			record("e", "lost", "b", result.Count, false, 1), record("e", "sent", "b", result.Count, false, 7), record("e", "lost", "naive", result.Count, false, 9)),
			row{What: "lost", Asked: "0", Measured: "1 of 17", N: "2", Verdict: "**not met**"}},
		{"the control loses", control, append(record("e", "lost", "control: x", result.Count, false, 2), record("e", "sent", "control: x", result.Count, false, 10)...),
			row{What: "lost, control: x", Asked: "more than 0", Measured: "2 of 10", N: "1", Verdict: "control"}},
		{"the control loses nothing", control, append(record("e", "lost", "control: x", result.Count, false, 0), record("e", "sent", "control: x", result.Count, false, 10)...),
			row{What: "lost, control: x", Asked: "more than 0", Measured: "0 of 10", N: "1", Verdict: "**blind**"}},
		{"the control sends nothing", control, append(record("e", "lost", "control: x", result.Count, false, 0), record("e", "sent", "control: x", result.Count, false, 0)...),
			row{What: "lost, control: x", Asked: "more than 0", Measured: "0 of 0", N: "1", Verdict: "not measured"}},
		{"none lost of none", lost, append(record("e", "lost", "", result.Count, false, 0), record("e", "sent", "", result.Count, false, 0)...),
			row{What: "lost", Asked: "0", Measured: "0 of 0", N: "1", Verdict: "not measured"}},
		{"none lost of what nobody noted", lost, record("e", "lost", "", result.Count, false, 0),
			row{What: "lost", Asked: "0", Measured: "0 of 0", N: "1", Verdict: "not measured"}},
		{"a few are late", late, record("e", "t", "", result.Seconds, false, slow...), row{What: "time, p99", Asked: "1 s", Measured: "1.50 s", N: "100", Verdict: "**not met**"}},
		{"in time", late, record("e", "t", "", result.Seconds, false, slow[:90]...), row{What: "time, p99", Asked: "1 s", Measured: "500.0 ms", N: "90", Verdict: "met"}},
		{"not measured", late, record("other", "t", "", result.Seconds, false, 1), row{What: "time, p99", Asked: "1 s", Measured: "not measured in these files"}},
	} {
		if diff := cmp.Diff([]row{c.want}, rowsOf([]claim{c.claim}, c.records)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
