package fib

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

func TestSysctls(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.IPv6)
	ns := testkit.NewNetns(t)
	own := map[string]string{}
	for _, c := range sysctls() {
		v, err := kernel.GetSysctl(c.path)
		if err != nil {
			t.Fatal(err)
		}
		own[c.path] = v
	}
	s := NewSysctls(ns.Path, nil, slog.New(slog.DiscardHandler))
	for _, c := range sysctls() {
		if err := kernel.SetSysctlAt(ns.Path, c.path, "0"); err != nil {
			t.Fatal(err)
		}
	}
	m, err := kernel.NewMonitor(t.Context(), ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- m.Run(ctx, func(e kernel.Event) {
			if s.Observe(e) {
				events <- e.Sysctl
			}
		})
	}()
	defer func() { cancel(); <-done }()

	res, err := s.Apply(t.Context())
	if err != nil || res.Changed != len(sysctls()) || res.Repaired != 0 {
		t.Errorf("first Apply: %v, %v", res, err)
	}
	if res, err = s.Apply(t.Context()); err != nil || !res.Zero() {
		t.Errorf("second Apply: %v, %v", res, err)
	}
	select {
	case e := <-events:
		t.Errorf("our own write of %s was taken for somebody else's", e)
	case <-time.After(100 * time.Millisecond):
	}
	for _, c := range sysctls() {
		start := time.Now()
		if err := kernel.SetSysctlAt(ns.Path, c.path, "0"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-events:
		case <-time.After(time.Second):
			t.Fatalf("no event when %s was changed", c.path)
		}
		if res, err := s.Apply(t.Context()); err != nil || res.Repaired != 1 {
			t.Errorf("repair of %s: %v, %v", c.path, res, err)
		}
		t.Logf("%s set back after %v", c.path, time.Since(start).Round(10*time.Microsecond))
		if v, _ := kernel.GetSysctlAt(ns.Path, c.path); v != c.value {
			t.Errorf("%s is %s", c.path, v)
		}
	}
	for path, was := range own {
		if v, _ := kernel.GetSysctl(path); v != was {
			t.Errorf("%s of the test's own namespace went from %s to %s", path, was, v)
		}
	}
}
