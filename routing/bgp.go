package routing

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
)

// Speaker is what the BGP speaker of this host is to do. The zero Speaker means that none is to run.
type Speaker struct {
	ASN        uint32
	RouterID   netip.Addr // IPv4; the cluster id of reflected routes is the session's
	ListenPort uint16
	LogLevel   model.LogLevel // least of what the process logs
	Listen     []netip.Addr   // empty: all addresses
	Sessions   []Session      // sorted by Peer
	// Advertisements are what this host originates, sorted by Prefix.
	Advertisements []Advertisement
	// Sets are what FilterRule.Set names, sorted by Name. A changed set, as any changed filter, is asked
	// again about what was refused before: a peer may announce a block a moment before the store tells of it.
	Sets []PrefixSet
}

// PrefixSet is a set of prefixes: those in Exact, those equal to or within one of Within, and those that
// contain one of Covers or are equal to it. Each list is sorted and has both families.
type PrefixSet struct {
	Name   string
	Exact  []netip.Prefix
	Within []netip.Prefix
	Covers []netip.Prefix
}

// Session is one BGP session (RFC 4271) of one address family: the family of the peer's address.
type Session struct {
	Name     string     // of the node or BGPPeer it comes from, as errors and status name it
	Mesh     bool       // between two nodes of the cluster, without a BGPPeer
	Node     string     // the cluster's node at the other end; empty: a router outside
	Peer     netip.Addr // with a zone where it is link-local
	Port     uint16
	ASN      uint32     // of the peer
	LocalASN uint32     // that this host shows to the peer
	Source   netip.Addr // invalid: as the kernel chooses
	Passive  bool       // the other end connects
	// Gateway is the way to a peer that is not on a link of this host; invalid for none.
	Gateway netip.Addr

	// ReflectorClient (RFC 4456) lets this host reflect to the peer what it learned within the AS, as far as Export
	// lets it pass.
	ReflectorClient bool
	ClusterID       netip.Addr // in dotted form; only where ReflectorClient
	NextHop         NextHop

	Password         Password // of TCP-MD5 (RFC 2385); empty for none
	TTLSecurityHops  uint8    // GTSM (RFC 5082); 0 is off
	AllowedLocalAS   uint8    // how often the own AS may be in a path that is accepted
	RestartSeconds   uint16   // graceful restart (RFC 4724); 0 is off
	HoldSeconds      uint16
	KeepaliveSeconds uint16
	MaxPrefixes      uint32 // more than these end the session; 0 is no limit
	BFD              BFD

	Import []FilterRule // the first that matches decides; none that does accepts
	Export []FilterRule
}

// Password shows itself in no text; string(p) is what it is.
type Password string

// Format prints that there is one, whatever the verb.
func (p Password) Format(f fmt.State, _ rune) {
	if p != "" {
		_, _ = f.Write([]byte("[redacted]"))
	}
}

// MarshalText is for JSON, YAML and slog.
func (p Password) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%v", p), nil }

// NextHop says which next hop this host tells a peer of routes that it did not originate.
type NextHop int

// The next hops of BGPPeer.spec.nextHopMode.
const (
	NextHopAuto NextHop = iota // kept towards the own AS, this host's towards another
	NextHopSelf
	NextHopKeep
)

// BFD is single-hop asynchronous Bidirectional Forwarding Detection (RFC 5880, RFC 5881). The zero BFD is off.
type BFD struct {
	IntervalMillis uint32 // of what is sent, and the least of what is received
	Multiplier     uint8
}

// FilterRule is one rule of a BGPFilter. All of its conditions must hold; an absent one does.
type FilterRule struct {
	Accept bool
	By     string // BGPFilter and position, or what of ours it is: for status and plans

	CIDR  netip.Prefix // invalid: any
	Match MatchOperator
	// MinLength and MaxLength bound the prefix length in bits; a MaxLength of 0 is no bound.
	MinLength, MaxLength int

	Set      string // name of a Speaker.Sets that the route's prefix is in; empty: any
	NotInSet bool   // with Set: that it is not in

	RemotePeers bool           // only what was learned by BGP
	Internal    bool           // in Export, with RemotePeers: only what was learned by a session within the AS
	Interface   string         // of the kernel's route, with * as wildcard; empty: any
	EBGP, IBGP  bool           // only of such a session; neither: any
	Community   string         // canonical aa:nn or aa:nn:mm; empty: any
	ASPath      []uint32       // the path begins so; empty: any
	Priority    uint32         // metric of the kernel's route, 2147483647 less local preference; 0: any
	Operations  []FilterAction // only where Accept
}

// MatchOperator compares a route's prefix with FilterRule.CIDR.
type MatchOperator int

// The match operators of BGPFilter.
const (
	MatchEqual MatchOperator = iota
	MatchNotEqual
	MatchIn
	MatchNotIn
)

// FilterAction changes an accepted route; exactly one field is set.
type FilterAction struct {
	AddCommunity  string
	PrependASPath []uint32
	SetPriority   uint32 // metric of the kernel's route; local preference is 2147483647 less it
}

// Advertisement is a prefix that this host originates.
type Advertisement struct {
	Prefix      netip.Prefix
	NextHop     netip.Addr // invalid: this host's address on the session
	Communities []string   // canonical, sorted
	Service     bool       // of services: no route, but the service proxy, serves what comes
	Why         string
}

// Learned is a best route of the speaker with what other routers said of it.
type Learned struct {
	Prefix netip.Prefix
	*Way
}

// Way is how a prefix is reached. Many routes share one, which may not be changed.
type Way struct {
	NextHops []netip.Addr // sorted; several are equally good (ECMP)
	Peer     netip.Addr   // that the first came from
	Priority uint32       // metric for the kernel; 0 is the default of the family
}

// Equal tells whether both are the same way.
func (w *Way) Equal(o *Way) bool {
	return w == o || w != nil && o != nil && w.Peer == o.Peer && w.Priority == o.Priority && slices.Equal(w.NextHops, o.NextHops)
}
