package iptables

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
	"weft/policy/policytest/wire"
)

// backends calls f for each backend that this machine has.
func backends(t *testing.T, f func(t *testing.T, b Backend)) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth)
	for _, b := range []Backend{NFT, Legacy} {
		t.Run(string(b), func(t *testing.T) {
			require(t, b)
			f(t, b)
		})
	}
}

// require skips a test where programs or the kernel lack a backend, or sets that rules can use.
func require(t *testing.T, b Backend) {
	t.Helper()
	command := map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b]
	for _, c := range []string{command, "ipset"} {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("%s iptables: not on this machine: %v", testkit.SkipMark, err)
		}
	}
	ns := testkit.NewNetns(t)
	for _, try := range [][]string{{"ipset", "create", "probe", "hash:net"}, {command, "-A", "INPUT", "-m", "set", "--match-set", "probe", "src", "-j", "DROP"}} {
		if _, err := testkit.Try(t, ns, try...); err != nil {
			t.Skipf("%s iptables: not on this machine: %v", testkit.SkipMark, err)
		}
	}
}

func newDriver(t *testing.T, ns testkit.NS, b Backend) *Driver {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	d := New(ns.Open(t), log, b)
	t.Cleanup(d.Close)
	return d
}

func apply(t *testing.T, d *Driver, u policy.Update) {
	t.Helper()
	if _, err := d.Apply(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

// fromScratch is an update for a driver that knows nothing of what came before.
func fromScratch(p *policy.Program) policy.Update {
	return policy.Update{Program: p, Generation: 1 << 50, Delta: policy.Delta{Base: 1 << 49}}
}

// dump prints all rules and sets that are there, but for counters and the sizes of hash tables.
// Members are sorted; rules keep their order. ours prints what begins with weft- only, others' the rest.
func dump(t *testing.T, ns testkit.NS, b Backend, ours bool) string {
	t.Helper()
	infix := map[Backend]string{NFT: "-nft", Legacy: "-legacy"}[b]
	var out []string
	for _, c := range []string{"iptables", "ip6tables"} {
		table := ""
		for l := range strings.Lines(testkit.Run(t, ns, c+infix+"-save")) {
			l = strings.TrimSpace(l)
			if strings.HasPrefix(l, "*") {
				table = c + " " + l
			}
			if (strings.HasPrefix(l, ":") || strings.HasPrefix(l, "-A")) && strings.Contains(l, prefix) == ours {
				l, _, _ = strings.Cut(l, " [") // counters
				out = append(out, table+" "+l)
			}
		}
	}
	var sets []string
	for l := range strings.Lines(testkit.Run(t, ns, "ipset", "save")) {
		if w := strings.Fields(l); len(w) > 2 && strings.HasPrefix(w[1], prefix) == ours {
			sets = append(sets, strings.Join(w[:min(len(w), 5)], " "))
		}
	}
	slices.Sort(sets)
	return strings.Join(append(out, sets...), "\n") + "\n"
}

// sorted is a dump with its chains in order: nf_tables keeps them as they were made.
func sortedDump(t *testing.T, ns testkit.NS, b Backend) string {
	lines := strings.Split(dump(t, ns, b, true), "\n")
	slices.SortStableFunc(lines, func(x, y string) int { return strings.Compare(lineKey(x), lineKey(y)) })
	return strings.Join(lines, "\n")
}

// lineKey is what a line of a dump is about: table and chain.
func lineKey(line string) string {
	w := strings.Fields(line)
	return strings.Join(w[:min(len(w), 4)], " ")
}

// TestDeltaIsWhole changes random worlds. What the kernel has after following the differences is what it
// has after one Apply of the end state in a fresh namespace, and what a look at it calls right.
func TestDeltaIsWhole(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		compared, lines := 0, 0
		for seed := range uint64(testkit.Count(4)) {
			ns := testkit.NewNetns(t)
			d := newDriver(t, ns, b)
			w := policytest.New(seed, seed%2 == 0)
			c := policy.NewCompiler(policytest.Self)
			var u policy.Update
			for step := range 60 {
				w.Step(c)
				if w.IntN(3) > 0 {
					continue
				}
				u = c.Flush()
				apply(t, d, u)
				if step%20 > 2 {
					continue
				}
				fresh := testkit.NewNetns(t)
				apply(t, newDriver(t, fresh, b), fromScratch(u.Program))
				want, got := sortedDump(t, fresh, b), sortedDump(t, ns, b)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("seed %d, step %d (-whole +followed):\n%s", seed, step, diff)
				}
				compared++
				lines += strings.Count(got, "\n")
			}
			d.Invalidate()
			if res, err := d.Apply(t.Context(), u); err != nil || !res.Zero() {
				t.Fatalf("seed %d: a look at what is there: %v, %v; want no change", seed, res, err)
			}
			apply(t, d, policy.Update{})
			if left := dump(t, ns, b, true); strings.TrimSpace(left) != "" {
				t.Fatalf("left after all was removed:\n%s", left)
			}
		}
		t.Logf("%s: 0 differences in %d comparisons of %d lines", b, compared, lines)
		if compared < 3 || lines < 300 {
			t.Error("that compares nothing")
		}
	})
}

