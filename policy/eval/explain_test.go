package eval

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
	"weft/policy"
)

// shop is a web and a db pod on this node and a client elsewhere, with policies as people write
// them: whoever reads this test can tell each answer without a computer.
func shop(t *testing.T) *policy.Program {
	t.Helper()
	pod := func(name, device, addr string, ports ...model.EndpointPort) model.Endpoint {
		return model.Endpoint{ID: model.EndpointID{Namespace: "shop", Pod: name, Interface: "eth0"}, Device: device, MAC: model.MAC{2},
			Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Labels: map[string]string{"app": name}, Profiles: []string{"kns.shop"}, Ports: ports}
	}
	web := pod("web", "weft1", "10.0.0.1", model.EndpointPort{Name: "http", Protocol: model.TCP, Port: 8080})
	db := pod("db", "weft2", "10.0.0.2")
	text := func(s string) *string { return &s }
	order := func(v float64) model.Order { o, _ := model.OrderOf(v); return o }
	all := []model.Rule{{Action: model.Allow}}
	port := []model.Port{{Range: model.PortRange{First: 5432, Last: 5432}}}
	client := model.RemoteID{Node: "n2", EndpointID: model.EndpointID{Pod: "client"}}
	s := &model.Snapshot{Self: "n1", Endpoints: map[model.EndpointID]model.Endpoint{web.ID: web, db.ID: db}, Policy: model.PolicyView{
		Profiles: map[string]*model.Profile{"kns.shop": {Name: "kns.shop", Ingress: all, Egress: all}},
		Remote: map[model.RemoteID]*model.RemoteEndpoint{client: {ID: client, Labels: map[string]string{"app": "client"},
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.1")}}},
		Tiers:    map[string]*model.Tier{"security": {Name: "security", Order: order(1), DefaultAction: model.Pass}},
		Policies: map[model.PolicyID]*model.Policy{},
	}}
	for _, p := range []model.Policy{
		{ID: model.PolicyID{Kind: "GlobalNetworkPolicy", Name: "no-office"}, Tier: "security", Selector: "has(app)", Ingress: []model.Rule{
			{Action: model.Deny, Source: model.EntityMatch{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
				NotNets: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}},
			{Action: model.Log, Protocol: model.TCP}}},
		{ID: model.PolicyID{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}, Selector: "app == 'web'", Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: []model.Port{{Name: "http"}}}}}},
		{ID: model.PolicyID{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"}, Order: order(7), Selector: "app == 'db'", Types: model.Types{Ingress: true, Egress: true},
			Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Selector: text("app == 'web'")},
				Destination: model.EntityMatch{Ports: port}}}},
		{ID: model.PolicyID{Kind: "StagedNetworkPolicy", Namespace: "shop", Name: "db-too"}, Staged: true, Order: order(6), Selector: "app == 'db'", Ingress: []model.Rule{
			{Action: model.Allow, Source: model.EntityMatch{Selector: text("app == 'client'")}}}},
	} {
		s.Policy.Policies[p.ID] = &p
	}
	p, err := policy.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExplain(t *testing.T) {
	p := shop(t)
	for _, tc := range []struct {
		name, in, out, src, dst string
		protocol                model.Protocol
		port                    uint16
		allowed, withStaged     bool
		why                     []string
	}{
		{"web to db", "weft1", "weft2", "10.0.0.1", "10.0.0.2", model.TCP, 5432, true, true, []string{
			"egress of shop/web/eth0: Profile kns.shop egress, rule 0: allow",
			"ingress of shop/db/eth0: tier security, GlobalNetworkPolicy no-office ingress, rule 1: log",
			"ingress of shop/db/eth0: tier default, NetworkPolicy shop/db ingress, rule 0: allow, in {IPv4 selected by app == 'web'}"}},
		{"web to db, other port", "weft1", "weft2", "10.0.0.1", "10.0.0.2", model.TCP, 22, false, false, []string{
			"egress of shop/web/eth0: Profile kns.shop egress, rule 0: allow",
			"ingress of shop/db/eth0: tier security, GlobalNetworkPolicy no-office ingress, rule 1: log",
			"ingress of shop/db/eth0: tier default, the tier's default action: deny"}},
		{"db to anywhere", "weft2", "eth0", "10.0.0.2", "8.8.8.8", model.UDP, 53, false, false, []string{
			"egress of shop/db/eth0: tier default, the tier's default action: deny"}},
		{"client to db, staged", "eth0", "weft2", "10.0.1.1", "10.0.0.2", model.UDP, 1, false, true, []string{
			"ingress of shop/db/eth0: tier default, the tier's default action: deny"}},
		{"named port", "eth0", "weft1", "10.0.1.1", "10.0.0.1", model.TCP, 8080, true, true, []string{
			"ingress of shop/web/eth0: tier security, GlobalNetworkPolicy no-office ingress, rule 1: log",
			"ingress of shop/web/eth0: tier default, NetworkPolicy shop/web ingress, rule 0: allow, in {IPv4 port http of all() on this node}"}},
		{"named port, other protocol", "eth0", "weft1", "10.0.1.1", "10.0.0.1", model.UDP, 8080, false, false, []string{
			"ingress of shop/web/eth0: tier default, the tier's default action: deny"}},
		{"office", "eth0", "weft1", "192.0.2.1", "10.0.0.1", model.TCP, 8080, false, false, []string{
			"ingress of shop/web/eth0: tier security, GlobalNetworkPolicy no-office ingress, rule 0: deny"}},
		{"office, except", "eth0", "weft1", "192.0.2.7", "10.0.0.1", model.TCP, 8080, true, true, []string{
			"ingress of shop/web/eth0: tier security, GlobalNetworkPolicy no-office ingress, rule 1: log",
			"ingress of shop/web/eth0: tier default, NetworkPolicy shop/web ingress, rule 0: allow, in {IPv4 port http of all() on this node}"}},
		{"spoofed", "weft1", "eth0", "10.0.0.2", "8.8.8.8", model.UDP, 53, false, false, []string{
			"egress of shop/web/eth0: the source address is not the pod's: deny"}},
		{"this host to its pod", "", "weft2", "172.31.1.1", "10.0.0.2", model.TCP, 22, true, true, []string{
			"to shop/db/eth0: this host reaches its own pods: allow"}},
		{"pod to its host", "weft1", "", "10.0.0.1", "172.31.1.1", model.TCP, 22, false, false, []string{
			"egress of shop/web/eth0: Profile kns.shop egress, rule 0: allow",
			"egress of shop/web/eth0: defaultEndpointToHostAction is Drop: deny"}},
	} {
		pkt := &model.Packet{In: tc.in, Out: tc.out, Src: netip.MustParseAddr(tc.src), Dst: netip.MustParseAddr(tc.dst), Protocol: tc.protocol, SrcPort: 40000, DstPort: tc.port}
		v := Explain(p, pkt)
		var why []string
		for _, r := range v.Reasons {
			why = append(why, r.String())
		}
		if v.Allowed != tc.allowed || Allowed(p, pkt) != tc.allowed {
			t.Errorf("%s: %s: allowed is %v, want %v", tc.name, pkt, v.Allowed, tc.allowed)
		}
		if diff := cmp.Diff(tc.why, why); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", tc.name, pkt, diff)
		}
		if st := Staged(p, pkt); st.Allowed != tc.withStaged {
			t.Errorf("%s: with staged policies allowed is %v, want %v: %v", tc.name, st.Allowed, tc.withStaged, st.Reasons)
		} else if tc.withStaged != tc.allowed && !strings.Contains(st.Reasons[len(st.Reasons)-1].String(), "staged") {
			t.Errorf("%s: the staged policy is not named: %v", tc.name, st.Reasons)
		}
	}
}
