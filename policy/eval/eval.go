// Package eval runs a policy.Program in memory: what becomes of one packet, and why. It is what
// `weft why` prints, and what the tests hold drivers' kernels against. It takes the packet for the
// first of its connection; connections themselves are the kernel's business.
package eval

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
)

// Verdict is what becomes of a packet.
type Verdict struct {
	Allowed bool
	Reasons []Reason // in the order in which they came about; the last one decided
}

// Reason is one step: a rule that matched, the end of a tier, or what is fixed outside policy.
type Reason struct {
	At     string // "egress of shop/web/eth0", "forward ingress of eth0"
	Tier   string // empty outside tiers
	Chain  policy.ChainID
	Rule   int // index in the resource's list; -1: none, the end of the tier or of all
	Action model.Action
	Sets   []policy.SetID // that addresses and ports were found in
	Staged bool           // of a staged policy
	Text   string         // when no rule matched: why
}

// String prints "egress of shop/web/eth0: tier default, GlobalNetworkPolicy p egress, rule 2: allow,
// in {IPv4 selected by role == 'db'}".
func (r Reason) String() string {
	var b strings.Builder
	b.WriteString(r.At + ": ")
	if r.Tier != "" {
		b.WriteString("tier " + r.Tier + ", ")
	}
	if r.Rule < 0 {
		return b.String() + r.Text + ": " + r.Action.String()
	}
	fmt.Fprintf(&b, "%s, rule %d: %s", r.Chain, r.Rule, r.Action)
	for _, id := range r.Sets {
		fmt.Fprintf(&b, ", in {%s}", id)
	}
	if r.Staged {
		b.WriteString(", staged")
	}
	return b.String()
}

// Allowed tells whether the packet may pass.
func Allowed(p *policy.Program, pkt *model.Packet) bool {
	r := run{program: p, packet: pkt}
	return r.pass()
}

// Explain is Allowed with the chain of reasons.
func Explain(p *policy.Program, pkt *model.Packet) Verdict {
	var v Verdict
	r := run{program: p, packet: pkt, verdict: &v}
	v.Allowed = r.pass()
	return v
}

// Staged is Explain as if staged policies were enforced.
func Staged(p *policy.Program, pkt *model.Packet) Verdict {
	var v Verdict
	r := run{program: p, packet: pkt, verdict: &v, staged: true}
	v.Allowed = r.pass()
	return v
}

type run struct {
	program *policy.Program
	packet  *model.Packet
	verdict *Verdict // nil: nobody asks why
	staged  bool     // enforce what is staged
}

// because notes a step outside rules, and returns the verdict.
func (r *run) because(allowed bool, at func() string, text string) bool {
	if r.verdict != nil {
		action := model.Deny
		if allowed {
			action = model.Allow
		}
		r.verdict.Reasons = append(r.verdict.Reasons, Reason{At: at(), Rule: -1, Action: action, Text: text})
	}
	return allowed
}

func (r *run) pass() bool {
	from, to := r.program.Endpoints[r.packet.In], r.program.Endpoints[r.packet.Out]
	switch {
	case r.packet.In == "":
	case from != nil:
		if !r.fromPod(from) {
			return false
		}
	default:
		if !r.fromInterface() {
			return false
		}
	}
	switch {
	case r.packet.Out == "":
		return true
	case to == nil:
		return r.toInterface()
	case r.packet.In == "":
		return r.because(true, name("to "+to.ID.String()), "this host reaches its own pods")
	}
	return r.pod(&to.Ingress, podHook(to, model.Ingress))
}

func name(s string) func() string { return func() string { return s } }

func podHook(e *policy.Endpoint, d model.Direction) func() string {
	return func() string { return d.String() + " of " + e.ID.String() }
}

// fromPod is for what a pod sends.
func (r *run) fromPod(e *policy.Endpoint) bool {
	at := podHook(e, model.Egress)
	toHost := r.packet.Out == ""
	if toHost && discovery(r.packet) {
		return r.because(true, at, "neighbour and multicast listener discovery with this host")
	}
	if !slices.ContainsFunc(e.Sources, func(p netip.Prefix) bool { return p.Contains(r.packet.Src) }) {
		return r.because(false, at, "the source address is not the pod's")
	}
	if !r.packet.MAC.IsZero() && r.packet.MAC != e.MAC {
		return r.because(false, at, "the source MAC is not the pod's")
	}
	if !r.pod(&e.Egress, at) {
		return false
	}
	if toHost && !r.program.Config.PodsToHost {
		return r.because(false, at, "defaultEndpointToHostAction is Drop")
	}
	return true
}

