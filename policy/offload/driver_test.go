package offload

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/nft"
	"weft/policy"
)

// A change of policy, and who asks how things are, wait for no change of the flow table; a program that asks about
// each packet does, since the table has to go.
func TestPolicyWaitsForNoRoute(t *testing.T) {
	d := New(nil, slog.New(slog.DiscardHandler))
	d.lacks = errors.New("so that the kernel is left alone")
	d.mu.Lock() // as during a change
	done := make(chan error, 1)
	within := func(patience time.Duration, f func() error) bool {
		go func() { done <- f() }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return true
		case <-time.After(patience):
			return false
		}
	}
	if !within(10*time.Second, func() error { return d.Follow(t.Context(), &policy.Program{}) }) {
		t.Fatal("a program that asks about first packets waits")
	}
	if !within(10*time.Second, func() error { _, _, _ = d.Devices(), d.Refuses(), d.Lacks(); return nil }) {
		t.Fatal("who asks waits")
	}
	untracked := &policy.Program{Hosts: map[string]*policy.Host{"eth0": {Untracked: [2]policy.Hook{{Tiers: []policy.Tier{{Name: "default"}}}}}}}
	if within(50*time.Millisecond, func() error { return d.Follow(t.Context(), untracked) }) {
		t.Error("a program that asks about each packet does not wait: the test proves nothing")
	}
	d.mu.Unlock()
	if err := <-done; err != nil || !d.Refuses() {
		t.Errorf("then: %v, refuses %v", err, d.Refuses())
	}
}

// What was not found is the kernel's lack only where the kernel's own parts are asked for; a device may just have gone.
func TestRefusedBy(t *testing.T) {
	flows := &nft.Refusal{Flows: flowTable, Rule: -1, Err: unix.ENOENT}
	rule := &nft.Refusal{Chain: chain, Rule: 1, Err: unix.ENOENT}
	for _, c := range []struct {
		err  error
		want refused
	}{
		{nil, nothing},
		{unix.ENOENT, nothing},
		{fmt.Errorf("list links: %w", unix.ENOENT), nothing},
		{&nft.Refusal{Set: setPods, Rule: -1, Err: unix.ENOENT}, nothing},
		{&nft.Refusal{Chain: chain, Rule: -1, Err: unix.ENOENT}, nothing},
		{&nft.Refusal{Chain: chain, Rule: 1, Err: unix.EBUSY}, nothing},
		{fmt.Errorf("program: %w", errors.Join(flows, rule)), flowTables},
		{fmt.Errorf("program: %w", errors.Join(rule)), rules},
		{fmt.Errorf("program: %w", errors.Join(&nft.Refusal{Rule: -1, Err: unix.EAFNOSUPPORT}, flows, rule)), everything},
		{fmt.Errorf("open: %w", unix.EPROTONOSUPPORT), everything},
	} {
		if got := refusedBy(c.err); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

func TestLackOf(t *testing.T) {
	refusal := func(rule int) error { return &nft.Refusal{Chain: "offload-probe", Rule: rule, Err: unix.ENOENT} }
	for want, err := range map[string]error{
		"NFT_FLOW_OFFLOAD":                      nil,
		"NFT_FIB_INET":                          fmt.Errorf("program: %w", refusal(2)),
		"NFT_CT, NF_CONNTRACK_MARK":             errors.Join(refusal(0), refusal(1)),
		"an expression of the rules (deadline)": errors.New("deadline"),
	} {
		if got := lackOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
