package kernel

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/model"
)

// Rule is one routing policy rule (ip-rule(8)) that looks into a table. All of it is its identity: the kernel
// keeps several of one priority. The zero value of a condition means "any".
type Rule struct {
	Family   model.Family
	Priority int
	Not      bool   // the conditions as a whole do not hold
	Input    string // interface that the packet came in by, as ip(8)'s iif; lo for what this host sends
	Mark     uint32 // of the packet, under Mask
	Mask     uint32
	Protocol int // IP protocol number; 0: any
	// SourcePort and DestPort need a Protocol that has ports. Linux 4.17.
	SourcePort, DestPort uint16
	Table                int
	// foreign is the message of a rule with our protocol number that says what we never say, so that it can
	// be removed.
	foreign string
}

// Attributes of linux/fib_rules.h that are in every rule, or that we write.
const (
	fraInput     = 3
	fraPriority  = 6
	fraMark      = 10
	fraSuppress  = 14
	fraTable     = 15
	fraMask      = 16
	fraProtocol  = 21
	fraIPProto   = 22
	fraSourcePts = 23
	fraDestPts   = 24
	// Linux 6.15 tells them of every port.
	fraSourceMask = 28
	fraDestMask   = 29

	ruleHdrSize = 12 // struct fib_rule_hdr
	ruleInvert  = 2  // FIB_RULE_INVERT
	ruleToTable = 1  // FR_ACT_TO_TBL

	suppressNone = ^uint32(0)
)

// String prints the rule in the words of ip(8).
func (r Rule) String() string {
	s := strconv.Itoa(r.Priority) + ":"
	if r.Family == model.IPv6 {
		s += " inet6"
	}
	if r.foreign != "" {
		return s + " with our protocol number, and conditions that are not ours"
	}
	if r.Not {
		s += " not"
	}
	if r.Input != "" {
		s += " iif " + r.Input
	}
	if r.Mask != 0 {
		s += fmt.Sprintf(" fwmark 0x%x/0x%x", r.Mark, r.Mask)
	}
	switch r.Protocol {
	case 0:
	case unix.IPPROTO_TCP:
		s += " ipproto tcp"
	case unix.IPPROTO_UDP:
		s += " ipproto udp"
	default:
		s += " ipproto " + strconv.Itoa(r.Protocol)
	}
	if r.SourcePort != 0 {
		s += " sport " + strconv.Itoa(int(r.SourcePort))
	}
	if r.DestPort != 0 {
		s += " dport " + strconv.Itoa(int(r.DestPort))
	}
	if r.Table == MainTable {
		return s + " lookup main"
	}
	return s + " lookup " + strconv.Itoa(r.Table)
}

// Of returns the table of ours that a rule with our protocol number is about: ServiceTable where it leads there;
// HostTable in all other cases, exceptions and what we never say included.
func (r Rule) Of() int {
	if r.Table == ServiceTable {
		return ServiceTable
	}
	return HostTable
}

// ruleTable is the reconcile.Table of our rules about one of our tables.
type ruleTable struct {
	h  *Handle
	of int
}

// RuleTable returns the rules with our protocol number that are about one of our tables (Rule.Of), of both families
// and every priority. It writes those of a lower number, which the kernel asks first, before the others, and removes
// them after these: so exceptions are there as long as what they are from.
func RuleTable(h *Handle, of int) reconcile.Table[Rule, struct{}] { return ruleTable{h, of} }

// Equal implements reconcile.Table.
func (ruleTable) Equal(struct{}, struct{}) bool { return true }

// List implements reconcile.Table.
func (t ruleTable) List(ctx context.Context) (map[Rule]struct{}, error) {
	rules := map[Rule]struct{}{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := t.h.dump(ctx, unix.RTM_GETRULE, ruleHdr(family, 0, 0, 0).b)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // the kernel lacks the family
		}
		if err != nil {
			return nil, fmt.Errorf("list routing rules: %w", err)
		}
		for _, m := range msgs {
			if r, protocol, ok := parseRule(m.body); ok && protocol == RouteProtocol && r.Of() == t.of {
				rules[r] = struct{}{}
			}
		}
	}
	return rules, nil
}

// Put implements reconcile.Table.
func (t ruleTable) Put(ctx context.Context, r Rule, _ struct{}) error {
	return t.PutMany(ctx, []reconcile.Change[Rule, struct{}]{{Key: r}})[0]
}

// Delete implements reconcile.Table.
func (t ruleTable) Delete(ctx context.Context, r Rule, _ struct{}) error {
	return t.DeleteMany(ctx, []reconcile.Change[Rule, struct{}]{{Key: r}})[0]
}

// PutMany implements reconcile.BatchTable.
func (t ruleTable) PutMany(ctx context.Context, puts []reconcile.Change[Rule, struct{}]) []error {
	return t.exec(ctx, puts, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) }, unix.EEXIST)
}

