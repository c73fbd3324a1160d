package policy

import (
	"net/netip"
	"slices"

	"weft/model"
)

// Program is what this node enforces. Its zero value enforces nothing, and knows no interface.
//
// A Program that a Compiler handed out is the Compiler's own, which changes it in Flush and at no
// other time. Nobody else does. Clone keeps one for longer.
type Program struct {
	Sets   map[SetID]*Set
	Chains map[ChainID]*Chain
	// Endpoints are this node's pods by device. A pod's device without an entry must be dropped.
	Endpoints map[string]*Endpoint
	// Hosts are this node's interfaces with a host endpoint, by name. "*" is for all others that
	// are not pods'.
	Hosts  map[string]*Host
	Config model.PolicyConfig
	// Carriers are what Hosts let pass from and to other nodes, whose addresses are in the sets
	// PeersOf, and what is not tracked between those and Local; sorted, and empty without Hosts and Local.
	Carriers []model.Carrier
	Local    []netip.Addr // see model.Overlay; sorted
}

// SetKind is what a set is made of.
type SetKind uint8

// The kinds of sets.
const (
	Selected     SetKind = iota + 1 // prefixes of what Selector selects
	NamedPort                       // address, protocol and number of the ports named Name of endpoints that Selector selects
	ServicePorts                    // address, protocol and port of the endpoints of service Name
	ServiceAddrs                    // addresses of the endpoints of service Name
	Peers                           // addresses of the other nodes
)

// SetID names a set by its meaning. The same meaning is the same set, whoever asks for it.
type SetID struct {
	Kind     SetKind
	Family   model.Family
	Selector string // canonical
	Name     string
	Local    bool // only this node's endpoints (NamedPort)
	// Staged sets serve staged policies only; a driver has no use for them.
	Staged bool
}

// PeersOf names the set of the other nodes' addresses of a family.
func PeersOf(f model.Family) SetID { return SetID{Kind: Peers, Family: f} }

// HasPorts tells whether the members are of address, protocol and port; otherwise of prefixes.
func (id SetID) HasPorts() bool { return id.Kind == NamedPort || id.Kind == ServicePorts }

// Member is an element of a set: a prefix; or in sets that HasPorts a single address, protocol and
// port. Prefixes of one set may overlap (network sets do); Cover makes them disjoint.
type Member struct {
	Prefix   netip.Prefix
	Protocol model.Protocol
	Port     uint16
}

// ChainID names a chain: "GlobalNetworkPolicy allow-dns egress", "Profile kns.shop ingress".
type ChainID string

// PolicyChain names the chain of a policy in one direction.
func PolicyChain(id model.PolicyID, d model.Direction) ChainID {
	return ChainID(id.String() + " " + d.String())
}

// ProfileChain names the chain of a profile in one direction.
func ProfileChain(name string, d model.Direction) ChainID {
	return ChainID("Profile " + name + " " + d.String())
}

// Chain is the rules of one policy or profile in one direction. They are asked in order: Allow and
// Deny end, Pass leaves the tier, Log goes on; so does the end of the chain.
type Chain struct {
	ID     ChainID
	Staged bool // of a staged policy: for display, not for a driver
	Rules  []Rule
}

// Rule is a rule with everything resolved: a packet that fulfils all of it is matched. Rules that
// nothing can fulfil are left out of their chain.
type Rule struct {
	Index       int // in the list of the resource, from 0; a rule split by family occurs twice
	Action      model.Action
	Family      model.Family // 0: both; then the rule has no prefix and no set
	Protocol    model.Protocol
	NotProtocol model.Protocol
	ICMP        *model.ICMPMatch // Family and Protocol fit it
	NotICMP     *model.ICMPMatch
	Src, Dst    Match
}

// Match is what a rule asks of one end. All lists are sorted and empty when nothing is asked,
// except that Ports is nil when any port will do.
type Match struct {
	Nets     []netip.Prefix // in one of these; disjoint
	NotNets  []netip.Prefix // in none of these; disjoint
	In       []SetID        // in each of these sets of prefixes
	NotIn    []SetID        // in none
	Ports    *Ports         // in one of these
	NotPorts *Ports         // in none of these
}

// Ports are port numbers, or named: the end is one of them when its port is in a range, or when
// its address, the protocol and its port are in a set.
type Ports struct {
	Ranges []model.PortRange // disjoint, not adjacent
	Sets   []SetID
}