// discovery tells whether a packet is one of the ICMPv6 messages that a pod's link cannot do
// without (RFC 4861, RFC 2710): multicast listener, router and neighbour discovery.
func discovery(p *model.Packet) bool {
	return p.Protocol == model.ICMPv6 && p.Src.Is6() && (p.ICMPType >= 130 && p.ICMPType <= 133 || p.ICMPType == 135 || p.ICMPType == 136)
}

func (r *run) host(iface string) *policy.Host {
	if h := r.program.Hosts[iface]; h != nil {
		return h
	}
	return r.program.Hosts["*"]
}

func hostHook(place, iface string) func() string {
	return func() string { return place + " of " + iface }
}

// fromInterface is for what comes in by an interface of this host.
func (r *run) fromInterface() bool {
	h, iface := r.host(r.packet.In), r.packet.In
	if h == nil {
		return true
	}
	if !r.failsafe(model.Ingress) && !r.failsafeReply(model.Ingress) {
		if d := r.hook(&h.Untracked[model.Ingress], hostHook("untracked ingress", iface)); d != undecided {
			return d == allow
		}
	}
	if !r.failsafe(model.Ingress) {
		if d := r.hook(&h.PreDNAT, hostHook("pre-DNAT ingress", iface)); d != undecided {
			return d == allow
		}
	}
	if r.packet.Out != "" {
		return r.forward(h, model.Ingress, iface)
	}
	return r.normal(h, model.Ingress, iface)
}

// toInterface is for what goes out by an interface of this host.
func (r *run) toInterface() bool {
	h, iface := r.host(r.packet.Out), r.packet.Out
	if h == nil {
		return true
	}
	if r.packet.In != "" {
		return r.forward(h, model.Egress, iface)
	}
	if !r.failsafe(model.Egress) && !r.failsafeReply(model.Egress) {
		if d := r.hook(&h.Untracked[model.Egress], hostHook("untracked egress", iface)); d != undecided {
			return d == allow
		}
	}
	return r.normal(h, model.Egress, iface)
}

func (r *run) forward(h *policy.Host, d model.Direction, iface string) bool {
	at := hostHook("forward "+d.String(), iface)
	switch r.hook(&h.Forward[d], at) {
	case allow:
		return true
	case deny:
		return false
	}
	return r.because(true, at, "no policy for forwarded traffic decided")
}

func (r *run) normal(h *policy.Host, d model.Direction, iface string) bool {
	at := hostHook(d.String(), iface)
	if r.failsafe(d) {
		return r.because(true, at, "failsafe port")
	}
	if r.carrier(d) {
		return r.because(true, at, "a tunnel's packet between nodes")
	}
	switch r.hook(&h.Normal[d], at) {
	case allow:
		return true
	case deny:
		return false
	}
	return r.because(false, at, "no policy and no profile decided")
}

// carrier tells whether the packet is a tunnel's from or to another node.
func (r *run) carrier(d model.Direction) bool {
	peer := r.packet.Src
	if d == model.Egress {
		peer = r.packet.Dst
	}
	f := model.FamilyOf(peer)
	known := r.program.Sets[policy.PeersOf(f)]
	return slices.ContainsFunc(r.program.Carriers, func(t model.Carrier) bool {
		return t.Family == f && t.Protocol == r.packet.Protocol && (t.Port == 0 || t.Port == r.packet.DstPort)
	}) && known.Has(policy.Member{Prefix: netip.PrefixFrom(peer, peer.BitLen())})
}

// failsafe tells whether the packet is to a failsafe port.
func (r *run) failsafe(d model.Direction) bool {
	if d == model.Ingress {
		return failsafe(r.program.Config.FailsafeIn, r.packet, r.packet.DstPort, r.packet.Src)
	}
	return failsafe(r.program.Config.FailsafeOut, r.packet, r.packet.DstPort, r.packet.Dst)
}

// failsafeReply tells whether the packet is from a failsafe port of the other direction.
func (r *run) failsafeReply(d model.Direction) bool {
	if d == model.Ingress {
		return failsafe(r.program.Config.FailsafeOut, r.packet, r.packet.SrcPort, r.packet.Src)
	}
	return failsafe(r.program.Config.FailsafeIn, r.packet, r.packet.SrcPort, r.packet.Dst)
}

func failsafe(list []model.Failsafe, p *model.Packet, port uint16, peer netip.Addr) bool {
	return slices.ContainsFunc(list, func(f model.Failsafe) bool {
		return f.Protocol == p.Protocol && f.Port == port && (!f.Net.IsValid() || f.Net.Contains(peer))
	})
}