// others are rules and sets of somebody else, at every place where ours are.
var others = [][]string{
	{"ipset", "create", "other", "hash:net"}, {"ipset", "add", "other", "192.0.2.0/24"},
	{"%s", "-t", "filter", "-N", "OTHER"}, {"%s", "-t", "filter", "-A", "OTHER", "-s", "192.0.2.1/32", "-j", "DROP"},
	{"%s", "-t", "filter", "-I", "FORWARD", "-j", "OTHER"}, {"%s", "-t", "filter", "-I", "INPUT", "-p", "tcp", "-j", "OTHER"},
	{"%s", "-t", "raw", "-A", "PREROUTING", "-m", "set", "--match-set", "other", "src", "-j", "DROP"},
	{"%s", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE"},
	{"%s", "-t", "filter", "-P", "FORWARD", "DROP"},
}

func addOthers(t *testing.T, ns testkit.NS, b Backend) {
	t.Helper()
	command := map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b]
	for _, c := range others {
		c = slices.Clone(c)
		c[0] = strings.Replace(c[0], "%s", command, 1)
		testkit.Run(t, ns, c...)
	}
}

// TestOthersUntouched: what others have is the same before, during and after, byte for byte.
func TestOthersUntouched(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		ns := testkit.NewNetns(t)
		addOthers(t, ns, b)
		before := dump(t, ns, b, false)
		d := newDriver(t, ns, b)
		w := policytest.Full(4, true)
		p := compile(t, w.Snapshot)
		apply(t, d, fromScratch(p))
		for what, hook := range map[string]string{"FORWARD": "weft-forward", "INPUT": "weft-input"} {
			list := testkit.Run(t, ns, map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b], "-S", what)
			if !strings.Contains(list, "\n-A "+what+" -j "+hook+"\n-A "+what+" ") {
				t.Errorf("our hook is not the first of %s:\n%s", what, list)
			}
		}
		// Built-in chains that only we needed come with us, without a rule.
		withoutEmpty := func(s string) string {
			var keep []string
			for l := range strings.Lines(s) {
				if strings.Contains(before, l) || !strings.HasSuffix(strings.TrimSpace(l), "ACCEPT") {
					keep = append(keep, l)
				}
			}
			return strings.Join(keep, "")
		}
		if d := cmp.Diff(before, withoutEmpty(dump(t, ns, b, false))); d != "" {
			t.Errorf("others' (-before +with ours):\n%s", d)
		}
		apply(t, d, policy.Update{})
		if d := cmp.Diff(before, withoutEmpty(dump(t, ns, b, false))); d != "" {
			t.Errorf("others' (-before +after):\n%s", d)
		}
		if left := dump(t, ns, b, true); strings.TrimSpace(left) != "" {
			t.Errorf("ours is left:\n%s", left)
		}
	})
}

