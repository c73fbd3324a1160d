package kernel_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/internal/testkit"
)

// TestSpareStandsBy: while an IPv4 route is replaced there is another to its prefix, for lookups that are under way; before that there is
// none, nor for IPv6, and afterwards none is left. A route of somebody else in the spare's place stays.
func TestSpareStandsBy(t *testing.T) {
	ns := testkit.NewNetns(t)
	ns.Dummy(t, "eth0")
	ns.AddAddress(t, "eth0", "172.31.1.1/24", "fd00:31:1::1/64")
	rec := watch(t, ns)
	table := kernel.RouteTable(ns.Open(t)).(reconcile.BatchTable[kernel.RouteKey, kernel.Route])
	put := func(mtu int, exists bool, dst ...string) {
		t.Helper()
		var puts []reconcile.Change[kernel.RouteKey, kernel.Route]
		for _, d := range dst {
			k := kernel.RouteKey{Table: kernel.MainTable, Dst: netip.MustParsePrefix(d), Metric: 1024}
			puts = append(puts, reconcile.Change[kernel.RouteKey, kernel.Route]{Key: k, Exists: exists, Want: kernel.Route{Device: "eth0", MTU: mtu}})
		}
		for i, err := range table.PutMany(t.Context(), puts) {
			if err != nil {
				t.Errorf("put %s: %v", dst[i], err)
			}
		}
	}
	routes := func() (out []string) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		for _, e := range rec.events {
			if e.Kind == kernel.EventRoute && e.RouteKey.Table == kernel.MainTable && e.Protocol == kernel.RouteProtocol {
				out = append(out, map[bool]string{true: "-", false: "+"}[e.Removed]+e.RouteKey.String()+" "+e.Route.String())
			}
		}
		rec.events = nil
		return out
	}
	settle := func(want ...string) {
		t.Helper()
		var got []string
		testkit.Eventually(t, 2*time.Second, strings.Join(want, ", "), func() bool {
			got = append(got, routes()...)
			return len(got) >= len(want)
		})
		if !slices.Equal(got, want) {
			t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const four, five, six = "10.244.1.0/26", "10.244.2.0/26", "fd10:244:1::/122"
	put(1400, false, four, five, six)
	settle("+10.244.1.0/26 metric 1024 dev eth0 mtu 1400", "+10.244.2.0/26 metric 1024 dev eth0 mtu 1400",
		"+fd10:244:1::/122 metric 1024 dev eth0 mtu 1400")
	put(1300, true, four, five, six)
	settle("+10.244.1.0/26 metric 2147483647 dev eth0 mtu 1300", "+10.244.2.0/26 metric 2147483647 dev eth0 mtu 1300",
		"+10.244.1.0/26 metric 1024 dev eth0 mtu 1300", "+10.244.2.0/26 metric 1024 dev eth0 mtu 1300",
		"+fd10:244:1::/122 metric 1024 dev eth0 mtu 1300",
		"-10.244.1.0/26 metric 2147483647 dev eth0 mtu 1300", "-10.244.2.0/26 metric 2147483647 dev eth0 mtu 1300")

	testkit.Run(t, ns, "ip", "route", "add", four, "dev", "eth0", "proto", "static", "metric", "2147483647")
	put(1200, true, four)
	settle("+10.244.1.0/26 metric 1024 dev eth0 mtu 1200")
	if got := testkit.Run(t, ns, "ip", "route", "show", four); !strings.Contains(got, "proto static") || strings.Count(got, "proto") != 2 {
		t.Errorf("the route of somebody else is to stay, the kernel has\n%s", got)
	}
}
