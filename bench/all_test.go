package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/bench/report"
	"weft/bench/result"
)

func TestResultName(t *testing.T) {
	at := time.Date(2026, 11, 22, 23, 59, 0, 0, time.FixedZone("", -3600))
	for commit, want := range map[string]string{
		"914978b00e82914978b00e82914978b00e82aaaa":         "2026-11-23-914978b00e82",
		"914978b00e82914978b00e82914978b00e82aaaa+changes": "2026-11-23-914978b00e82+changes",
		"v1.2-3-g914978b-dirty":                            "2026-11-23-v1.2-3-g914978b-dirty",
	} {
		if got := resultName(at, commit); got != want {
			t.Errorf("%s: %s, want %s", commit, got, want)
		}
	}
	dir := t.TempDir()
	for _, want := range []string{"a.jsonl", "a-2.jsonl", "a-3.jsonl"} {
		f, err := newFile(dir, "a")
		if err != nil || filepath.Base(f.Name()) != want {
			t.Errorf("got %v, %v; want %s", f, err, want)
		}
		_ = f.Close()
	}
}

// Verbs that bench has are run with the flags of all, others are parts that cannot be.
func TestPartsOfAll(t *testing.T) {
	a := &All{Parts: []string{"mtu", "nonsense"}, Quick: true}
	parts := a.parts("/bin/weft", Command("v"))
	if len(parts) != 2 || parts[1].Argv != nil {
		t.Fatalf("got %+v, want two, the second one without a program", parts)
	}
	if got, want := parts[0].Argv("/d"), []string{"/bin/weft", "bench", "mtu", "--out", "/d", "--quick"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestReportCommand(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "r.jsonl")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []float64{0.9, 0.8} {
		if err := result.NewWriter(f).Write(result.Record{Schema: result.Schema, Experiment: "encap", Run: "r", Time: time.Unix(1, 0), Metric: "speed", Unit: result.Ratio, Value: v}); err != nil {
			t.Fatal(err)
		}
	}
	empty := filepath.Join(dir, "empty.jsonl")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out strings.Builder
		cmd := Command("v")
		cmd.SetArgs(append([]string{"report"}, args...))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.Execute()
		return out.String(), err
	}
	if out, err := run(name); err != nil || !strings.Contains(out, "| speed | 0.850 (0.800-0.900) | 2 |") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("--files", name); err != nil || out != filepath.Join(dir, "r.md")+"\n" {
		t.Errorf("%v: %s", err, out)
	}
	for _, want := range []string{"r.md", "r-ratios.svg"} {
		if st, err := os.Stat(filepath.Join(dir, want)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := run(empty); err == nil || !strings.Contains(err.Error(), "no record") {
		t.Errorf("of an empty file: %v", err)
	}
	if got := report.Failed(nil); got != nil {
		t.Errorf("failed of nothing: %v", got)
	}
}