// TestControl: the harness finds kernels that are wrong, each in one way.
func TestControl(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		rig.Patience, rig.Linger = 20*time.Millisecond, 100*time.Millisecond
		d := newDriver(t, rig.Node, b)
		mutants := map[string]func(*policy.Rule){
			"sources do not matter": func(r *policy.Rule) { r.Src.In, r.Src.Nets = nil, nil },
			"nor what they are not": func(r *policy.Rule) { r.Src.NotIn, r.Src.NotNets, r.Dst.NotIn, r.Dst.NotNets = nil, nil, nil, nil },
			"nor ports":             func(r *policy.Rule) { r.Src.Ports, r.Dst.Ports = nil, nil },
			"all protocols are TCP": func(r *policy.Rule) {
				if r.Protocol.HasPorts() {
					r.Protocol = model.TCP
				}
			},
			"Pass is Allow": func(r *policy.Rule) {
				r.Action = map[model.Action]model.Action{model.Pass: model.Allow}[r.Action] | r.Action
			},
			"what is denied is not": func(r *policy.Rule) { r.Action = model.Allow },
			"not ICMP is any":       func(r *policy.Rule) { r.NotICMP = nil },
			"the first rule is none": func(r *policy.Rule) {
				if r.Index == 0 {
					r.Family = 5
				}
			},
		}
		found := map[string]int{}
		var all wire.Tally
		caught := 0
		check := func(p *policy.Program, packets []*model.Packet) {
			for _, name := range sortedKeys(mutants) {
				if found[name] > 0 {
					continue
				}
				m := mutant(p, mutants[name])
				apply(t, d, fromScratch(m))
				d.known = false
				tally, wrong := rig.Check(t, p, telling(p, m, packets))
				all.Add(tally)
				if found[name] += len(wrong); len(wrong) > 0 {
					caught++
				}
			}
		}
		check(messages(t)) // which random worlds hardly look at
		for seed := uint64(100); seed < 120 && caught < len(mutants); seed++ {
			w := policytest.Full(seed, false)
			packets := make([]*model.Packet, 5000)
			for i := range packets {
				packets[i] = w.Packet()
			}
			check(compile(t, w.Snapshot), packets)
		}
		t.Logf("%d of %d wrong kernels found: %v; %d verdicts", caught, len(mutants), found, all.Verdicts)
		if caught < len(mutants) {
			t.Error("the harness does not see all that is wrong")
		}
	})
}

// messages is a node whose pods take every message of ICMP but one, and messages to them.
func messages(t *testing.T) (*policy.Program, []*model.Packet) {
	t.Helper()
	s := town()
	for id, e := range s.Endpoints {
		e.Device = policytest.Device(int(e.MAC[5]))
		s.Endpoints[id] = e
	}
	web(s, model.Policy{Selector: "all()", Types: model.Types{Ingress: true}, Ingress: []model.Rule{{Action: model.Allow, Protocol: model.ICMP, NotICMP: &model.ICMPMatch{Type: 13}}}})
	var packets []*model.Packet
	for _, kind := range []uint8{3, 11, 13} {
		packets = append(packets, &model.Packet{In: policytest.Device(2), Out: policytest.Device(1), Src: netip.MustParseAddr("10.244.0.2"), Dst: netip.MustParseAddr("10.244.0.1"),
			Protocol: model.ICMP, ICMPType: kind})
	}
	return compile(t, s), packets
}

// telling takes a hundred of the packets, and up to ten whose fate a mutant changes.
func telling(p, m *policy.Program, all []*model.Packet) []*model.Packet {
	some := slices.Clone(all[:min(100, len(all))])
	most := len(some) + 10
	for _, pkt := range all[len(some):] {
		if len(some) < most && wire.Usable(p, pkt) && wire.Expect(p, pkt) != wire.Expect(m, pkt) {
			some = append(some, pkt)
		}
	}
	return some
}

func mutant(p *policy.Program, f func(*policy.Rule)) *policy.Program {
	m := p.Clone()
	for id, c := range m.Chains {
		other := *c
		other.Rules = slices.Clone(c.Rules)
		for i := range other.Rules {
			f(&other.Rules[i])
		}
		m.Chains[id] = &other
	}
	return m
}

