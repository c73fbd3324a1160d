package conntrack

import (
	"maps"
	"net/netip"
	"testing"

	"weft/model"
	"weft/policy"
	"weft/policy/eval"
	"weft/policy/policytest"
)

// firstWorld is the seed of the first random world.
const firstWorld = uint64(1)

// tracked returns a copy of p without what is decided before connections are tracked.
func tracked(p *policy.Program) *policy.Program {
	c := p.Clone()
	c.Hosts = maps.Clone(p.Hosts)
	for iface, h := range c.Hosts {
		t := *h
		t.Untracked = [2]policy.Hook{}
		c.Hosts[iface] = &t
	}
	return c
}

// Whatever a change makes policy deny is in the scope. Random worlds are changed step by step; packets
// that were allowed before and are denied after must be looked at. The control forgets the chains.
func TestScopeMissesNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		broken func(*memory)
	}{
		{"as it is", func(*memory) {}},
		{"control: sets forgotten", func(m *memory) { clear(m.uses) }},
		{"control: chains forgotten", func(m *memory) { clear(m.chains) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var changes, nothing, all, denied, missed int
			for world := range uint64(60) {
				w := policytest.Full(firstWorld+world, world%3 == 0)
				c := policy.NewCompiler(policytest.Self)
				for range 40 {
					w.Step(c)
				}
				var m memory
				var first scope
				u := c.Flush()
				m.change(&u, &first)
				if !first.all {
					t.Fatal("the first update is not everything")
				}
				for range 60 {
					before := tracked(u.Program)
					tc.broken(&m)
					for range 1 + w.IntN(2) {
						w.Step(c)
					}
					u = c.Flush()
					var s scope
					m.change(&u, &s)
					if u.Delta.Empty() {
						continue
					}
					changes++
					if s.empty() {
						nothing++
					}
					if s.all {
						all++
					}
					after := tracked(u.Program)
					for range 200 {
						p := w.Packet()
						p.MAC = model.MAC{}
						if !eval.Allowed(before, p) || eval.Allowed(after, p) || strays(before, after, p) {
							continue
						}
						denied++
						if !(s.all || s.has(p.Src) || s.has(p.Dst) || s.isGone(p.Src) || s.isGone(p.Dst)) {
							missed++
							if tc.name == "as it is" {
								t.Fatalf("world %d: %s became denied and is not looked at: %v\nscope %+v\ndelta %+v\nbefore:\n%s\nafter:\n%s", firstWorld+world, p,
									eval.Explain(after, p).Reasons, s, u.Delta, before.Format(), after.Format())
							}
						}
					}
				}
			}
			t.Logf("%d of %d connections that became denied are not looked at; %d changes, %d of which touch none and %d all", missed, denied, changes, nothing, all)
			if denied < 1000 {
				t.Errorf("only %d packets became denied: the worlds do not change enough", denied)
			}
			if tc.name != "as it is" && missed == 0 {
				t.Error("the control misses nothing: the test would not see a mistake")
			}
		})
	}
}

// strays tells that a packet is none of a connection that the table could show under the addresses of
// the pods that it is from and to: it was sent with a foreign address, or to one.
func strays(before, after *policy.Program, p *model.Packet) bool {
	own := func(prog *policy.Program, device string, a netip.Addr) bool {
		e := prog.Endpoints[device]
		if e == nil {
			return false
		}
		for _, n := range e.Sources {
			if n.Contains(a) {
				return true
			}
		}
		return false
	}
	pod := func(device string) bool { return before.Endpoints[device] != nil || after.Endpoints[device] != nil }
	return pod(p.In) && !own(before, p.In, p.Src) || pod(p.Out) && !own(before, p.Out, p.Dst)
}

