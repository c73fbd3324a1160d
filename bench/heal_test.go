package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/bench/result"
)

func TestHealRecords(t *testing.T) {
	value := func(g healed, metric string, unit result.Unit) (float64, bool) {
		for _, r := range healRecords(g) {
			if r.Metric == metric && r.Unit == unit {
				return r.Value, true
			}
		}
		return 0, false
	}
	g := healed{what: "routes", took: 300 * time.Millisecond, look: 100 * time.Millisecond, whole: true, sent: 10, lost: 1}
	if v, ok := value(g, metricHealed, result.Ratio); !ok || v < 2.99 || v > 3.01 {
		t.Errorf("ratio to a look: %v %v, want 3", v, ok)
	}
	if v, _ := value(g, metricUnhealed, result.Count); v != 0 {
		t.Errorf("not healed: %v", v)
	}
	g.whole = false
	if _, ok := value(g, metricHealed, result.Seconds); ok {
		t.Error("what was not healed has a time")
	}
	h := &Heal{}
	for _, c := range []struct {
		g    healed
		want string
	}{
		{healed{what: "a", whole: true}, ""}, {healed{what: "b"}, "b: not healed"},
		{healed{what: "c", control: true, sent: 5, lost: 2}, ""}, {healed{what: "d", control: true, whole: true, lost: 1}, "blind"}, {healed{what: "e", control: true, sent: 5}, "0 of 5"},
	} {
		h.errs = nil
		h.judge(c.g)
		if (len(h.errs) == 0) != (c.want == "") || len(h.errs) > 0 && !strings.Contains(h.errs[0].Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.g.what, h.errs, c.want)
		}
	}
	var text strings.Builder
	records := append(healRecords(g), healRecords(healed{what: "stopped", control: true, sent: 7, lost: 7})...)
	for i := range records {
		records[i].Experiment = "heal"
	}
	if writeHeal(&text, figures(records)); !strings.Contains(text.String(), "control: stopped") {
		t.Errorf("got:\n%s", text.String())
	}
}

// What changes nothing of what is looked at is refused, as is what cannot be done or looked at.
func TestSabotageChanges(t *testing.T) {
	state, broken := "", errors.New("no such device")
	look := func(context.Context) (string, error) {
		if state == "unreadable" {
			return "", broken
		}
		return state, nil
	}
	for _, c := range []struct {
		becomes, want string
		err           error
	}{
		{"whole", "it changed nothing", nil}, {"other", "", nil}, {"whole", broken.Error(), broken}, {"unreadable", broken.Error(), nil},
	} {
		state = "whole"
		s := sabotage{what: "routes flushed", do: func(context.Context) error { state = c.becomes; return c.err }}
		err := s.changes(t.Context(), look)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.what)) {
			t.Errorf("to %q, %v: got %v, want %q", c.becomes, c.err, err, c.want)
		}
	}
	state = "unreadable"
	if err := (sabotage{what: "a"}).changes(t.Context(), look); !errors.Is(err, broken) {
		t.Errorf("of what cannot be looked at: %v", err)
	}
}

// A piece that others left nothing to break is done again on the whole state, where it has to change something.
func TestSabotageInTurns(t *testing.T) {
	state := map[string]bool{"table": true, "routes": true}
	look := func(context.Context) (string, error) { return fmt.Sprint(state), nil }
	removes := func(what string) sabotage {
		return sabotage{what: what, do: func(context.Context) error { delete(state, what); return nil }}
	}
	pieces := []sabotage{removes("table"), removes("routes"), removes("table")}
	if done, err := changing(t.Context(), pieces, look); done != 2 || err != nil {
		t.Errorf("%d done, %v; want the first 2", done, err)
	}
	if done, err := changing(t.Context(), pieces[2:], look); done != 0 || err == nil {
		t.Errorf("%d done, %v; want an error: the table is not there", done, err)
	}
	state["table"] = true
	if done, err := changing(t.Context(), pieces[2:], look); done != 1 || err != nil {
		t.Errorf("%d done, %v; want 1", done, err)
	}
}

func TestReplaced(t *testing.T) {
	for _, c := range []struct {
		ended, now []int
		want       bool
	}{
		{[]int{7}, []int{8}, true}, {[]int{7}, []int{7}, false}, {[]int{7}, nil, false},
		{[]int{7, 9}, []int{8}, false}, {[]int{7, 9}, []int{9, 10}, false}, {[]int{7}, []int{8, 10}, true},
	} {
		if got := replaced(c.ended, c.now); got != c.want {
			t.Errorf("%v after %v: %v, want %v", c.now, c.ended, got, c.want)
		}
	}
}
