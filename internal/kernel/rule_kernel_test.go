package kernel_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/internal/testkit"
	"weft/model"
)

// hostRules are rules such as encrypted hosts have, of both families.
func hostRules() map[kernel.Rule]struct{} {
	rules := map[kernel.Rule]struct{}{}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		for _, r := range []kernel.Rule{
			{Priority: 98, Protocol: unix.IPPROTO_TCP, DestPort: 2379, Table: kernel.MainTable},
			{Priority: 98, Protocol: unix.IPPROTO_TCP, SourcePort: 2379, Table: kernel.MainTable},
			{Priority: 98, Protocol: unix.IPPROTO_IPIP, Table: kernel.MainTable},
			{Priority: 99, Not: true, Mark: kernel.UnderlayMark, Mask: kernel.UnderlayMark, Table: kernel.HostTable},
		} {
			r.Family = f
			rules[r] = struct{}{}
		}
	}
	return rules
}

const hostRulesShown = `98: from all ipproto 6 dport 2379 lookup 254 proto 87
98: from all ipproto 6 sport 2379 lookup 254 proto 87
98: from all ipproto 4 lookup 254 proto 87
99: not from all fwmark 0x10000000/0x10000000 lookup 8787 proto 87`

// shownRules is what ip(8) says of the rules between those that every namespace has.
func shownRules(t *testing.T, ns testkit.NS, family string) []string {
	t.Helper()
	var out []string
	for l := range strings.Lines(testkit.Run(t, ns, "ip", "-N", family, "rule", "show")) {
		l = strings.ReplaceAll(strings.Join(strings.Fields(l), " "), "ipproto-", "") // some write "ipproto ipproto-6"
		if !strings.HasPrefix(l, "0:") && !strings.HasPrefix(l, "32766:") && !strings.HasPrefix(l, "32767:") {
			out = append(out, l)
		}
	}
	return out
}

var anyOrder = cmpopts.SortSlices(func(a, b string) bool { return a < b })

// TestRuleTable: rules come, are found again by another Syncer, are put back, and go; nobody else's are touched.
func TestRuleTable(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.IPRoute2, testkit.IPv6)
	ns := testkit.NewNetns(t)
	h := ns.Open(t)
	foreign := []string{"50: from all fwmark 0x1 lookup 100", "98: from all ipproto 6 dport 2379 lookup 254", "99: from 10.0.0.0/8 lookup 8787 proto 12"}
	for _, r := range []string{"pref 50 fwmark 1 table 100", "pref 98 ipproto tcp dport 2379 table main", "pref 99 from 10.0.0.0/8 table 8787 protocol bird"} {
		testkit.Run(t, ns, append([]string{"ip", "rule", "add"}, strings.Fields(r)...)...)
	}
	sync := func(s *reconcile.Syncer[kernel.Rule, struct{}], want map[kernel.Rule]struct{}) string {
		t.Helper()
		res, err := s.Sync(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		return res.String()
	}
	check := func(what string, ours string) {
		t.Helper()
		for family, want := range map[string][]string{"-4": foreign, "-6": nil} {
			want = append(want[:len(want):len(want)], strings.FieldsFunc(ours, func(r rune) bool { return r == '\n' })...)
			if d := cmp.Diff(want, shownRules(t, ns, family), anyOrder); d != "" {
				t.Errorf("%s: rules %s (-want +got):\n%s", what, family, d)
			}
		}
	}
	s := reconcile.NewSyncer(kernel.RuleTable(h, kernel.HostTable), reconcile.DeleteAlways)
	if got := sync(s, hostRules()); got != "8 added, 0 changed, 0 removed" {
		t.Errorf("at first: %s", got)
	}
	check("written", hostRulesShown)
	s = reconcile.NewSyncer(kernel.RuleTable(h, kernel.HostTable), reconcile.DeleteAlways)
	if got := sync(s, hostRules()); got != "no change" {
		t.Errorf("adopted: %s", got)
	}
	// What carries our number is ours, whatever it says.
	for _, r := range []string{"-4 pref 7 iif lo table 9", "-6 pref 7 from fd00::/8 table 9", "-4 pref 98 ipproto tcp dport 2379-2380 table main", "-4 pref 31 blackhole"} {
		f := strings.Fields(r)
		testkit.Run(t, ns, append(append([]string{"ip", f[0], "rule", "add"}, f[1:]...), "protocol", "87")...)
	}
	testkit.Run(t, ns, "ip", "-6", "rule", "del", "pref", "99")
	s.Invalidate()
	if got := sync(s, hostRules()); got != "1 added, 0 changed, 4 removed, 1 of them repaired" {
		t.Errorf("repaired: %s", got)
	}
	check("repaired", hostRulesShown)
	if got := sync(s, nil); got != "0 added, 0 changed, 8 removed" {
		t.Errorf("removed: %s", got)
	}
	check("removed", "")
}

// TestRuleOrder: exceptions are there as long as what they are from.
func TestRuleOrder(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.IPRoute2, testkit.IPv6)
	ns := testkit.NewNetns(t)
	r := watch(t, ns)
	s := reconcile.NewSyncer(kernel.RuleTable(ns.Open(t), kernel.HostTable), reconcile.DeleteAlways)
	for _, want := range []map[kernel.Rule]struct{}{hostRules(), nil} {
		if _, err := s.Sync(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(removed bool) (priorities []int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.events {
			if e.Kind == kernel.EventRule && e.Removed == removed && e.Protocol == kernel.RouteProtocol {
				if _, known := hostRules()[e.Rule]; !known {
					t.Errorf("the event tells of %v", e.Rule)
				}
				priorities = append(priorities, e.Rule.Priority)
			}
		}
		return priorities
	}
	testkit.Eventually(t, 10*time.Second, "events of 16 changes", func() bool { return len(rule(false))+len(rule(true)) >= 16 })
	if d := cmp.Diff([]int{98, 98, 98, 98, 98, 98, 99, 99}, rule(false)); d != "" {
		t.Errorf("written in another order (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]int{99, 99, 98, 98, 98, 98, 98, 98}, rule(true)); d != "" {
		t.Errorf("removed in another order (-want +got):\n%s", d)
	}
}

// TestRuleAtTheBeginning: the highest priority that there is leaves room for exceptions before it.
func TestRuleAtTheBeginning(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.IPRoute2, testkit.IPv6)
	ns := testkit.NewNetns(t)
	want := map[kernel.Rule]struct{}{
		{Family: model.IPv4, Priority: 0, Protocol: unix.IPPROTO_TCP, DestPort: 179, Table: kernel.MainTable}: {},
		{Family: model.IPv6, Priority: 0, Protocol: unix.IPPROTO_TCP, DestPort: 179, Table: kernel.MainTable}: {},
		{Family: model.IPv4, Priority: 1, Table: kernel.HostTable}:                                            {},
	}
	table := kernel.RuleTable(ns.Open(t), kernel.HostTable)
	if _, err := reconcile.NewSyncer(table, reconcile.DeleteAlways).Sync(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	have, err := table.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, have, cmp.AllowUnexported(kernel.Rule{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if all := testkit.Run(t, ns, "ip", "rule", "show"); !strings.HasPrefix(all, "0:\tfrom all lookup local\n0:\tfrom all ipproto tcp dport") {
		t.Errorf("rules:\n%s", all)
	}
}
