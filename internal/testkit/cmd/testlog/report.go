package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// event is what go test -json writes, one a line (go doc test2json).
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// result is how one test ended on one machine.
type result struct {
	Outcome string  `json:"outcome"`       // pass, fail or skip
	Why     string  `json:"why,omitempty"` // of a skip
	Seconds float64 `json:"seconds"`
}

// list is which tests ran on a machine; its keys are "package Test/subtest".
type list struct {
	Machine string            `json:"machine"`
	Tests   map[string]result `json:"tests"`
}

// report prints what go test prints without -v, and keeps the list.
type report struct {
	list
	w       *bufio.Writer // flushed a package at a time, since machines run side by side
	verbose bool
	suffix  string // of each package's line
	failed  []string
	// unsteady are tests that passed only when they were run again.
	unsteady []string
	lines    map[string][]event // output by package, of tests that have not passed
	summary  map[string]string
}

func newReport(machine string, w io.Writer, verbose bool) *report {
	return &report{list: list{machine, map[string]result{}}, w: bufio.NewWriter(w), verbose: verbose, lines: map[string][]event{}, summary: map[string]string{}}
}

// readEvents takes in events until the end; lines that are none are printed.
func (r *report) readEvents(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(r.w, sc.Text())
			continue
		}
		r.take(e)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read test events: %w", err)
	}
	return nil
}

func (r *report) take(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "output":
		switch {
		case e.Test == "" && isSummary(e.Output):
			r.summary[e.Package] = e.Output // printed last
		case r.verbose:
			fmt.Fprint(r.w, e.Output)
			_ = r.w.Flush()
		default:
			r.lines[e.Package] = append(r.lines[e.Package], e)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			defer r.w.Flush()
			// In a machine there is no go test, so endPackage has the last word.
			if r.suffix == "" {
				r.end(e.Package, e.Action == "fail")
			}
			return
		}
		res := result{Outcome: e.Action, Seconds: e.Elapsed}
		if e.Action == "skip" {
			res.Why = r.reason(e)
		}
		r.Tests[e.Package+" "+e.Test] = res
	}
}

// isSummary tells go test's own line about a package.
func isSummary(line string) bool {
	for _, p := range []string{"ok  \t", "FAIL\t", "?   \t", "---\t"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// reason is what a skipped test said.
func (r *report) reason(e event) string {
	var why string
	for _, l := range r.lines[e.Package] {
		if l.Test == e.Test && !isFrame(l.Output) {
			why = strings.TrimSpace(l.Output)
		}
	}
	if _, feature, ok := strings.Cut(why, "SKIP-FEATURE "); ok {
		return feature
	}
	return why
}

func isFrame(line string) bool {
	line = strings.TrimLeft(line, " \x16")
	return strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- SKIP") || strings.HasPrefix(line, "--- PASS")
}

// endPackage ends a package whose test program had that exit code, or none, after so many seconds.
func (r *report) endPackage(pkg, code string, seconds float64) {
	bad := code != "0"
	if code == "none" {
		fmt.Fprintf(r.w, "%s: the machine ended while its tests ran\n", pkg)
	}
	r.end(pkg, bad)
	word := "ok  "
	if bad {
		word = "FAIL"
	}
	fmt.Fprintf(r.w, "%s\t%s\t%.1fs%s\n", word, pkg, seconds, r.suffix)
	_ = r.w.Flush()
}

// end prints the output of what did not pass, if the package did not.
func (r *report) end(pkg string, bad bool) {
	if bad {
		r.failed = append(r.failed, pkg)
		for _, e := range r.lines[pkg] {
			if o := r.Tests[pkg+" "+e.Test].Outcome; o != "pass" && o != "skip" && !isFrame(e.Output) {
				fmt.Fprint(r.w, e.Output)
			}
		}
	}
	fmt.Fprint(r.w, r.summary[pkg])
	delete(r.lines, pkg)
}

// finish writes the list, prints the counts, and is an error if a package failed.
func (r *report) finish(file string) error {
	count := map[string]int{}
	for _, t := range r.Tests {
		count[t.Outcome]++
	}
	fmt.Fprintf(r.w, "%s: %d passed, %d failed, %d skipped\n", r.Machine, count["pass"], count["fail"], count["skip"])
	if len(r.unsteady) > 0 {
		fmt.Fprintf(r.w, "%s: %d of them failed at first and passed alone: %s\n", r.Machine, len(r.unsteady), strings.Join(r.unsteady, ", "))
	}
	defer r.w.Flush()
	if file != "" {
		b, err := json.MarshalIndent(r.list, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if len(r.failed) > 0 {
		return fmt.Errorf("%s: tests failed in %s", r.Machine, strings.Join(r.failed, ", "))
	}
	if len(r.Tests) == 0 {
		return fmt.Errorf("%s: no test ran", r.Machine)
	}
	return nil
}