// Some changes that can deny nothing, and some that can.
func TestNarrows(t *testing.T) {
	rule := func(a model.Action, port uint16) policy.Rule {
		return policy.Rule{Action: a, Protocol: model.TCP, Dst: policy.Match{Ports: &policy.Ports{Ranges: []model.PortRange{{First: port, Last: port}}}}}
	}
	allow, deny, pass, log := rule(model.Allow, 1), rule(model.Deny, 2), rule(model.Pass, 3), rule(model.Log, 4)
	for _, tc := range []struct {
		name     string
		old, now []policy.Rule
		want     bool
	}{
		{"same", []policy.Rule{allow, deny}, []policy.Rule{allow, deny}, false},
		{"one more allow", []policy.Rule{deny}, []policy.Rule{allow, deny}, false},
		{"one more log", []policy.Rule{deny}, []policy.Rule{log, deny}, false},
		{"one deny less", []policy.Rule{allow, deny, pass}, []policy.Rule{allow, pass}, false},
		{"one allow less", []policy.Rule{allow, deny}, []policy.Rule{deny}, true},
		{"one more deny", []policy.Rule{allow}, []policy.Rule{allow, deny}, true},
		{"one more pass", []policy.Rule{allow}, []policy.Rule{pass, allow}, true},
		{"one pass less", []policy.Rule{pass, deny}, []policy.Rule{deny}, true},
		{"another order", []policy.Rule{allow, deny}, []policy.Rule{deny, allow}, true},
		{"another port", []policy.Rule{allow}, []policy.Rule{rule(model.Allow, 9)}, true},
	} {
		if got := rulesNarrow(tc.old, tc.now); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// Whatever the kernel, or somebody in its place, sends: no panic, and addresses that are whole.
func FuzzEntry(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, b []byte) {
		var e entry
		if e.parse(b) && (!e.src.IsValid() || !e.to.IsValid() || len(e.rawID) != 4) {
			t.Errorf("half an entry passes for a whole one: %+v", e)
		}
	})
}

func sample() []byte {
	ip := func(a, b string) []byte {
		return appendNest(nil, attrTupleIP, appendAttr(appendAttr(nil, 1, netip.MustParseAddr(a).AsSlice()), 2, netip.MustParseAddr(b).AsSlice()))
	}
	proto := func(from, to byte) []byte {
		return appendNest(nil, attrTupleProto, appendAttr(appendAttr(appendAttr(nil, 1, []byte{6}), 2, []byte{0, from}), 3, []byte{0, to}))
	}
	b := appendNest(header(2), attrOrig, append(ip("10.0.0.1", "10.96.0.1"), proto(33, 80)...))
	b = appendNest(b, attrReply, append(ip("10.0.0.2", "10.0.0.1"), proto(88, 33)...))
	return appendAttr(appendAttr(b, attrMark, []byte{8, 0, 0, 1}), attrID, []byte{1, 2, 3, 4})
}

func TestParse(t *testing.T) {
	var e entry
	if !e.parse(sample()) {
		t.Fatal("the sample is not understood")
	}
	got := e.src.String() + " " + e.dst.String() + " " + e.to.String()
	if got != "10.0.0.1 10.96.0.1 10.0.0.2" || e.srcPort != 33 || e.dstPort != 80 || e.toPort != 88 || e.protocol != model.TCP || !e.held() {
		t.Errorf("got %+v", e)
	}
	for n := range len(sample()) {
		(&entry{}).parse(sample()[:n])
	}
}

// What was translated is judged by where it went: the pod behind the service, and the port there.
func TestTranslatedIsJudgedByWhereItWent(t *testing.T) {
	c := policy.NewCompiler("n1")
	web := netip.MustParseAddr("10.0.0.2")
	_ = c.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "default", Pod: "web", Interface: "eth0"}, Device: "weft1", Addresses: []netip.Addr{web}})
	port := func(n uint16) []model.Rule {
		return []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: []model.Port{{Range: model.PortRange{First: n, Last: n}}}}}}
	}
	for _, tc := range []struct {
		port uint16
		want bool
	}{{88, true}, {80, false}} {
		p := &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}, Types: model.Types{Ingress: true}, Ingress: port(tc.port)}
		if err := c.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
		j := &judge{program: c.Flush().Program, owners: map[netip.Addr][]string{web: {"weft1"}}, foreign: []string{outside}}
		var e entry
		if !e.parse(sample()) {
			t.Fatal("the sample is not understood")
		}
		if allowed, asked := j.allows(&e); allowed != tc.want || !asked {
			t.Errorf("with port %d allowed, to 10.96.0.1:80 at 10.0.0.2:88: allowed %v, want %v", tc.port, allowed, tc.want)
		}
	}
}