// TestCounters: each packet of a new connection is counted once, where a rule decided.
func TestCounters(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		s := town()
		for id, e := range s.Endpoints {
			e.Device = policytest.Device(int(e.MAC[5]))
			s.Endpoints[id] = e
		}
		web(s, model.Policy{Types: model.Types{Ingress: true}, Ingress: []model.Rule{
			{Action: model.Deny, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(1)}}, {Action: model.Log, Protocol: model.TCP}, {Action: model.Allow}}})
		p := compile(t, s)
		apply(t, d, fromScratch(p))
		var packets []*model.Packet
		for n := range uint16(10) {
			for _, a := range []string{"10.244.0.1", "fd00::1"} {
				dst := netip.MustParseAddr(a)
				src := dst.Next().Next().Next()
				packets = append(packets, &model.Packet{In: "eth0", Out: policytest.Device(1), Src: src, Dst: dst, Protocol: model.TCP, SrcPort: 1000 + n, DstPort: 1 + n%2})
			}
		}
		tally, wrong := rig.Check(t, p, packets)
		if len(wrong) > 0 || tally.Allowed != 10 || tally.Denied != 10 {
			t.Fatal(tally, wrong)
		}
		list, err := d.Counters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[int]uint64{}
		for _, c := range list {
			if strings.HasPrefix(string(c.Chain), "GlobalNetworkPolicy p ingress") {
				got[c.Tag.Rule] = c.Packets
				if c.Tag.Cause != policy.ByRule || c.Tag.Direction != model.Ingress {
					t.Errorf("the tag of a rule is %s", c.Tag)
				}
			}
		}
		asked := uint64(tally.Asked)
		for rule, want := range map[int]uint64{0: 10, 1: 10 + asked, 2: 10 + asked} {
			if got[rule] != want {
				t.Errorf("rule %d counted %d packets, want %d", rule, got[rule], want)
			}
		}
	})
}

// TestLogIsLimited: whoever is denied may send as much as he likes, little of it is logged, and all counted.
func TestLogIsLimited(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		s := town()
		for id, e := range s.Endpoints {
			e.Device = policytest.Device(int(e.MAC[5]))
			s.Endpoints[id] = e
		}
		web(s, model.Policy{Types: model.Types{Ingress: true}, Ingress: []model.Rule{
			{Action: model.Log, Protocol: model.TCP}, {Action: model.Deny, Protocol: model.TCP}}})
		p := compile(t, s)
		apply(t, d, fromScratch(p))
		const sent, tiers = 400, 100
		var packets []*model.Packet
		for n := range uint16(sent) {
			packets = append(packets, &model.Packet{In: "eth0", Out: policytest.Device(1), Src: netip.MustParseAddr("10.244.0.9"), Dst: netip.MustParseAddr("10.244.0.1"),
				Protocol: model.TCP, SrcPort: 1000 + n, DstPort: 1})
		}
		for n := range uint16(tiers) {
			packets = append(packets, &model.Packet{In: "eth0", Out: policytest.Device(1), Src: netip.MustParseAddr("10.244.0.9"), Dst: netip.MustParseAddr("10.244.0.1"),
				Protocol: model.UDP, SrcPort: 1000 + n, DstPort: 1})
		}
		start := time.Now()
		tally, wrong := rig.Check(t, p, packets)
		if len(wrong) > 0 || tally.Denied != sent+tiers {
			t.Fatal(tally, wrong)
		}
		out := testkit.Run(t, rig.Node, d.tools.save[b][model.IPv4], "-c", "-t", filter)
		most := logBurst + logRate*int(time.Since(start)/time.Second+1)
		lines := 0
		for line := range strings.Lines(out) {
			var logged int
			if n, _ := fmt.Sscanf(line, "[%d:", &logged); n == 1 && strings.Contains(line, "-j NFLOG") && logged > 0 {
				if lines++; logged > most {
					t.Errorf("%d packets were logged, want at most %d: %s", logged, most, line)
				}
			}
		}
		list, err := d.Counters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for _, c := range list {
			// Hosts say something by themselves, too, to devices that have no program here.
			if c.Packets > 0 && c.Tag.Direction == model.Ingress && c.Tag.Cause != policy.ByNoProgram {
				got[fmt.Sprintf("%s %c %d", c.Chain, c.Tag.Cause, c.Tag.Rule)] = c.Packets
			}
		}
		want := map[string]uint64{"GlobalNetworkPolicy p ingress r 0": sent, "GlobalNetworkPolicy p ingress r 1": sent, " t 0": tiers}
		if diff := cmp.Diff(want, got); diff != "" || lines != 3 {
			t.Errorf("%d lines logged, want 3; counters (-want +got):\n%s", lines, diff)
		}
	})
}

// tool is the program for sets.
func (d *Driver) tool(t *testing.T) string {
	t.Helper()
	if err := d.choose(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d.tools.ipset
}
