package bench

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/bench/report"
	"weft/bench/result"
)

// Each way is divided by plain routing and by the same made by hand, plain routing a second time only by the first.
func TestEncapRatios(t *testing.T) {
	e := func(name, way string) report.Encapsulation { return report.Encapsulation{Name: name, Way: way} }
	ways := []encapWay{
		{Encapsulation: e("none", "")}, {Encapsulation: e("vxlan", "kernel")}, {Encapsulation: e("ipip", "ebpf")}, {Encapsulation: e("crosssubnet", "")},
		{Encapsulation: e("none", ""), again: true}, {Encapsulation: e("none", ""), hand: true}, {Encapsulation: e("vxlan", "kernel"), hand: true},
	}
	values := []float64{100, 80, 60, 99, 102, 125, 160}
	of := map[string][]result.Record{}
	for i, w := range ways {
		of[w.String()] = []result.Record{{Metric: "m", Better: result.More, Value: values[i]}, {Metric: "of no direction", Value: 1}}
	}
	var got []string
	for _, r := range encapRatios(ways, of) {
		got = append(got, fmt.Sprintf("%s %s %s %.3f %v %v", r.Encapsulation, r.Setting, r.Metric, r.Value, r.Unit, r.Control))
	}
	want := []string{
		"none to the same by hand m 0.800 ratio false",
		"vxlan to plain routing m 0.800 ratio false", "vxlan to the same by hand m 0.500 ratio false",
		"ipip to plain routing m 0.600 ratio false",
		"crosssubnet to plain routing m 0.990 ratio false", "crosssubnet to the same by hand m 0.792 ratio false",
		"none to itself m 1.020 ratio true",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ratios (-want +got):\n%s", d)
	}
}

func ratioRecords(control bool, setting string, values ...float64) (all []result.Record) {
	for i, v := range values {
		all = append(all, result.Record{Schema: result.Schema, Experiment: "encap", Run: "r", Time: time.Unix(0, 0), Version: "test", Encapsulation: "vxlan", Way: "kernel",
			Streams: 1, Round: i + 1, Metric: report.Throughput, Setting: setting, Unit: result.Ratio, Value: v, Better: result.More, Control: control})
	}
	return all
}

func TestFigures(t *testing.T) {
	all := append(ratioRecords(false, toPlain, 0.9, 0.8, 0.7, 0.85, 0.95, 0.6, 0.88, 0.2, 0.86), ratioRecords(true, toItself, 1, 1.02, 0.97)...)
	f := figures(all)
	if len(f) != 2 || f[0].Value != 0.85 || f[0].Least != 0.2 || f[0].Most != 0.95 || f[0].Low != 0.6 || f[0].High != 0.9 || f[0].N != 9 {
		t.Errorf("got %+v", f)
	}
	if n := f[0].Noise; n < 0.0299 || n > 0.0301 {
		t.Errorf("noise %v, want 0.03", n)
	}
	var md, text bytes.Buffer
	if err := writeFigures(&md, "Title", "Ended early.", all[0], f); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Title", "**Ended early.**", "| VXLAN (kernel) to plain routing | throughput, 1 stream | 0.850 | 0.600 to 0.900 | 0.200 | 0.950 | 9 | 0.030 |",
		"| VXLAN (kernel) to itself (control) |"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, md.String())
		}
	}
	if writeEncap(&text, f); !strings.Contains(text.String(), "0.60-0.90") {
		t.Errorf("got:\n%s", text.String())
	}
}
