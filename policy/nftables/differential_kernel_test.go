package nftables

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/eval"
	"weft/policy/policytest"
)

// expected is what policy/eval says of a packet; that a pod's device without an entry is closed is the
// driver's own.
func expected(p *policy.Program, pkt *model.Packet) bool {
	for _, iface := range []string{pkt.In, pkt.Out} {
		if strings.HasPrefix(iface, "weft") && p.Endpoints[iface] == nil {
			return false
		}
	}
	return eval.Allowed(p, pkt)
}

// judged is a packet on its way.
type judged struct {
	packet *model.Packet
	mac    model.MAC
	want   bool
}

// trial counts verdicts of the kernel and what was wrong with them.
type trial struct {
	*crossing
	allowed, denied, again int
	wrong                  []string
	byID                   map[uint32]*judged
}

// ask sends packets of different connections and compares. Silence where an answer is due may be asked
// again; an answer where silence is due is wrong at once, and also when it comes late.
func (x *trial) ask(t *testing.T, p *policy.Program, packets []*judged) {
	t.Helper()
	open := packets
	for round := 0; len(open) > 0 && round < 6; round++ {
		if err := x.forget(); err != nil {
			t.Fatal(err)
		}
		missing := map[*judged]bool{}
		for _, j := range open {
			id, err := x.send(j.packet, j.mac)
			x.byID[id] = j
			if j.want {
				missing[j] = true
			}
			// A local sender is told what the node's own rules dropped.
			if err != nil && (j.packet.In != "" || j.want) && round == 5 {
				t.Errorf("send %s: %v", j.packet, err)
			}
		}
		err := x.receive(time.Duration(4+20*round)*time.Millisecond, func(id uint32) bool {
			j := x.byID[id]
			if j == nil {
				return false
			}
			delete(missing, j)
			if !j.want {
				x.wrong = append(x.wrong, fmt.Sprintf("%s arrived, and should not: %v", j.packet, eval.Explain(p, j.packet).Reasons))
			}
			return false
		})
		if err != nil {
			t.Fatal(err)
		}
		x.again += len(missing)
		open = slices.Collect(maps.Keys(missing))
	}
	for _, j := range open {
		x.wrong = append(x.wrong, fmt.Sprintf("%s did not arrive in six tries: %v", j.packet, eval.Explain(p, j.packet).Reasons))
	}
	for _, j := range packets {
		if j.want {
			x.allowed++
		} else {
			x.denied++
		}
	}
}

// packets draws packets of different connections.
func (x *trial) packets(w *policytest.World, p *policy.Program, n int) []*judged {
	var list []*judged
	seen := map[string]bool{}
	for range n {
		pkt := w.Packet()
		plausible(pkt)
		if key := tuple(pkt); key != "" && seen[key] {
			continue
		} else {
			seen[key] = true
		}
		j := &judged{packet: pkt, mac: pkt.MAC}
		if e := p.Endpoints[pkt.In]; e != nil && j.mac.IsZero() {
			j.mac = e.MAC
		}
		if j.mac.IsZero() {
			j.mac = model.MAC{2, 0xff}
		}
		j.want = expected(p, pkt)
		list = append(list, j)
	}
	return list
}

func verdicts(short int) int {
	if n, err := strconv.Atoi(os.Getenv("WEFT_VERDICTS")); err == nil {
		return n
	}
	return short
}

