package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"weft/bench/result"
)

// Suite is the experiment of the records that a run of many experiments adds, and its metrics.
const (
	Suite = "all"
	// LoadAverage is that of a minute; Setting says when: "before", "after mtu".
	LoadAverage = "load_average"
	// PartTime is how long an experiment took, its lab included; Setting names it.
	PartTime = "part_time"
	// PartFailed is an experiment that failed; Setting is "NAME: why".
	PartFailed = "part_failed"
)

// Group is what was measured more than once: the values of one Key.
type Group struct {
	Key    result.Key
	Values []float64
}

// Spread returns the middle and the range of the values.
func (g Group) Spread() Spread { return spread(g.Values) }

// Groups returns what was measured, by experiment and in the order in which it came.
func Groups(records []result.Record) []Group {
	var out []Group
	at := map[result.Key]int{}
	for _, r := range records {
		k := r.Key()
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, Group{Key: k})
		}
		out[i].Values = append(out[i].Values, r.Value)
	}
	return out
}

// Experiments returns their names, in the order in which they were measured.
func Experiments(records []result.Record) []string {
	var out []string
	for _, r := range records {
		if r.Experiment != Suite && !slices.Contains(out, r.Experiment) {
			out = append(out, r.Experiment)
		}
	}
	return out
}

func of(records []result.Record, experiment string) []result.Record {
	var out []result.Record
	for _, r := range records {
		if r.Experiment == experiment {
			out = append(out, r)
		}
	}
	return out
}

// Failed returns what the run of many experiments says of those that failed.
func Failed(records []result.Record) []string {
	var out []string
	for _, r := range of(records, Suite) {
		if r.Metric == PartFailed {
			out = append(out, r.Setting)
		}
	}
	return out
}

// Document writes all experiments of a file in Markdown. pictures are paths by the names of Pictures.
func Document(w io.Writer, records []result.Record, pictures map[string]string) error {
	var b strings.Builder
	b.WriteString("# Measurements\n\n")
	b.WriteString(Origin(records))
	for _, f := range Failed(records) {
		fmt.Fprintf(&b, "\n**Failed: %s**\n", f)
	}
	picture := func(name, title string) {
		if path := pictures[name]; path != "" {
			fmt.Fprintf(&b, "\n![%s](%s)\n", title, path)
		}
	}
	for _, p := range Pictures(records) {
		if p.Name != pictureMTU {
			picture(p.Name, p.Title)
		}
	}
	for _, e := range Experiments(records) {
		mine := of(records, e)
		if s := Summarise(mine); e == "mtu" && len(s.Encapsulations(Throughput)) > 0 {
			var own strings.Builder
			if err := s.Markdown(&own, s.Recommend(), "", pictures[pictureMTU]); err != nil {
				return err
			}
			b.WriteString("\n" + deeper(own.String()))
			continue
		}
		fmt.Fprintf(&b, "\n## weft bench %s\n\n", e)
		Table(&b, mine)
	}
	b.WriteString("\nMedians, in brackets the lowest and the highest where there is more than one value. A ratio that is marked as a control is the\n" +
		"reference against itself: how far it is from 1 is the noise.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// deeper makes headings one level less.
func deeper(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "#") {
			lines[i] = "#" + l
		}
	}
	return strings.Join(lines, "\n")
}

// Origin says in a list where and when records were measured, of what, and what else the machine did.
func Origin(records []result.Record) string {
	var b strings.Builder
	var first, last time.Time
	var machines, versions []string
	for _, r := range records {
		if first.IsZero() || r.Time.Before(first) {
			first = r.Time
		}
		if r.Time.After(last) {
			last = r.Time
		}
		machines = add(machines, Machine(r.Machine))
		if r.Peer != nil {
			machines = add(machines, Machine(*r.Peer))
		}
		versions = add(versions, r.Version+", commit "+cmp.Or(r.Commit, "not noted by its build"))
	}
	for _, m := range machines {
		fmt.Fprintf(&b, "* machine: %s\n", m)
	}
	for _, v := range versions {
		fmt.Fprintf(&b, "* weft %s\n", v)
	}
	fmt.Fprintf(&b, "* from %s to %s\n", first.UTC().Format("2006-01-02 15:04"), last.UTC().Format("2006-01-02 15:04 MST"))
	var load, took []string
	var loads []float64
	for _, r := range of(records, Suite) {
		switch r.Metric {
		case LoadAverage:
			load, loads = append(load, fmt.Sprintf("%.2f %s", r.Value, r.Setting)), append(loads, r.Value)
		case PartTime:
			took = append(took, fmt.Sprintf("%s %.0f s", r.Setting, r.Value))
		}
	}
	if s := spread(loads); s.N > 8 {
		load = []string{fmt.Sprintf("%.2f to %.2f (%d readings)", s.Low, s.High, s.N)}
	}
	if len(load) > 0 {
		fmt.Fprintf(&b, "* load average: %s\n", strings.Join(load, ", "))
	}
	if len(took) > 0 {
		fmt.Fprintf(&b, "* took: %s\n", strings.Join(took, ", "))
	}
	return b.String()
}

func add(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

// Machine describes a machine in words.
func Machine(m result.Machine) string {
	return fmt.Sprintf("%s, %d processors (%s), %.1f GiB, kernel %s", m.Name, m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.Kernel)
}

// Table writes what an experiment measured, a row each.
func Table(b *strings.Builder, records []result.Record) {
	b.WriteString("| measured | value | n |\n|---|---|---|\n")
	for _, g := range Groups(records) {
		name := Name(g.Key)
		if g.Key.Control {
			name += " (control)"
		}
		fmt.Fprintf(b, "| %s | %s | %d |\n", name, Value(g.Spread(), g.Key.Unit), len(g.Values))
	}
}

// Name says what was measured, in words, without the experiment.
func Name(k result.Key) string {
	experiment := k.Experiment
	name := strings.TrimPrefix(k.String(), experiment+" ")
	return strings.ReplaceAll(strings.ReplaceAll(name, "_", " "), "|", "\\|")
}

// Value prints a spread in its unit.
func Value(s Spread, u result.Unit) string {
	scale, digits, name := in(s, u)
	text := brackets(s, scale, digits)
	if name != "" {
		text += " " + name
	}
	return text
}

// in chooses how a unit is printed: what values are multiplied by, digits, and its name.
func in(s Spread, u result.Unit) (scale float64, digits int, name string) {
	switch u {
	case result.BitsPerSecond:
		return 1e-9, 2, "Gbit/s"
	case result.PacketsPerSecond:
		return 1, 0, "packets/s"
	case result.Seconds:
		switch {
		case s.Median >= 1:
			return 1, 2, "s"
		case s.Median >= 1e-3 || s.Median == 0:
			return 1e3, 1, "ms"
		}
		return 1e6, 1, "µs"
	case result.SecondsPerGbit:
		return 1, 3, "s/Gbit"
	case result.Bytes:
		if s.Median >= 1<<20 {
			return 1.0 / (1 << 20), 1, "MiB"
		}
		return 1, 0, "bytes"
	case result.Ratio:
		digits = 3
		if s.Median != 0 && s.Median < 0.01 {
			digits = 5
		}
		return 1, digits, ""
	case result.Count:
		if s.Median != float64(int64(s.Median)) {
			digits = 2
		}
		return 1, digits, ""
	}
	return 1, 3, string(u)
}
