package routing

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
)

// TestCompileServices: an unreachable route for each announced range, those within another left out; nothing for nothing.
func TestCompileServices(t *testing.T) {
	cfg := ServiceConfig{Priority: 32765, Table: 8788}
	var announced []netip.Prefix
	for _, s := range []string{"198.51.100.7/32", "10.96.0.2/32", "fd96::/112", "10.96.0.0/16", "10.97.0.0/24", "fd96::7/128"} {
		announced = append(announced, prefix(s))
	}
	const rule = "not iif lo lookup 8788  # what comes in for service addresses is for the service proxy; this host's own connections are routed before it translates them\n"
	const why = " table 8788  # announced service addresses: what nobody serves is refused\n"
	want := "rule IPv4 pref 32765 " + rule + "rule IPv6 pref 32765 " + rule +
		"route unreachable 10.96.0.0/16" + why + "route unreachable 10.97.0.0/24" + why + "route unreachable 198.51.100.7/32" + why + "route unreachable fd96::/112" + why
	if d := cmp.Diff(want, CompileServices(announced, model.Underlay{}, cfg).Format()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, r := range CompileServices(announced[:2], model.Underlay{}, cfg).Rules {
		if r.Family != model.IPv4 {
			t.Errorf("a rule of a family that nothing is announced of: %v", r)
		}
	}
	if d := cmp.Diff(Ruled{}, CompileServices(nil, testUnderlay(), cfg)); d != "" {
		t.Errorf("nothing is announced (-want +got):\n%s", d)
	}
}

// TestServicesBesideNetworks: what is on a link of this host, within an announced range, is left to the main table;
// what only a gateway leads to is not.
func TestServicesBesideNetworks(t *testing.T) {
	u := testUnderlay()
	u.Routes = append(u.Routes, model.UnderlayRoute{Dst: prefix("10.96.8.0/24"), Device: "eth1"}, model.UnderlayRoute{Dst: prefix("10.96.9.0/24"), Via: addr("172.31.1.9"), Device: "eth0"},
		model.UnderlayRoute{Dst: prefix("10.97.0.0/24"), Device: "eth1"}, model.UnderlayRoute{Dst: prefix("10.0.0.0/8"), Device: "eth1"}, model.UnderlayRoute{Dst: prefix("fd96::8:0/120"), Device: "eth1"})
	var got []string
	for _, r := range CompileServices([]netip.Prefix{prefix("10.96.0.0/16"), prefix("10.97.0.0/24"), prefix("fd96::/96")}, u, ServiceConfig{Priority: 32765, Table: 8788}).Routes {
		got = append(got, r.String())
	}
	want := []string{"unreachable 10.96.0.0/16", "throw 10.96.8.0/24", "throw 10.97.0.0/24", "unreachable fd96::/96", "throw fd96::8:0/120"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestAnnouncedServices: what is announced of services is told apart from blocks, and ends with the announcements.
func TestAnnouncedServices(t *testing.T) {
	in := speakerCluster(2, 2)
	in.BGP.Config.ClusterIPs = []netip.Prefix{prefix("10.96.0.0/16")}
	in.BGP.Services = []model.BGPService{{ID: model.ServiceID{Name: "s"}, Local: true, ClusterIPs: []netip.Addr{addr("10.96.0.2")}, Ready: map[model.Family][]model.NodeName{model.IPv4: {"n1"}}}}
	services := func() []netip.Prefix {
		s, err := CompileSpeaker(in)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Advertisements) <= len(s.Services()) {
			t.Errorf("control: no block is announced: %s", s.Format())
		}
		return s.Services()
	}
	want := []netip.Prefix{prefix("10.96.0.0/16"), prefix("10.96.0.2/32")}
	if d := cmp.Diff(want, services(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	withNode(in, "n1", func(n *model.Node) { n.Labels[NoServicesLabel] = "" })
	if got := services(); len(got) > 0 {
		t.Errorf("a node that announces no services: %v", got)
	}
}
