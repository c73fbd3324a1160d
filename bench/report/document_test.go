package report

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/bench/result"
)

// suiteOf makes the records of a run of several experiments, one of which failed.
func suiteOf() []result.Record {
	var w world
	w.rates(plain, 1500, 20, 22)
	w.rates(vxlan, 1450, 15, 16)
	add := func(experiment, metric, setting string, unit result.Unit, control bool, values ...float64) {
		for i, v := range values {
			r := result.Record{Schema: 1, Experiment: experiment, Run: "r", Time: time.Unix(1767225600+int64(60*i), 0), Version: "v1", Commit: "abc",
				Machine: w.records[0].Machine, Metric: metric, Unit: unit, Value: v, Setting: setting, Control: control, Round: i + 1}
			if unit == result.Ratio && !control {
				r.Better = result.More
			}
			w.records = append(w.records, r)
		}
	}
	add(Suite, LoadAverage, "before", result.Count, false, 0.25)
	add("encap", "throughput_ratio", "VXLAN to a device made by hand", result.Ratio, false, 0.93, 0.95, 0.94)
	add("encap", "throughput_ratio", "reference", result.Ratio, true, 1.01, 0.99)
	add("policy", "change_p50", "1000 policies", result.Seconds, false, 0.0049)
	add("policy", "idle", "a|b", result.Ratio, false, 0.0005)
	add("scale", "start", "5000 nodes", result.Seconds, false, 1.2)
	add("scale", "memory", "", result.Bytes, false, 61<<20)
	add("scale", "lost", "", result.Count, false, 0)
	add(Suite, PartTime, "encap", result.Seconds, false, 31.4)
	add(Suite, PartFailed, "heal: exit status 1: no such node", result.Count, false, 1)
	return w.records
}

func TestDocument(t *testing.T) {
	var b bytes.Buffer
	if err := Document(&b, suiteOf(), map[string]string{"mtu": "x-mtu.svg", "ratios": "x-ratios.svg", "times": "x-times.svg"}); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/document.md"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if diff := cmp.Diff(string(want), b.String()); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

// Each picture is well-formed and shows what it is of.
func TestPicturesOfAll(t *testing.T) {
	pictures := Pictures(suiteOf())
	want := map[string]string{"mtu": "TCP throughput", "ratios": "VXLAN to a device made by hand", "times": "5000 nodes"}
	for _, p := range pictures {
		var b bytes.Buffer
		if err := p.SVG(&b); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		text := b.String()
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
		}
		if !strings.Contains(text, want[p.Name]) {
			t.Errorf("%s does not show %q", p.Name, want[p.Name])
		}
		delete(want, p.Name)
	}
	if len(want) > 0 {
		t.Errorf("not drawn: %v", want)
	}
	if got := Pictures(nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