// Tier is what one tier asks of a packet.
type Tier struct {
	Name     string
	Policies []ChainID // in order, none of them staged
	// Default is for a packet that none of Policies decided: Deny, or Pass to go on with the next
	// tier. In a tier without Policies, and in Host's untracked and pre-DNAT tiers, it is Pass.
	Default model.Action
	// For display only: staged policies, and what Default would be if they were enforced.
	Staged        []Staged
	StagedDefault model.Action
}

// Staged is a staged policy's place in a tier: before Policies[Before].
type Staged struct {
	Chain  ChainID
	Before int
}

// Hook is what is asked of a packet in one direction: the tiers, then the profiles. What none
// decides is dropped at a pod and at a host's own traffic.
type Hook struct {
	Tiers    []Tier
	Profiles []ChainID
}

// Endpoint is a pod of this node.
type Endpoint struct {
	Device  string
	ID      model.EndpointID
	MAC     model.MAC
	Sources []netip.Prefix // that it may send from; sorted
	Ingress Hook           // what is sent to it
	Egress  Hook           // what it sends
}

// Host is an interface of this node with a host endpoint. Packets meet Untracked, then PreDNAT
// (ingress only), then Forward when they go on to elsewhere or come from there, else Normal.
// Allow in the first two decides for the host endpoint. Failsafe ports are not asked at Untracked
// and PreDNAT, nor at Untracked what they answer, and are allowed at Normal. So are, at Normal, the
// Program's Carriers between this node's addresses and other nodes'.
//
// What Untracked and PreDNAT do not decide goes on; what Forward does not decide is allowed; what
// Normal does not decide is dropped. Only Normal has profiles.
type Host struct {
	Interface string
	Name      string // of the HostEndpoint
	Untracked [2]Hook
	PreDNAT   Hook
	Forward   [2]Hook
	Normal    [2]Hook // by model.Direction, as Untracked and Forward
}

// Update is the outcome of a change: the Program, and how it differs from the one before.
type Update struct {
	Program    *Program
	Delta      Delta
	Generation uint64 // of Program; from 1
}

// Delta is the net difference of two Programs of one Compiler. A driver that applied generation
// Base applies the Delta; any other, and one whose last Apply failed, applies the Program. Lists are
// sorted. Content is in the Program, except of what is gone.
type Delta struct {
	Base          uint64
	SetsAdded     []SetID // with all their members
	SetsRemoved   []SetID
	Members       []MemberDelta // of sets that were there before and still are
	ChainsChanged []ChainID     // new or different
	ChainsRemoved []ChainID
	PodsChanged   []string // devices
	PodsRemoved   []string
	HostsChanged  []string // interfaces
	HostsRemoved  []string
	ConfigChanged bool // or the Carriers or Local did
}

// MemberDelta is how the members of one set changed. The lists are disjoint and in no order.
type MemberDelta struct {
	Set            SetID
	Added, Removed []Member
}

// Empty tells whether nothing changed.
func (d *Delta) Empty() bool {
	return len(d.SetsAdded)+len(d.SetsRemoved)+len(d.Members)+len(d.ChainsChanged)+len(d.ChainsRemoved)+
		len(d.PodsChanged)+len(d.PodsRemoved)+len(d.HostsChanged)+len(d.HostsRemoved) == 0 && !d.ConfigChanged
}

// newProgram returns a Program without content.
func newProgram() *Program {
	return &Program{Sets: map[SetID]*Set{}, Chains: map[ChainID]*Chain{}, Endpoints: map[string]*Endpoint{}, Hosts: map[string]*Host{}}
}

// EachSet calls f for every set that the rule refers to. A member of one that is not positive is what the
// rule does not match.
func (r *Rule) EachSet(f func(id SetID, positive bool)) {
	for _, m := range []*Match{&r.Src, &r.Dst} {
		for i, ids := range [][]SetID{m.In, m.Ports.sets(), m.NotIn, m.NotPorts.sets()} {
			for _, id := range ids {
				f(id, i < 2)
			}
		}
	}
}

// RefersTo tells whether the rule refers to a set that is among those.
func (r *Rule) RefersTo(among func(SetID) bool) (found bool) {
	r.EachSet(func(id SetID, _ bool) { found = found || among(id) })
	return found
}

func (p *Ports) sets() []SetID {
	if p == nil {
		return nil
	}
	return p.Sets
}

func (h *Hook) equal(o *Hook) bool {
	return slices.Equal(h.Profiles, o.Profiles) && slices.EqualFunc(h.Tiers, o.Tiers, func(a, b Tier) bool {
		return a.Name == b.Name && a.Default == b.Default && a.StagedDefault == b.StagedDefault && slices.Equal(a.Policies, b.Policies) && slices.Equal(a.Staged, b.Staged)
	})
}
