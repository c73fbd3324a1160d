package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// TestRefused has the kernel refuse rules, by sets that do not exist. The rest goes in, what the rules would
// have denied is dropped, and the error names them until they are gone.
func TestRefused(t *testing.T) {
	testkit.LeakCheck(t)
	x := &trial{crossing: newCrossing(t), byID: map[uint32]*judged{}}
	d := newDriver(t, x.node)
	k := policy.NewCompiler(policytest.Self)
	for n := range 2 {
		if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("p", n), Interface: "eth0"}, Device: policytest.Device(n),
			MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: addressesOf(n), Profiles: []string{"open"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.SetProfile(&model.Profile{Name: "open", Egress: []model.Rule{{Action: model.Allow}}}); err != nil {
		t.Fatal(err)
	}
	port := func(n uint16) model.EntityMatch { return model.EntityMatch{Ports: ports(n)} }
	p := model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}, Selector: "all()", Types: model.Types{Ingress: true}, Ingress: []model.Rule{
		{Action: model.Allow, Protocol: model.TCP, Destination: port(1)},
		{Action: model.Deny, Protocol: model.UDP, Destination: port(2)},
		{Action: model.Allow, Protocol: model.TCP, Destination: port(3)}}}
	if err := k.SetPolicy(&p); err != nil {
		t.Fatal(err)
	}
	u := k.Flush()
	chain := policy.PolicyChain(p.ID, model.Ingress)
	nowhere := policy.SetID{Kind: policy.Selected, Family: model.IPv4, Selector: "no such set"}
	broken := func(rule int) policy.Update {
		c := u.Program.Clone()
		n := *c.Chains[chain]
		n.Rules = append([]policy.Rule(nil), n.Rules...)
		n.Rules[rule].Family, n.Rules[rule].Src.In = model.IPv4, []policy.SetID{nowhere}
		c.Chains[chain] = &n
		return policy.Update{Program: c, Generation: uint64(100 + rule)}
	}
	arrives := func(p model.Protocol, port uint16) bool {
		return x.arrives(t, &model.Packet{In: policytest.Device(0), Out: policytest.Device(1), Src: policytest.Local4(0), Dst: policytest.Local4(1), Protocol: p, SrcPort: 9, DstPort: port})
	}
	for _, c := range []struct {
		name         string
		update       policy.Update
		wrong        string // what the error names
		port1, port3 bool   // TCP to it arrives
	}{
		{"nothing refused", u, "", true, true},
		{"an allow", broken(0), "GlobalNetworkPolicy p ingress, rule \"0 allow IPv4 tcp", false, true},
		{"a deny", broken(1), "GlobalNetworkPolicy p ingress, rule \"1 deny IPv4 udp", true, false}, // what comes after it is closed
		{"nothing refused any more", u, "", true, true},
	} {
		for range 2 { // the error stays as long as its cause
			_, err := d.Apply(context.Background(), c.update)
			if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.wrong)
			}
		}
		if one, three := arrives(model.TCP, 1), arrives(model.TCP, 3); one != c.port1 || three != c.port3 {
			t.Errorf("%s: port 1 is reached: %v, port 3: %v; want %v, %v", c.name, one, three, c.port1, c.port3)
		}
		if arrives(model.UDP, 2) || arrives(model.TCP, 4) {
			t.Errorf("%s: what is denied arrived", c.name)
		}
	}
}

