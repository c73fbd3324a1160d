package fib

import (
	"log/slog"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// TestReversePath: strict interfaces become loose, others stay; somebody who makes one strict again
// is noticed.
func TestReversePath(t *testing.T) {
	ns := testkit.NewNetns(t)
	for _, l := range []string{"up0", "up1"} {
		testkit.Run(t, ns, "ip", "link", "add", l, "type", "bridge")
	}
	set := func(device, value string) {
		if err := kernel.SetSysctlAt(ns.Path, rpFilter(device), value); err != nil {
			t.Fatal(err)
		}
	}
	get := func(device string) string {
		v, err := kernel.GetSysctlAt(ns.Path, rpFilter(device))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	r := NewReversePath(ns.Path, nil, slog.New(slog.DiscardHandler))
	apply := func(changed int) {
		t.Helper()
		res, err := r.Apply(t.Context(), []string{"up0", "gone"})
		if err != nil || res.Changed != changed {
			t.Fatalf("%v, %v, want %d changes", res, err, changed)
		}
	}
	for _, d := range []string{"all", "up0", "up1"} {
		set(d, "0")
	}
	apply(0)
	set("up0", "1")
	set("up1", "1")
	apply(0) // nobody told
	if !r.Observe(kernel.Event{Kind: kernel.EventSysctl, Sysctl: rpFilter("up0"), SysctlValue: 1}) {
		t.Error("up0 made strict is not noticed")
	}
	apply(1)
	if get("up0") != "2" || get("up1") != "1" {
		t.Errorf("up0 %s, up1 %s, want 2 and, not named, 1", get("up0"), get("up1"))
	}
	set("up0", "0")
	set("all", "1")
	r.Invalidate()
	apply(1)
	if get("up0") != "2" || get("all") != "1" {
		t.Errorf("up0 %s, all %s, want 2 and 1", get("up0"), get("all"))
	}
	if r.Observe(kernel.Event{Kind: kernel.EventSysctl, Sysctl: rpFilter("up1"), SysctlValue: 1}) {
		t.Error("up1, which is none of ours, is reacted to")
	}
}
