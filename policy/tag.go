package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"weft/model"
)

// Cause is the kind of thing that decided about a packet.
type Cause byte

// The causes.
const (
	ByRule      Cause = 'r' // a rule of a policy or profile
	ByTier      Cause = 't' // the end of a tier whose default is Deny
	ByProfiles  Cause = 'p' // no tier and no profile decided
	BySource    Cause = 's' // an address or MAC that the pod may not send from
	ByNoProgram Cause = 'n' // a pod's device that has no entry
	ByHost      Cause = 'h' // defaultEndpointToHostAction
)

// Tag is what the kernel writes beside a packet that it logs (the prefix of NFLOG, at most 127 bytes),
// and by which who reads the log finds the reason in the Program.
type Tag struct {
	Action    model.Action // Deny; Log for a rule that logs
	Direction model.Direction
	Cause     Cause
	Name      uint64 // TagName of the ChainID (ByRule) or of the tier's name (ByTier); else 0
	Rule      int    // its Index (ByRule)
}

// TagName shortens the name of a chain or tier: the first bytes of its SHA-256, so that nobody finds a name
// that passes for another.
func TagName(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:])
}

// String prints a tag in less than 48 bytes, none of which means anything to a shell or to nft.
func (t Tag) String() string {
	return fmt.Sprintf("weft %d %d %c %016x %d", t.Action, t.Direction, t.Cause, t.Name, t.Rule)
}

// ParseTag reads what String printed. Anything else is an error, which names it.
func ParseTag(s string) (t Tag, err error) {
	var cause rune
	if _, err := fmt.Sscanf(s, "weft %d %d %c %x %d", &t.Action, &t.Direction, &cause, &t.Name, &t.Rule); err != nil {
		return Tag{}, fmt.Errorf("log prefix %q is not a tag of ours: %w", s, err)
	}
	t.Cause = Cause(cause)
	if t.String() != s {
		return Tag{}, fmt.Errorf("log prefix %q is not a tag of ours: it is not printed like that", s)
	}
	return t, nil
}

// TagNames finds names by what TagName made of them, for all chains and tiers of a Program.
func TagNames(p *Program) map[uint64]string {
	names := map[uint64]string{}
	add := func(s string) { names[TagName(s)] = s }
	for id := range p.Chains {
		add(string(id))
	}
	hook := func(h *Hook) {
		for i := range h.Tiers {
			add(h.Tiers[i].Name)
		}
	}
	for _, e := range p.Endpoints {
		hook(&e.Ingress)
		hook(&e.Egress)
	}
	for _, h := range p.Hosts {
		hook(&h.PreDNAT)
		for d := range directions {
			hook(&h.Untracked[d])
			hook(&h.Forward[d])
			hook(&h.Normal[d])
		}
	}
	return names
}