// TestAgainstEval sends real packets through random worlds, and compares what arrives with what policy/eval
// says. WEFT_VERDICTS=200000 runs it at length.
func TestAgainstEval(t *testing.T) {
	testkit.LeakCheck(t)
	x := &trial{crossing: newCrossing(t), byID: map[uint32]*judged{}}
	d := newDriver(t, x.node)
	total := testkit.Count(verdicts(20_000))
	worlds := 0
	for seed := uint64(1); x.allowed+x.denied < total; seed++ {
		w := policytest.Full(seed, seed%3 > 0)
		p, err := policy.Compile(w.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if seed%4 < 2 {
			addRuns(w, p)
		}
		d.cutFrom = []int{manyMembers, 3}[seed%2] // small worlds have small sets
		apply(t, d, policy.Update{Program: p, Generation: 1000 + seed})
		worlds++
		clear(x.byID)
		for range 2 {
			x.ask(t, p, x.packets(w, p, 120))
		}
		if len(x.wrong) > 0 {
			t.Fatalf("seed %d, %d of %d verdicts wrong:\n%s\n%s", seed, len(x.wrong), x.allowed+x.denied, strings.Join(x.wrong[:min(8, len(x.wrong))], "\n"), p.Format())
		}
	}
	t.Logf("%d worlds: %d packets passed as they should, %d were dropped as they should, 0 otherwise; %d asked again", worlds, x.allowed, x.denied, x.again)
	if x.allowed < total/8 || x.denied < total/8 {
		t.Errorf("%d allowed and %d denied: one of them too rare to mean anything", x.allowed, x.denied)
	}
}

// wrongly returns a copy of a Program in which each rule, and each hook, is changed.
func wrongly(p *policy.Program, rule func(*policy.Rule), hook func(*policy.Hook)) *policy.Program {
	c := p.Clone()
	for id, chain := range c.Chains {
		n := *chain
		n.Rules = slices.Clone(chain.Rules)
		for i := range n.Rules {
			if rule != nil {
				rule(&n.Rules[i])
			}
		}
		c.Chains[id] = &n
	}
	for device, e := range c.Endpoints {
		n := *e
		for _, h := range []*policy.Hook{&n.Ingress, &n.Egress} {
			h.Tiers = slices.Clone(h.Tiers)
			for i := range h.Tiers {
				h.Tiers[i].Policies = slices.Clone(h.Tiers[i].Policies)
			}
			if hook != nil {
				hook(h)
			}
		}
		c.Endpoints[device] = &n
	}
	return c
}

// TestMistakesAreCaught has the driver enforce something else than what packets are judged by: each of
// these differences must be found by the worlds and packets of TestAgainstEval.
func TestMistakesAreCaught(t *testing.T) {
	testkit.LeakCheck(t)
	x := &trial{crossing: newCrossing(t), byID: map[uint32]*judged{}}
	d := newDriver(t, x.node)
	ends := func(r *policy.Rule, f func(*policy.Match)) { f(&r.Src); f(&r.Dst) }
	for _, m := range []struct {
		name string
		rule func(*policy.Rule)
		hook func(*policy.Hook)
	}{
		{"no mistake", nil, nil}, // the control: never caught
		{"deny is allow", func(r *policy.Rule) {
			if r.Action == model.Deny {
				r.Action = model.Allow
			}
		}, nil},
		{"pass is deny", func(r *policy.Rule) {
			if r.Action == model.Pass {
				r.Action = model.Deny
			}
		}, nil},
		{"pass is log", func(r *policy.Rule) {
			if r.Action == model.Pass {
				r.Action = model.Log
			}
		}, nil},
		{"log decides", func(r *policy.Rule) {
			if r.Action == model.Log {
				r.Action = model.Allow
			}
		}, nil},
		{"ports ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.Ports = nil }) }, nil},
		{"not ports ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.NotPorts = nil }) }, nil},
		{"nets ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.Nets = nil }) }, nil},
		{"not nets ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.NotNets = nil }) }, nil},
		{"sets ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.In = nil }) }, nil},
		{"not sets ignored", func(r *policy.Rule) { ends(r, func(m *policy.Match) { m.NotIn = nil }) }, nil},
		{"protocol ignored", func(r *policy.Rule) {
			if r.Src.Ports == nil && r.Dst.Ports == nil && r.Src.NotPorts == nil && r.Dst.NotPorts == nil && r.ICMP == nil && r.NotICMP == nil {
				r.Protocol = 0
			}
		}, nil},
		{"not protocol ignored", func(r *policy.Rule) { r.NotProtocol = 0 }, nil},
		{"ICMP type ignored", func(r *policy.Rule) { r.ICMP, r.NotICMP = nil, nil }, nil},
		{"ends swapped", func(r *policy.Rule) { r.Src, r.Dst = r.Dst, r.Src }, nil},
		{"tiers reversed", nil, func(h *policy.Hook) { slices.Reverse(h.Tiers) }},
		{"policies reversed", nil, func(h *policy.Hook) {
			for i := range h.Tiers {
				slices.Reverse(h.Tiers[i].Policies)
			}
		}},
		{"profiles ignored", nil, func(h *policy.Hook) { h.Profiles = nil }},
		{"tiers pass at their end", nil, func(h *policy.Hook) {
			for i := range h.Tiers {
				h.Tiers[i].Default = model.Pass
			}
		}},
	} {
		asked, caught := 0, false
		for seed := uint64(1); seed < 100 && !caught; seed++ {
			w := policytest.Full(seed, seed%3 > 0)
			p, err := policy.Compile(w.Snapshot)
			if err != nil {
				t.Fatal(err)
			}
			apply(t, d, policy.Update{Program: wrongly(p, m.rule, m.hook), Generation: 1000 + seed})
			if err := x.forget(); err != nil {
				t.Fatal(err)
			}
			sent := map[uint32]*judged{}
			for _, j := range x.packets(w, p, 120) {
				id, _ := x.send(j.packet, j.mac)
				sent[id] = j
				asked++
			}
			if err := x.receive(10*time.Millisecond, func(id uint32) bool {
				if j := sent[id]; j != nil {
					caught = caught || !j.want
					delete(sent, id)
				}
				return false
			}); err != nil {
				t.Fatal(err)
			}
			for _, j := range sent {
				caught = caught || j.want
			}
		}
		if right := m.rule == nil && m.hook == nil; caught == right {
			t.Errorf("%s: caught is %v after %d packets", m.name, caught, asked)
		}
		t.Logf("%s: caught within %d packets", m.name, asked)
	}
}

// addRuns puts rules in a row, of which one lookup can be made, before the rules of each chain.
func addRuns(w *policytest.World, p *policy.Program) {
	port := func() *policy.Ports {
		first := uint16(1 + w.IntN(4))
		return &policy.Ports{Ranges: []model.PortRange{{First: first, Last: first + uint16(w.IntN(2))}}}
	}
	for id, c := range p.Chains {
		n := *c
		n.Rules = nil
		f, mode := families[w.IntN(2)], w.IntN(5)
		nets := func(bits int) []netip.Prefix {
			a := policytest.Local4(w.IntN(12))
			if f == model.IPv6 {
				a = policytest.Local6(w.IntN(12))
			}
			return []netip.Prefix{netip.PrefixFrom(a, a.BitLen()-bits).Masked()}
		}
		for i := range 2 + w.IntN(3) {
			r := policy.Rule{Index: 100 + i, Action: model.Allow, Family: f}
			if mode == 0 {
				r.Family = families[i%2]
			}
			if w.IntN(12) == 0 {
				r.Action = model.Deny // ends a run
			}
			if mode != 1 && mode != 2 {
				r.Protocol, r.Dst.Ports = []model.Protocol{model.TCP, model.UDP, model.SCTP}[w.IntN(3)], port()
			}
			switch mode {
			case 1:
				r.Src.Nets = nets(w.IntN(2))
			case 2:
				r.Dst.Nets = nets(w.IntN(2))
			case 3:
				r.Src.Nets = nets(0)
			case 4:
				r.Dst.Nets, r.Src.NotPorts = nets(0), &policy.Ports{Ranges: []model.PortRange{{First: 2, Last: 2}}}
			}
			n.Rules = append(n.Rules, r)
		}
		n.Rules = append(n.Rules, c.Rules...)
		p.Chains[id] = &n
	}
}
