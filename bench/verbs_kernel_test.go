package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/bench/result"
	"weft/internal/testkit"
)

// programs is where the real programs are, once a test has asked for them; TestMain removes it.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weft-bench-test-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+"/", "weft/cmd/weft", "weft/cmd/weft-cni").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("build the programs: %w: %s", err, out)
	}
	built = dir
	return dir, nil
})

var built string

// weftBench runs `weft bench VERB` with a lab of its own, and returns its records and what it printed.
func weftBench(t *testing.T, verb string, args ...string) ([]result.Record, string, error) {
	t.Helper()
	if testing.Short() || testkit.Emulated() {
		t.Skip("takes half a minute, and a processor that is not emulated")
	}
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.VXLAN, testkit.Bridge, testkit.NFTables, testkit.IPRoute2)
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	name := fmt.Sprintf("t%d-%s", os.Getpid()%10000, verb)
	cmd := exec.Command(filepath.Join(dir, "weft"), append([]string{"bench", verb, "--name", name, "--quick", "--out", out}, args...)...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	runErr := cmd.Run()
	nothingLeft(t, name)
	t.Log(text.String())
	f, err := os.Open(filepath.Join(out, verb+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := result.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if md, err := os.ReadFile(filepath.Join(out, verb+".md")); err != nil || !strings.Contains(string(md), "## Ratios") {
		t.Errorf("the table: %v\n%s", err, md)
	}
	return records, text.String(), runErr
}

// nothingLeft fails when a namespace, a process or a file of the lab is there still.
func nothingLeft(t *testing.T, name string) {
	t.Helper()
	spaces, _ := os.ReadDir("/run/netns")
	for _, s := range spaces {
		if strings.HasPrefix(s.Name(), name+".") {
			t.Errorf("left behind: network namespace %s", s.Name())
		}
	}
	if _, err := os.Stat("/run/weft-lab/" + name); err == nil {
		t.Errorf("left behind: the lab's directory")
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range processes {
		if env, _ := os.ReadFile(p); bytes.Contains(env, []byte("WEFT_LAB_ID="+name+"@")) {
			t.Errorf("left behind: process %s", p)
		}
	}
}

// byMetric groups the values of records for which keep holds, by Setting and Metric.
func byMetric(records []result.Record, unit result.Unit) map[[2]string][]float64 {
	out := map[[2]string][]float64{}
	for _, r := range records {
		if r.Unit == unit {
			k := [2]string{r.Setting, r.Metric}
			out[k] = append(out[k], r.Value)
		}
	}
	return out
}

func TestEncap(t *testing.T) {
	records, _, err := weftBench(t, "encap", "--rounds", "2", "--time", "100ms")
	if err != nil {
		t.Fatal(err)
	}
	ratios := byMetric(records, result.Ratio)
	for _, setting := range []string{toPlain, toHand, toItself} {
		for _, metric := range []string{"throughput", "packets_received", "latency_p50", "latency_p99", "cpu_per_gigabit"} {
			if len(ratios[[2]string{setting, metric}]) == 0 {
				t.Errorf("no ratio of %s %s", metric, setting)
			}
		}
	}
	for k, requests := range byMetric(records, result.Count) {
		if slices.Max(requests) == 0 {
			t.Errorf("%v: not one request in %d rounds", k, len(requests))
		}
	}
}

// Whoever ends it early gets what was measured, and nothing is left.
func TestEncapInterrupted(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.VXLAN, testkit.Bridge, testkit.NFTables, testkit.IPRoute2)
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
		out, name := t.TempDir(), fmt.Sprintf("t%d-int", os.Getpid()%10000)
		cmd := exec.Command(filepath.Join(dir, "weft"), "bench", "encap", "--name", name, "--time", "50ms", "--out", out)
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for begin := time.Now(); len(ended) == 0 && time.Since(begin) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
			if s, err := os.Stat(filepath.Join(out, "encap.jsonl")); err == nil && s.Size() > 0 {
				break
			}
		}
		_ = cmd.Process.Signal(sig)
		late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		err := <-ended
		late.Stop()
		if code := cmd.ProcessState.ExitCode(); err == nil || code != 1 {
			t.Errorf("%v: exit code %d, want 1:\n%s", sig, code, text.String())
		}
		if md, err := os.ReadFile(filepath.Join(out, "encap.md")); err != nil || !strings.Contains(string(md), "Ended early") {
			t.Errorf("%v: %v\n%s", sig, err, md)
		}
		nothingLeft(t, name)
	}
}

func TestSwitch(t *testing.T) {
	records, text, err := weftBench(t, "switch")
	if err != nil {
		t.Fatal(err)
	}
	counts := byMetric(records, result.Count)
	changes := 0
	for k, lost := range counts {
		if k[1] != metricLost {
			continue
		}
		for i, sent := range counts[[2]string{k[0], metricSent}] {
			changes++
			naive := k[0] == naiveChange
			if sent == 0 || naive && lost[i] == 0 || !naive && lost[i] > 0 {
				t.Errorf("%s: %v of %v packets lost", k[0], lost[i], sent)
			}
		}
	}
	if want := len(demoWalk) - 1 + len(neverWalk) - 1 + 3 + 2 + 2 + 1; changes != want {
		t.Errorf("%d changes and windows, want %d:\n%s", changes, want, text)
	}
}

// Everything is healed in each phase; what is broken while the node service is stopped is not, and loses.
func TestHeal(t *testing.T) {
	records, _, err := weftBench(t, "heal", "--times", "1")
	if err != nil {
		t.Fatal(err)
	}
	counts, pieces := byMetric(records, result.Count), map[string]int{}
	for k, unhealed := range counts {
		if k[1] != metricUnhealed {
			continue
		}
		control := strings.HasPrefix(k[0], "control: ")
		for i, n := range unhealed {
			sent, lost := counts[[2]string{k[0], metricSent}][i], counts[[2]string{k[0], metricLost}][i]
			if sent == 0 || (n == 1) != control || control && lost == 0 {
				t.Errorf("%s: %v not healed, %v of %v packets lost", k[0], n, lost, sent)
			}
		}
		phase, _, _ := strings.Cut(k[0], ":")
		pieces[phase] += len(unhealed)
	}
	for _, p := range healPhases(&Heal{}) {
		if pieces[p.name] != len(p.pieces) {
			t.Errorf("%s: %d pieces, want %d", p.name, pieces[p.name], len(p.pieces))
		}
	}
	if pieces["control"] != 1 || len(byMetric(records, result.Ratio)) == 0 {
		t.Errorf("%d controls, want 1; and ratios", pieces["control"])
	}
}