// TestRefusedSet has the kernel refuse a set, by members of the other family. Rules that ask about it are closed,
// all others are in force, the error names the set, and with other members it is tried again.
func TestRefusedSet(t *testing.T) {
	testkit.LeakCheck(t)
	x := &trial{crossing: newCrossing(t), byID: map[uint32]*judged{}}
	selector := "app == 'friend'"
	from := model.EntityMatch{Selector: &selector}
	to := func(n uint16) model.EntityMatch { return model.EntityMatch{Ports: ports(n)} }
	four := policy.SetID{Kind: policy.Selected, Family: model.IPv4, Selector: selector}
	six := four
	six.Family = model.IPv6
	for _, action := range []model.Action{model.Allow, model.Deny} {
		t.Run(action.String(), func(t *testing.T) {
			d := newDriver(t, x.node)
			k := policy.NewCompiler(policytest.Self)
			for n := range 2 {
				if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("p", n), Interface: "eth0"}, Device: policytest.Device(n),
					MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: addressesOf(n), Profiles: []string{"open"}, Labels: map[string]string{"app": []string{"friend", "server"}[n]}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(k.SetProfile(&model.Profile{Name: "open", Egress: []model.Rule{{Action: model.Allow}}}),
				k.SetPolicy(&model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}, Selector: "app == 'server'", Types: model.Types{Ingress: true}, Ingress: []model.Rule{
					{Action: model.Allow, Protocol: model.TCP, Destination: to(3)},
					{Action: action, Protocol: model.TCP, Source: from, Destination: to(1)},
					{Action: model.Allow, Protocol: model.TCP, Destination: to(2)}}})); err != nil {
				t.Fatal(err)
			}
			u := k.Flush()
			right := u.Program.Sets[four]
			reached := func(what string, u policy.Update, want string, wrong bool) {
				t.Helper()
				for range 2 { // the error stays as long as its cause
					_, err := d.Apply(context.Background(), u)
					if (err != nil) != wrong || err != nil && !strings.Contains(err.Error(), four.String()+": the kernel refuses the set") {
						t.Fatalf("%s: error %v, want one about the set: %v", what, err, wrong)
					}
				}
				got := ""
				for _, f := range families {
					for port := uint16(1); port <= 3; port++ {
						p := &model.Packet{In: policytest.Device(0), Out: policytest.Device(1), Src: policytest.Local4(0), Dst: policytest.Local4(1), Protocol: model.TCP, SrcPort: 9, DstPort: port}
						if f == model.IPv6 {
							p.Src, p.Dst = policytest.Local6(0), policytest.Local6(1)
						}
						if x.arrives(t, p) {
							got += fmt.Sprintf("%s/%d ", f, port)
						}
					}
				}
				if got != want {
					t.Errorf("%s: reached are %q, want %q", what, got, want)
				}
			}
			all, closed := "IPv4/1 IPv4/2 IPv4/3 IPv6/1 IPv6/2 IPv6/3 ", "IPv4/2 IPv4/3 IPv6/1 IPv6/2 IPv6/3 "
			if action == model.Deny { // what the rule would pass on is closed, too
				all, closed = "IPv4/2 IPv4/3 IPv6/2 IPv6/3 ", "IPv4/3 IPv6/2 IPv6/3 "
			}
			u.Program.Sets[four] = u.Program.Sets[six]
			reached("refused", u, closed, true)
			u.Program.Sets[four] = right
			if err := k.SetRemote(&model.RemoteEndpoint{ID: model.RemoteID{Node: "n2"}, Labels: map[string]string{"app": "friend"}, Addresses: []netip.Addr{policytest.Local4(9)}}); err != nil {
				t.Fatal(err)
			}
			u = k.Flush()
			reached("with other members", u, all, false)
			if n, err := d.owner.CountElements(context.Background(), hashName(four)); err != nil || n != 2 {
				t.Errorf("the set has %d members, %v; want 2", n, err)
			}
			u.Program.Sets[four] = u.Program.Sets[six]
			if err := k.SetRemote(&model.RemoteEndpoint{ID: model.RemoteID{Node: "n2"}, Labels: map[string]string{"app": "friend"}, Addresses: []netip.Addr{policytest.Local4(8)}}); err != nil {
				t.Fatal(err)
			}
			u = k.Flush()
			u.Delta.Members[0].Added = append(u.Delta.Members[0].Added, policy.Member{Prefix: netip.PrefixFrom(policytest.Local6(0), 128)})
			reached("refused elements of a change", u, closed, true)
		})
	}
}