// DeleteMany implements reconcile.BatchTable. The kernel compares the protocol number as well.
func (t ruleTable) DeleteMany(ctx context.Context, deletes []reconcile.Change[Rule, struct{}]) []error {
	return t.exec(ctx, deletes, unix.RTM_DELRULE, 0, func(a, b Rule) int { return cmp.Compare(b.Priority, a.Priority) }, unix.ENOENT)
}

// exec writes the rules in the order of compare and returns the errors in that of the changes; there is one of
// them, fine, that says that all is as it should be.
func (t ruleTable) exec(ctx context.Context, changes []reconcile.Change[Rule, struct{}], typ, flags uint16, compare func(a, b Rule) int, fine unix.Errno) []error {
	at := make([]int, len(changes))
	for i := range at {
		at[i] = i
	}
	slices.SortStableFunc(at, func(i, j int) int { return compare(changes[i].Key, changes[j].Key) })
	reqs := make([]request, len(changes))
	for n, i := range at {
		reqs[n] = request{typ, flags, encodeRule(changes[i].Key)}
	}
	answers, _ := t.h.exec(ctx, reqs) // its error is in each answer that it touches
	errs := make([]error, len(changes))
	for n, err := range forgive(answers, fine) {
		errs[at[n]] = err
	}
	return errs
}

func ruleHdr(family, table, action uint8, flags uint32) *encoder {
	return (&encoder{}).raw(family, 0, 0, 0, table, 0, 0, action).rawU32(flags)
}

func encodeRule(r Rule) []byte {
	if r.foreign != "" {
		return []byte(r.foreign)
	}
	family, table, flags := uint8(unix.AF_INET), uint8(unix.RT_TABLE_UNSPEC), uint32(0)
	if r.Family == model.IPv6 {
		family = unix.AF_INET6
	}
	if r.Table < 256 {
		table = uint8(r.Table)
	}
	if r.Not {
		flags = ruleInvert
	}
	e := ruleHdr(family, table, ruleToTable, flags)
	e.u32(fraPriority, uint32(r.Priority)).u32(fraTable, uint32(r.Table)).attr(fraProtocol, []byte{RouteProtocol})
	if r.Input != "" {
		e.attr(fraInput, append([]byte(r.Input), 0))
	}
	if r.Mask != 0 {
		e.u32(fraMark, r.Mark).u32(fraMask, r.Mask)
	}
	if r.Protocol != 0 {
		e.attr(fraIPProto, []byte{uint8(r.Protocol)})
	}
	for _, p := range []struct {
		attr uint16
		port uint16
	}{{fraSourcePts, r.SourcePort}, {fraDestPts, r.DestPort}} {
		if p.port != 0 { // struct fib_rule_port_range
			e.attr(p.attr, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, p.port), p.port))
		}
	}
	return e.b
}

// parseRule reads a rule message of the routing netlink.
func parseRule(b []byte) (r Rule, protocol int, ok bool) {
	if len(b) < ruleHdrSize || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return Rule{}, 0, false
	}
	r.Family = model.IPv4
	if b[0] == unix.AF_INET6 {
		r.Family = model.IPv6
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	r.Table, r.Not = int(b[4]), flags&ruleInvert != 0
	other := b[1] != 0 || b[2] != 0 || b[3] != 0 || b[7] != ruleToTable || flags&^ruleInvert != 0
	eachAttr(b[ruleHdrSize:], func(typ uint16, v []byte) {
		switch typ {
		case fraInput:
			r.Input = string(bytes.TrimRight(v, "\x00"))
		case fraPriority:
			r.Priority = int(getU32(v))
		case fraTable:
			r.Table = int(getU32(v))
		case fraMark:
			r.Mark = getU32(v)
		case fraMask:
			r.Mask = getU32(v)
		case fraProtocol:
			protocol = int(getU8(v))
		case fraIPProto:
			r.Protocol = int(getU8(v))
		case fraSourcePts:
			r.SourcePort = getPort(v, &other)
		case fraDestPts:
			r.DestPort = getPort(v, &other)
		case fraSourceMask, fraDestMask:
			other = other || len(v) != 2 || binary.NativeEndian.Uint16(v) != 0xffff
		case fraSuppress:
			other = other || getU32(v) != suppressNone
		default:
			other = true
		}
	})
	if other {
		r = Rule{Family: r.Family, Priority: r.Priority, foreign: string(b)}
	}
	return r, protocol, true
}

func getU8(v []byte) uint8 {
	if len(v) != 1 {
		return 0
	}
	return v[0]
}

// getPort reads a range of one port; of more is something that we do not write.
func getPort(v []byte, other *bool) uint16 {
	if len(v) != 4 {
		*other = true
		return 0
	}
	first := binary.NativeEndian.Uint16(v)
	if first != binary.NativeEndian.Uint16(v[2:]) {
		*other = true
	}
	return first
}
