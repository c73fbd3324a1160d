package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// unsteadyTests are the tests that failed, by package, if there are no more than limit and every package that failed did
// so by a test: what did not build, or panicked, is not tried again.
func (r *report) unsteadyTests(limit int) map[string][]string {
	tests, n := map[string][]string{}, 0
	for key, res := range r.Tests {
		pkg, test, _ := strings.Cut(key, " ")
		if res.Outcome == "fail" && !strings.Contains(test, "/") {
			tests[pkg] = append(tests[pkg], test)
			n++
		}
	}
	for _, pkg := range r.failed {
		if len(tests[pkg]) == 0 {
			return nil
		}
	}
	if n == 0 || n > limit {
		return nil
	}
	return tests
}

// again runs failed tests once more, alone. Their second end counts, and finish says which passed only then.
func (r *report) again(command []string, tests map[string][]string) (err error) {
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		slices.Sort(tests[pkg])
		fmt.Fprintf(r.w, "%s: %s failed; once more, alone:\n", pkg, strings.Join(tests[pkg], ", "))
		_ = r.w.Flush()
		maps.DeleteFunc(r.Tests, func(key string, res result) bool { return strings.HasPrefix(key, pkg+" ") && res.Outcome == "fail" })
		r.failed = slices.DeleteFunc(r.failed, func(f string) bool { return f == pkg })
		err = errors.Join(err, r.goTest(command, "-count=1", "-run", "^("+strings.Join(tests[pkg], "|")+")$", pkg))
		for _, test := range tests[pkg] {
			switch res := r.Tests[pkg+" "+test]; res.Outcome {
			case "pass":
				r.unsteady = append(r.unsteady, pkg+" "+test)
			case "fail":
			default:
				err = errors.Join(err, fmt.Errorf("%s %s ended as %q when it was run again", pkg, test, res.Outcome))
			}
		}
	}
	return err
}
