package bench

import (
	"errors"
	"strings"
	"testing"

	"weft/internal/traffic"
)

// The walk under traffic makes each ordered change among the four modes that encapsulate once.
func TestEveryChange(t *testing.T) {
	seen := map[[2]int]int{}
	for i, to := range everyChange[1:] {
		seen[[2]int{everyChange[i], to}]++
	}
	for a := range 4 {
		for b := range 4 {
			if want := min(1, max(a-b, b-a)); seen[[2]int{a, b}] != want {
				t.Errorf("%v to %v: %d times, want %d", demoModes[a], demoModes[b], seen[[2]int{a, b}], want)
			}
		}
	}
	if everyChange[0] != 0 || everyChange[len(everyChange)-1] != 0 {
		t.Error("the walk does not begin and end with VXLAN Always, in which VNI and port are changed")
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
