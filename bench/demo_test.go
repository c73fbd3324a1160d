package bench

import (
	"errors"
	"strings"
	"testing"

	"weft/internal/traffic"
)

// A walk makes each ordered change among n modes once, and ends where it began: in which VNI and port are changed.
func TestWalk(t *testing.T) {
	for _, n := range []int{2, 3, 4, 5} {
		w := walk(n)
		seen := map[[2]int]int{}
		for i, to := range w[1:] {
			seen[[2]int{w[i], to}]++
		}
		for a := range n {
			for b := range n {
				if want := min(1, max(a-b, b-a)); seen[[2]int{a, b}] != want {
					t.Errorf("%d to %d of %d: %d times, want %d", a, b, n, seen[[2]int{a, b}], want)
				}
			}
		}
		if w[0] != 0 || w[len(w)-1] != 0 {
			t.Errorf("the walk %v does not begin and end with the first", w)
		}
	}
}

// The two walks of `weft bench switch` make each change among all modes once.
func TestNeverWalk(t *testing.T) {
	seen := map[[2]int]int{}
	for _, w := range [][]int{demoWalk, neverWalk} {
		for i, to := range w[1:] {
			seen[[2]int{w[i], to}]++
		}
	}
	if n := len(demoModes); len(seen) != n*(n-1) || len(demoWalk)+len(neverWalk)-2 != n*(n-1) {
		t.Errorf("%d different changes, want %d: %v", len(seen), n*(n-1), seen)
	}
}

func TestDemoModes(t *testing.T) {
	for i, want := range []string{"VXLAN VXLAN true", "Direct VXLAN true", "IPIP IPIP true", "Direct IPIP true", "Direct Direct false"} {
		m := demoModes[i]
		if got := m.reach("n1", "n2") + " " + m.reach("n1", "n3") + map[bool]string{true: " true", false: " false"}[m.expected("n1", "n3")]; got != want {
			t.Errorf("%v: %s, want %s", m, got, want)
		}
		if !m.expected("n2", "n1") {
			t.Errorf("%v: a rack is expected to talk", m)
		}
	}
}

// What should talk and does not, and what is lost, is an error that names it.
func TestDemoFails(t *testing.T) {
	rows := []demoRow{
		{mode: "VXLAN Always", from: "n1", to: "n2", expected: true, talks: true, ping: pingResult{Sent: 50, Received: 50}},
		{mode: "Never", from: "n1", to: "n3", ping: pingResult{Sent: 3}},
	}
	if err := failures(rows); err != nil {
		t.Errorf("all is as expected, but %v", err)
	}
	rows = append(rows, demoRow{mode: "IPIP Always", from: "n1", to: "n3", expected: true, err: errors.New("no path")},
		demoRow{mode: "IPIP CrossSubnet", from: "n1", to: "n2", expected: true, talks: true, ping: pingResult{Sent: 50, Received: 49}})
	err := failures(rows)
	if err == nil || !strings.Contains(err.Error(), "IPIP Always: n1 to n3") || !strings.Contains(err.Error(), "49 of 50") {
		t.Errorf("got %v", err)
	}
	var b strings.Builder
	writeDemoTable(&b, rows)
	for _, want := range []string{"DOES NOT TALK", "LOSES PACKETS", "not expected to", "two racks"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, b.String())
		}
	}
	lost := traffic.Report{Pairs: []traffic.Pair{{Sent: 10, Lost: 1}}}
	if err := lossOf(lost); err == nil || !strings.Contains(err.Error(), "1 of 10 packets") {
		t.Errorf("got %v", err)
	}
	broken := traffic.Report{Pairs: []traffic.Pair{{Sent: 10, TCP: &traffic.Stream{Err: errors.New("reset")}}}}
	if err := lossOf(broken); err == nil || !strings.Contains(err.Error(), "1 of 1 TCP streams") {
		t.Errorf("got %v", err)
	}
}

func TestMedian(t *testing.T) {
	if a, b := median([]float64{3, 1, 2}), median([]float64{4, 1, 2, 3}); a != 2 || b != 2.5 {
		t.Errorf("medians %v and %v, want 2 and 2.5", a, b)
	}
}
