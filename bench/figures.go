package bench

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/compare"
	"weft/bench/result"
	"weft/lab"
)

// sheet is where a measurement writes: DIR/VERB.jsonl, a record a line as it is measured, and DIR/VERB.md in the end.
type sheet struct {
	verb, dir string
	output    string // "", "json"
	file      *os.File
	w         *result.Writer
	base      result.Record
	records   []result.Record
	began     time.Time
}

// sheetFlags are the flags that say where to.
func sheetFlags(cmd *cobra.Command, s *sheet) {
	f := cmd.Flags()
	f.StringVar(&s.dir, "out", "", "`directory` of the files (default weft-"+s.verb+"- and the time, in this one)")
	f.StringVarP(&s.output, "output", "o", "", "output `format`: json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *sheet) check() error {
	if s.output != "" && s.output != "json" {
		return fmt.Errorf("--output %q: want json, or none", s.output)
	}
	return nil
}

// open makes the directory and the file; version is this program's.
func (s *sheet) open(version string) (err error) {
	s.began = time.Now()
	if s.dir == "" {
		s.dir = "weft-" + s.verb + "-" + s.began.Format("20060102-150405")
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the results: %w", err)
	}
	if s.file, err = os.Create(filepath.Join(s.dir, s.verb+".jsonl")); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	s.w = result.NewWriter(s.file)
	s.base = result.Record{Schema: result.Schema, Experiment: s.verb, Run: strings.ToLower(rand.Text()[:12]), Version: version,
		Commit: result.Commit(), Machine: result.ThisMachine()}
	return nil
}

// write completes a record and writes it.
func (s *sheet) write(r result.Record) error {
	r.Schema, r.Experiment, r.Run, r.Version, r.Commit, r.Machine = s.base.Schema, s.base.Experiment, s.base.Run, s.base.Version, s.base.Commit, s.base.Machine
	r.Time = time.Now().UTC()
	s.records = append(s.records, r)
	return s.w.Write(r)
}

// close writes the table of what was measured, if anything was, and prints it: as print does, or as JSON. note is a
// sentence about what is missing.
func (s *sheet) close(out io.Writer, title, note string, print func(io.Writer, []figure)) error {
	err := errors.Join(s.file.Sync(), s.file.Close())
	if len(s.records) == 0 {
		return err
	}
	all := figures(s.records)
	name := filepath.Join(s.dir, s.verb+".md")
	md, mdErr := os.Create(name)
	if mdErr == nil {
		mdErr = errors.Join(writeFigures(md, title, note, s.records[0], all), md.Close())
	}
	if s.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return errors.Join(err, mdErr, enc.Encode(all))
	}
	print(out, all)
	if note != "" {
		fmt.Fprintln(out, note)
	}
	fmt.Fprintf(out, "Measured in %v. Files in %s: %s.md, %s.jsonl (%d records).\n", time.Since(s.began).Round(time.Second), s.dir, s.verb, s.verb, len(s.records))
	return errors.Join(err, mdErr)
}

// figure is one thing that was measured, of all its rounds.
type figure struct {
	result.Key
	compare.Median         // with the range that holds it at 95 %
	Least          float64 `json:"least"`
	Most           float64 `json:"most"`
	Sum            float64 `json:"sum"`
	// Noise is how far the controls of the same metric are from 1; 0: there are none.
	Noise float64 `json:"noise"`
}

// figures summarises records, in the order in which each came first.
func figures(records []result.Record) []figure {
	values := map[result.Key][]float64{}
	var order []result.Key
	for _, r := range records {
		k := r.Key()
		if values[k] == nil {
			order = append(order, k)
		}
		values[k] = append(values[k], r.Value)
	}
	noise := compare.NoiseOf(records)
	var out []figure
	for _, k := range order {
		f := figure{Key: k, Median: compare.MedianOf(values[k]), Least: slices.Min(values[k]), Most: slices.Max(values[k])}
		for _, v := range values[k] {
			f.Sum += v
		}
		if k.Unit == result.Ratio {
			f.Noise = noise.Of(k)
		}
		out = append(out, f)
	}
	return out
}

// writeFigures writes a table in Markdown.
func writeFigures(w io.Writer, title, note string, first result.Record, all []figure) error {
	m := first.Machine
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s; %s, %d processors (%s), kernel %s; weft %s. Everything ran on this one machine: only ratios tell something.\n", title,
		first.Time.UTC().Format("2006-01-02 15:04 MST"), m.Name, m.Cores, m.CPU, m.Kernel, first.Version)
	if note != "" {
		fmt.Fprintf(&b, "\n**%s**\n", note)
	}
	for _, part := range []struct {
		head   string
		ratios bool
	}{{"Ratios", true}, {"What they are of", false}} {
		fmt.Fprintf(&b, "\n## %s\n\n| what | metric | median | 95 %% range | least | most | n |", part.head)
		b.WriteString(map[bool]string{true: " noise |\n|---|---|---|---|---|---|---|---|\n", false: "\n|---|---|---|---|---|---|---|\n"}[part.ratios])
		for _, f := range all {
			if (f.Unit == result.Ratio) != part.ratios {
				continue
			}
			unit := func(v float64) string { return inUnit(f.Unit, v) }
			fmt.Fprintf(&b, "| %s | %s | %s | %s to %s | %s | %s | %d |", f.what(), f.metric(), unit(f.Value), unit(f.Low), unit(f.High), unit(f.Least), unit(f.Most), f.N)
			if part.ratios {
				fmt.Fprintf(&b, " %.3f |", f.Noise)
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\nThe range holds the median of many more rounds at 95 %; of fewer than six rounds it is all that was measured. Noise is how far the controls of a metric are from 1.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (f figure) what() string {
	parts := []string{}
	if f.Encapsulation != "" {
		parts = append(parts, encapsulationOf(f.Key).String())
	} else if f.Way != "" {
		parts = append(parts, f.Way+",")
	}
	if f.Setting != "" {
		parts = append(parts, f.Setting)
	}
	if f.Control {
		parts = append(parts, "(control)")
	}
	return strings.Join(parts, " ")
}

func (f figure) metric() string {
	out := strings.ReplaceAll(f.Metric, "_", " ")
	if f.Streams == 1 {
		out += ", 1 stream"
	} else if f.Streams > 1 {
		out += fmt.Sprintf(", %d streams", f.Streams)
	}
	return out
}

// inUnit prints a value as people read it.
func inUnit(u result.Unit, v float64) string {
	switch u {
	case result.BitsPerSecond:
		return fmt.Sprintf("%.2f Gbit/s", v/1e9)
	case result.PacketsPerSecond:
		return fmt.Sprintf("%.0f/s", v)
	case result.Seconds:
		if math.Abs(v) < 1e-3 {
			return fmt.Sprintf("%.0f µs", v*1e6)
		}
		return fmt.Sprintf("%.1f ms", v*1e3)
	case result.SecondsPerGbit:
		return fmt.Sprintf("%.3f s/Gbit", v)
	case result.Ratio:
		if v != 0 && math.Abs(v) < 0.01 {
			return fmt.Sprintf("%.6f", v)
		}
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// checkName tells whether a lab can have the name.
func checkName(name string) error {
	if err := lab.CheckName(name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	return nil
}
