package routing

import (
	"cmp"
	"fmt"
	"strings"

	"weft/model"
)

// Ruled is a routing table of ours, and the rules that send packets to look into it. The zero value means "gone".
type Ruled struct {
	Table  int
	Routes []Route // of the table, sorted by Dst
	Rules  []Rule  // sorted; none where there are no routes
}

// Rule is a routing policy rule: a packet that it fits is looked up in Table. Zero conditions fit everything.
type Rule struct {
	Family     model.Family
	Priority   int            // the kernel asks lower ones first
	Received   bool           // packets that came in by an interface: nothing that this host itself sends. Excludes all below.
	Unmarked   uint32         // packets that have none of these bits
	Protocol   model.Protocol // 0: any
	SourcePort uint16         // 0: any
	DestPort   uint16         // 0: any
	Table      int
	Why        string // not written to the kernel
}

// CompareRules is the order of Ruled.Rules. It looks at all but the reason.
func CompareRules(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.DestPort, b.DestPort), cmp.Compare(a.SourcePort, b.SourcePort), cmp.Compare(a.Unmarked, b.Unmarked), cmp.Compare(yes(a.Received), yes(b.Received)), cmp.Compare(a.Table, b.Table))
}

// Format prints the plan as canonical text, in the words of ip(8), with reasons after a #. The zero value prints
// nothing.
func (h Ruled) Format() string {
	var b strings.Builder
	for _, r := range h.Rules {
		fmt.Fprintf(&b, "rule %s  # %s\n", r, r.Why)
	}
	for _, r := range h.Routes {
		fmt.Fprintf(&b, "route %s table %d  # %s\n", r, h.Table, r.Why)
	}
	return b.String()
}

// String prints the rule in the words of ip(8), without its reason.
func (r Rule) String() string {
	s := fmt.Sprintf("%s pref %d", r.Family, r.Priority)
	if r.Received {
		s += " not iif lo"
	}
	if r.Unmarked != 0 {
		s += fmt.Sprintf(" not fwmark 0x%x/0x%x", r.Unmarked, r.Unmarked)
	}
	if r.Protocol != 0 {
		s += " ipproto " + r.Protocol.String()
	}
	if r.SourcePort != 0 {
		s += fmt.Sprintf(" sport %d", r.SourcePort)
	}
	if r.DestPort != 0 {
		s += fmt.Sprintf(" dport %d", r.DestPort)
	}
	return s + fmt.Sprintf(" lookup %d", r.Table)
}

func yes(b bool) int {
	if b {
		return 1
	}
	return 0
}
