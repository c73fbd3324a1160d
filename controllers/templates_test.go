package controllers

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	v3 "weft/api/v3"
)

// Templates by names of interfaces: each that matches has an endpoint of its own, with its addresses in the ranges.
func TestHostEndpointsByInterface(t *testing.T) {
	n := newObject(v3.KindNode, "a").(*v3.Node)
	n.Labels = map[string]string{"role": "edge"}
	n.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: "192.0.2.1/24"}
	n.Spec.Interfaces = []v3.NodeInterface{
		{Name: "eth0", Addresses: []string{"192.0.2.1/24", "2001:db8::1"}},
		{Name: "eth0.100", Addresses: []string{"198.51.100.1"}},
		{Name: "eth1", Addresses: []string{"198.51.100.2", "10.0.0.2"}},
		{Name: "eth2"},
		{Name: "Wan_0", Addresses: []string{"203.0.113.1", "not an address"}},
		{Addresses: []string{"203.0.113.2"}},
	}
	for _, c := range []struct {
		name string
		t    v3.HostEndpointTemplate
		want []string
	}{
		{"all", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: ".*"}, []string{
			"a-x-eth0-#-auto-hep eth0[192.0.2.1 2001:db8::1]", "a-x-eth0.100-#-auto-hep eth0.100[198.51.100.1]", "a-x-eth1-#-auto-hep eth1[10.0.0.2 198.51.100.2]", "a-x-eth2-#-auto-hep eth2[]",
			"a-x-wan-0-#-auto-hep Wan_0[203.0.113.1]"}},
		{"a part of the name", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "h0"}, []string{
			"a-x-eth0-#-auto-hep eth0[192.0.2.1 2001:db8::1]", "a-x-eth0.100-#-auto-hep eth0.100[198.51.100.1]"}},
		{"the whole of one of two", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "^(eth0|eth2)$"}, []string{"a-x-eth0-#-auto-hep eth0[192.0.2.1 2001:db8::1]", "a-x-eth2-#-auto-hep eth2[]"}},
		{"both have to match", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth", InterfaceCIDRs: []string{"198.51.100.0/24", "2001:db8::/64"}}, []string{
			"a-x-eth0-#-auto-hep eth0[2001:db8::1]", "a-x-eth0.100-#-auto-hep eth0.100[198.51.100.1]", "a-x-eth1-#-auto-hep eth1[198.51.100.2]"}},
		{"no address in the ranges", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth0$", InterfaceCIDRs: []string{"10.0.0.0/8"}}, nil},
		{"a range that cannot be read", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth0", InterfaceCIDRs: []string{"192.0.2.0/24", "10"}}, nil},
		{"a range that cannot be read, by addresses", v3.HostEndpointTemplate{GenerateName: "x", InterfaceCIDRs: []string{"10", "192.0.2.0/24"}}, nil},
		{"a range of one", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth0$", InterfaceCIDRs: []string{"192.0.2.1"}}, []string{"a-x-eth0-#-auto-hep eth0[192.0.2.1]"}},
		{"a pattern that cannot be read", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth("}, nil},
		{"other nodes", v3.HostEndpointTemplate{GenerateName: "x", InterfacePattern: "eth0", NodeSelector: "role == 'core'"}, nil},
		{"no name", v3.HostEndpointTemplate{InterfacePattern: "eth1"}, []string{"a-eth1-#-auto-hep eth1[10.0.0.2 198.51.100.2]"}},
		{"addresses alone, of any interface", v3.HostEndpointTemplate{GenerateName: "x", InterfaceCIDRs: []string{"198.51.100.0/24", "192.0.2.0/24"}}, []string{
			"a-x-auto-hep [192.0.2.1 198.51.100.1 198.51.100.2]"}},
		{"neither", v3.HostEndpointTemplate{GenerateName: "x"}, nil},
	} {
		hashed := regexp.MustCompile(`-[0-9a-f]{16}-auto-hep$`)
		wanted := &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, CreateDefaultHostEndpoint: v3.ControllerDisabled, Templates: []v3.HostEndpointTemplate{c.t}}
		p := planHosts(map[string]*v3.Node{"a": n}, nil, wanted)
		var got []string
		have := map[string]*v3.HostEndpoint{}
		for _, h := range p.create {
			got = append(got, fmt.Sprint(hashed.ReplaceAllString(h.Name, "-#-auto-hep"), " ", h.Spec.InterfaceName, h.Spec.ExpectedIPs))
			have[h.Name] = h
			if err := v3.Validate(h); err != nil || h.Labels["role"] != "edge" || h.Labels[CreatedBy] != ByController {
				t.Errorf("%s: %s has labels %v: %v", c.name, h.Name, h.Labels, err)
			}
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
		if again := planHosts(map[string]*v3.Node{"a": n}, have, wanted); len(again.create)+len(again.update)+len(again.remove) > 0 {
			t.Errorf("%s: made, it is to be changed again: %+v", c.name, again)
		}
		gone := n.DeepCopy()
		gone.Spec.Interfaces, gone.Spec.BGP = nil, nil
		if next := planHosts(map[string]*v3.Node{"a": gone}, have, wanted); len(next.remove) != len(have) || len(next.create) > 0 {
			t.Errorf("%s: without addresses %d of %d are removed, %d made", c.name, len(next.remove), len(have), len(next.create))
		}
	}
	if got := fmt.Sprint(hostOf(n).Spec.ExpectedIPs); got != "[10.0.0.2 192.0.2.1 198.51.100.1 198.51.100.2 203.0.113.1 2001:db8::1]" {
		t.Errorf("the host endpoint of all interfaces has %s", got)
	}
}

// A node writes its own record: what it says there costs others no more than a bounded number of endpoints and addresses.
func TestHostEndpointsOfANodeThatSaysMuch(t *testing.T) {
	n := newObject(v3.KindNode, "a").(*v3.Node)
	for i := range 1024 {
		x := v3.NodeInterface{Name: fmt.Sprint("e", i)}
		for k := range 3 {
			x.Addresses = append(x.Addresses, fmt.Sprintf("10.%d.%d.%d", i/256, i%256, k))
		}
		n.Spec.Interfaces = append(n.Spec.Interfaces, x)
	}
	hosts := templatesOf([]v3.HostEndpointTemplate{{GenerateName: "x", InterfacePattern: "."}})[0].hosts(n)
	addresses := 0
	for _, h := range hosts {
		addresses += len(h.Spec.ExpectedIPs)
	}
	if len(hosts) != v3.MaxHostInterfaces || addresses != v3.MaxHostAddresses {
		t.Errorf("%d endpoints with %d addresses, want %d with %d", len(hosts), addresses, v3.MaxHostInterfaces, v3.MaxHostAddresses)
	}
}

func TestHostNames(t *testing.T) {
	seen := map[string]string{}
	for _, parts := range [][3]string{{"a"}, {"a", "x"}, {"worker", "", "1-eth0"}, {"worker-1", "", "eth0"}, {"worker", "1", "eth0"}, {"a", "x", "eth0"}, {"a", "x", "Eth0"}, {"a", "x", "eth_0"}, {"a", "x", "eth-0"}, {"a", "x", "eth0."}, {"a", "x", ".eth0"}, {"a", "x", "..."},
		{strings.Repeat("a", 200), "x", "eth0"}, {strings.Repeat("a", 253), strings.Repeat("b", 253), "eth0"}, {strings.Repeat("a", 253), strings.Repeat("b", 253), "eth1"}} {
		name := hostName(parts[0], parts[1], parts[2])
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 || !strings.HasSuffix(name, hostSuffix) {
			t.Errorf("%q is the name for %q: %v", name, parts, problems)
		}
		if was, twice := seen[name]; twice {
			t.Errorf("%q and %q are both named %s", was, parts, name)
		}
		seen[name] = fmt.Sprint(parts)
	}
}

// Whatever a node names its interfaces, and templates are named, another node's host endpoint stays its own.
func TestHostEndpointsOfTwoNodesStayApart(t *testing.T) {
	node := func(name string, interfaces ...string) *v3.Node {
		n := newObject(v3.KindNode, name).(*v3.Node)
		n.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: "192.0.2.1/24"}
		for _, i := range interfaces {
			n.Spec.Interfaces = append(n.Spec.Interfaces, v3.NodeInterface{Name: i})
		}
		return n
	}
	wanted := &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, Templates: []v3.HostEndpointTemplate{
		{InterfacePattern: "."}, {GenerateName: "1", InterfaceCIDRs: []string{"192.0.2.0/24"}}}}
	have := map[string]*v3.HostEndpoint{}
	pass := func(nodes ...*v3.Node) hostsPlan {
		all := map[string]*v3.Node{}
		for _, n := range nodes {
			all[n.Name] = n
		}
		p := planHosts(all, have, wanted)
		for _, o := range slices.Concat(p.create, p.update) {
			if err := v3.Validate(o); err != nil {
				t.Error(err)
			}
			have[o.Name] = o
		}
		for _, o := range p.remove {
			delete(have, o.Name)
		}
		return p
	}
	of := func(node string) (out []string) {
		for _, name := range slices.Sorted(maps.Keys(have)) {
			if have[name].Spec.Node == node {
				out = append(out, name)
			}
		}
		return out
	}
	victim := node("worker-1", "eth0")
	for _, order := range [][]*v3.Node{{victim, node("worker", "1-eth0", "eth0")}, {node("worker", "1-eth0"), victim}} {
		clear(have)
		pass(order[0])
		first := of(order[0].Name)
		for range 2 { // the second changes nothing
			p := pass(order[0], order[1])
			if len(p.update)+len(p.remove) > 0 {
				t.Errorf("with %s beside %s %d are changed and %d removed", order[1].Name, order[0].Name, len(p.update), len(p.remove))
			}
		}
		if d := cmp.Diff(first, of(order[0].Name)); d != "" || len(of(order[1].Name)) != len(order[1].Spec.Interfaces)+2 {
			t.Errorf("%s has (-before %s came +after):\n%s; that one has %q", order[0].Name, order[1].Name, d, of(order[1].Name))
		}
	}
}

// An endpoint that a record of an earlier release gave to another node stays that node's.
func TestHostEndpointIsNotTakenAway(t *testing.T) {
	a, b := newObject(v3.KindNode, "worker").(*v3.Node), newObject(v3.KindNode, "worker-1").(*v3.Node)
	other := hostOf(b)
	other.Name = hostName("worker", "", "1-eth0")
	for _, is := range []*v3.HostEndpoint{other, {ObjectMeta: other.ObjectMeta, Spec: v3.HostEndpointSpec{Node: "worker-1"}}} {
		want := []*v3.HostEndpoint{hostOf(a), hostOf(a)}
		want[1].Name = other.Name
		tellApart(want, map[string]*v3.HostEndpoint{is.Name: is})
		if want[0].Name != "worker-auto-hep" || want[1].Name == other.Name || !strings.HasSuffix(want[1].Name, hostSuffix) {
			t.Errorf("they are named %s and %s", want[0].Name, want[1].Name)
		}
	}
}
