package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// compareFiles reads lists and compares them.
func compareFiles(w io.Writer, files []string) error {
	var lists []list
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read the list of a machine's tests: %w (make test writes them all)", err)
		}
		var l list
		if err := json.Unmarshal(b, &l); err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
		lists = append(lists, l)
	}
	return compare(w, lists)
}

// leftToKube begins why a test was skipped that make test-kube runs, where that skip is a failure.
const leftToKube = "kube:"

// compare prints which tests were skipped somewhere, and fails when one of them ran nowhere.
func compare(w io.Writer, lists []list) error {
	skipped := map[string]bool{}
	for _, l := range lists {
		for name, t := range l.Tests {
			if t.Outcome == "skip" {
				skipped[name] = true
			}
		}
	}
	var nowhere []string
	left := 0
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		var ran, not []string
		kube := false
		for _, l := range lists {
			switch t, there := l.Tests[name]; {
			case there && t.Outcome == "skip":
				not = append(not, l.Machine+": "+t.Why)
				kube = kube || strings.HasPrefix(t.Why, leftToKube)
			case there:
				ran = append(ran, l.Machine)
			}
		}
		if len(ran) == 0 && kube {
			left++
			ran = []string{"none, is left to make test-kube"}
		} else if len(ran) == 0 {
			nowhere = append(nowhere, name)
			ran = []string{"NOWHERE"}
		}
		fmt.Fprintf(w, "%s: ran on %s; skipped on %s\n", name, strings.Join(ran, ", "), strings.Join(not, "; "))
	}
	var names []string
	for _, l := range lists {
		names = append(names, l.Machine)
	}
	fmt.Fprintf(w, "%d tests were skipped on one of %s; %d of them ran nowhere\n", len(skipped), strings.Join(names, ", "), len(nowhere))
	if left > 0 {
		fmt.Fprintf(w, "%d more are left to make test-kube\n", left)
	}
	if len(nowhere) > 0 {
		return fmt.Errorf("%d tests were skipped and ran on none of %s, so nobody knows whether they pass (hack/vmtest.d/only says what runs in the test machine): %s",
			len(nowhere), strings.Join(names, ", "), strings.Join(nowhere, ", "))
	}
	return nil
}
