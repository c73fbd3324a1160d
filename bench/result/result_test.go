package result

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func record() Record {
	return Record{Schema: Schema, Experiment: "mtu", Run: "r1", Time: time.Unix(1, 2).UTC(), Version: "v", Machine: Machine{Name: "m", Cores: 2},
		Encapsulation: "vxlan", Way: "kernel", MTU: 1450, Streams: 4, Round: 1, Metric: "throughput", Unit: BitsPerSecond, Value: 1.5e9}
}

func TestWrittenIsRead(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	want := []Record{record(), record()}
	want[1].Round, want[1].Value = 2, 0
	for _, r := range want {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(`{"schema":1,"experi`) // the process was killed here
	got, err := Read(&b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("read back: %v, (-want +got):\n%s", err, diff)
	}
}

func TestReadRefuses(t *testing.T) {
	good := `{"schema":1,"experiment":"mtu","run":"r","time":"2026-01-01T00:00:00Z","metric":"m","unit":"s","value":1}` + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"another schema", strings.Replace(good, `"schema":1`, `"schema":2`, 1), "line 2: schema 2"},
		{"no unit", strings.Replace(good, `"unit":"s"`, `"unit":""`, 1), "unit is missing"},
		{"no JSON", "hello\n", "line 2"},
		{"a very long line", strings.Repeat("x", maxLine+1) + "\n", "more than"},
	} {
		got, err := Read(strings.NewReader(good + c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || len(got) != 1 {
			t.Errorf("%s: %d records, %v; want one and an error with %q", c.name, len(got), err, c.want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		r := record()
		r.Value = v
		if err := NewWriter(&bytes.Buffer{}).Write(r); err == nil {
			t.Errorf("%v was written", v)
		}
	}
}

func TestThisMachine(t *testing.T) {
	m := ThisMachine()
	if m.Cores < 1 || m.Memory < 1<<20 || m.Kernel == "" || m.CPU == "" {
		t.Errorf("not much is known: %+v", m)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"schema":1}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := Read(bytes.NewReader(b))
		for _, r := range all {
			if err := NewWriter(&bytes.Buffer{}).Write(r); err != nil {
				t.Errorf("read and not written: %v", err)
			}
		}
	})
}
