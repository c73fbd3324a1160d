package testkit

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
)

// runVariable marks every process that a leak-checked test starts, however far down; children
// inherit it even when they leave the session.
const runVariable = "WEFT_TESTKIT_RUN"

// LeakCheck fails the test if, when it ends, a process that it started still runs, or a named
// namespace, a mount, or a link in the test's own network namespace has appeared. Call it first:
// its check then runs after all other cleanups. It prints the counts. Not for parallel tests.
func LeakCheck(t testing.TB) {
	t.Helper()
	run := strconv.Itoa(os.Getpid()) + "/" + t.Name()
	before := survey(t)
	t.Cleanup(func() {
		// A process that was told to stop may need a moment.
		var left map[string][]string
		for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			left = added(before, survey(t))
			left["processes"] = processes(run)
			total := 0
			for _, l := range left {
				total += len(l)
			}
			if total == 0 || time.Now().After(deadline) {
				break
			}
		}
		var counts []string
		for _, what := range slices.Sorted(maps.Keys(left)) {
			counts = append(counts, fmt.Sprintf("%d %s", len(left[what]), what))
			for _, l := range left[what] {
				t.Errorf("left behind, of the %s: %s", what, l)
			}
		}
		if !t.Skipped() { // else the last line is the reason
			t.Logf("left behind: %s", strings.Join(counts, ", "))
		}
	})
	setenv(t, run)
}

// setenv undoes itself before the check above runs; the children keep what they inherited.
func setenv(t testing.TB, run string) { t.Helper(); t.Setenv(runVariable, run) }

// survey lists what could be left behind but processes.
func survey(t testing.TB) map[string][]string {
	t.Helper()
	res := map[string][]string{"namespaces": nil, "mounts": nil, "links": nil}
	entries, err := os.ReadDir(kernel.NetnsDir)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, e := range entries {
		if !elsewhere(e.Name()) {
			res["namespaces"] = append(res["namespaces"], e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if f := strings.Fields(l); len(f) > 4 && !elsewhere(filepath.Base(f[4])) {
			res["mounts"] = append(res["mounts"], f[4])
		}
	}
	h, err := kernel.Open()
	if err != nil {
		t.Error(err)
		return res
	}
	defer h.Close()
	ls, err := h.Links(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, l := range ls {
		res["links"] = append(res["links"], l.Name)
	}
	return res
}

// elsewhere tells whether a namespace belongs to a test of another process.
func elsewhere(name string) bool {
	return strings.HasPrefix(name, "wt") && !strings.HasPrefix(name, namePrefix())
}

// added returns what is in after and not, or not as often, in before.
func added(before, after map[string][]string) map[string][]string {
	res := make(map[string][]string)
	for what, now := range after {
		count := make(map[string]int)
		for _, n := range before[what] {
			count[n]++
		}
		res[what] = nil
		for _, n := range now {
			if count[n]--; count[n] < 0 {
				res[what] = append(res[what], n)
			}
		}
	}
	return res
}

// processes lists the live processes that carry the mark of this run.
func processes(run string) []string {
	mark := "\x00" + runVariable + "=" + run + "\x00"
	var res []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid := filepath.Base(d)
		env, err := os.ReadFile(filepath.Join(d, "environ"))
		if err != nil || pid == strconv.Itoa(os.Getpid()) || !strings.Contains("\x00"+string(env), mark) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		res = append(res, pid+" "+strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	return res
}