// arrives tells whether the first packet of a connection comes out.
func (x *trial) arrives(t *testing.T, p *model.Packet) (found bool) {
	t.Helper()
	if err := x.forget(); err != nil {
		t.Fatal(err)
	}
	id, err := x.send(p, model.MAC{2})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.receive(50*ms, func(got uint32) bool { found = found || got == id; return found }); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestBarrier starts drivers where there is nothing, where an earlier one left its rules, and where
// somebody emptied them.
func TestBarrier(t *testing.T) {
	testkit.LeakCheck(t)
	x := newCrossing(t)
	barrier := func() {
		t.Helper()
		d := newDriver(t, x.node)
		if err := d.Barrier(context.Background()); err != nil {
			t.Fatal(err)
		}
		d.Close()
	}
	passes := func(in, out string, mac model.MAC) bool {
		t.Helper()
		if err := x.forget(); err != nil {
			t.Fatal(err)
		}
		id, err := x.send(&model.Packet{In: in, Out: out, Src: policytest.Local4(0), Dst: policytest.Local4(1), Protocol: model.TCP, SrcPort: 9, DstPort: 80}, mac)
		if err != nil && in != "" {
			t.Fatal(err)
		}
		found := false
		if err := x.receive(50*ms, func(got uint32) bool { found = found || got == id; return found }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	pod0, pod1 := policytest.Device(0), policytest.Device(1)
	mac := model.MAC{2}
	if !passes(pod0, pod1, mac) || !passes(pod0, "", mac) || !passes("eth0", pod0, mac) {
		t.Fatal("the control: nothing passes without rules")
	}
	closed := func(when string) {
		t.Helper()
		if passes(pod0, pod1, mac) || passes(pod0, "", mac) || passes("eth0", pod0, mac) || passes("", pod0, mac) || passes(pod0, "eth0", mac) {
			t.Errorf("%s: pods are open", when)
		}
		if !passes("eth0", "eth1", mac) || !passes("eth0", "", mac) || !passes("", "eth0", mac) {
			t.Errorf("%s: what is no pod's does not pass", when)
		}
	}
	barrier()
	closed("nothing was there")
	// An earlier process's rules stay in force.
	k := policy.NewCompiler(policytest.Self)
	all := []model.Rule{{Action: model.Allow}}
	if err := k.SetProfile(&model.Profile{Name: "open", Ingress: all, Egress: all}); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("p", n), Interface: "eth0"}, Device: policytest.Device(n),
			MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: addressesOf(n), Profiles: []string{"open"}}); err != nil {
			t.Fatal(err)
		}
	}
	d := newDriver(t, x.node)
	u := k.Flush()
	apply(t, d, u)
	before := ruleset(t, x.node)
	d.Close()
	barrier()
	if got := ruleset(t, x.node); got != before || !passes(pod0, pod1, mac) {
		t.Errorf("rules of an earlier process: now\n%s", got)
	}
	testkit.Run(t, x.node, "nft", "flush table inet weft")
	barrier()
	closed("the table was flushed")
	// The zero Update takes all away.
	d = newDriver(t, x.node)
	apply(t, d, u)
	apply(t, d, policy.Update{})
	if out := testkit.Run(t, x.node, "nft", "list", "ruleset"); out != "" {
		t.Errorf("left behind:\n%s", out)
	}
}

const ms = time.Millisecond

func addressesOf(pod int) []netip.Addr {
	return []netip.Addr{policytest.Local4(pod), policytest.Local6(pod)}
}

// TestErrorsGetThrough: what a router says about a connection that was allowed reaches a pod to which nothing
// else may come; the same about a connection that there is not does not.
func TestErrorsGetThrough(t *testing.T) {
	testkit.LeakCheck(t)
	x := newCrossing(t)
	d := newDriver(t, x.node)
	k := policy.NewCompiler(policytest.Self)
	if err := k.SetProfile(&model.Profile{Name: "out", Egress: []model.Rule{{Action: model.Allow}}}); err != nil {
		t.Fatal(err)
	}
	if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: "p0", Interface: "eth0"}, Device: policytest.Device(0),
		MAC: model.MAC{2}, Addresses: addressesOf(0), Profiles: []string{"out"}}); err != nil {
		t.Fatal(err)
	}
	apply(t, d, k.Flush())
	arrives := func(p *model.Packet) bool {
		t.Helper()
		id, err := x.send(p, model.MAC{2})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		if err := x.receive(50*ms, func(got uint32) bool { found = found || got == id; return found }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	for _, f := range families {
		out := &model.Packet{In: policytest.Device(0), Out: "eth0", Src: policytest.Local4(0), Dst: policytest.Local4(9), Protocol: model.UDP, SrcPort: 1000, DstPort: 53}
		tooBig := &model.Packet{In: "eth0", Out: policytest.Device(0), Src: policytest.Local4(7), Dst: out.Src, Protocol: model.ICMP, ICMPType: 3, ICMPCode: 4}
		if f == model.IPv6 {
			out.Src, out.Dst = policytest.Local6(0), policytest.Local6(9)
			tooBig.Src, tooBig.Dst, tooBig.Protocol, tooBig.ICMPType, tooBig.ICMPCode = policytest.Local6(7), out.Src, model.ICMPv6, 2, 0
		}
		// The packet that a router would quote.
		x.quoted = func(to uint16) []byte {
			q := *out
			q.DstPort = to
			return ipPacket(&q, class(3), 0)
		}
		if !arrives(out) {
			t.Fatalf("%v: what the pod may send does not arrive", f)
		}
		tooBig.DstPort = 53
		if !arrives(tooBig) {
			t.Errorf("%v: too big, about the pod's connection, does not arrive", f)
		}
		tooBig.DstPort = 54
		if arrives(tooBig) {
			t.Errorf("%v: too big, about a connection that there is not, arrived", f)
		}
		back := &model.Packet{In: "eth0", Out: policytest.Device(0), Src: out.Dst, Dst: out.Src, Protocol: model.UDP, SrcPort: 53, DstPort: 1000}
		other := *back
		other.SrcPort = 54
		if !arrives(back) || arrives(&other) {
			t.Errorf("%v: the answer does not arrive, or what is none does", f)
		}
		x.quoted = nil
	}
}
