package routing

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"weft/model"
)

// SpeakerInput is what a Speaker is compiled from. Nothing of it is changed.
type SpeakerInput struct {
	Self   model.NodeName
	Nodes  map[model.NodeName]*model.Node
	Pools  []model.Pool
	Blocks map[netip.Prefix]*model.Block
	BGP    model.BGP
	// Passwords are the Secrets that BGP names, as far as they could be read.
	Passwords map[model.SecretRef]Password
	// Reflects has this host reflect, wanted or not: those who see late that it is no reflector any more
	// rely on it still.
	Reflects bool
}

// families in the order in which everything is done.
var families = []model.Family{model.IPv4, model.IPv6}

// CompileSpeaker says what the BGP speaker of this host is to do:
//
// A session for each address family with every other node (the mesh), unless one of the two is a route
// reflector or there are so many nodes that some become reflectors by themselves (reflectors); and with
// everybody whom a BGPPeer names. Two nodes always agree about the session between them: who is passive
// (the one with the higher address), and the AS numbers. A BGPPeer goes before the reverse of another
// node's, which goes before the mesh; among several, the first by name, and the others are an error.
//
// Every session is filtered, first by rules that no resource can take away (imports, exports), then by
// its BGPFilters. A BGPFilter that does not exist refuses everything, and a session whose password cannot
// be read is left out.
//
// What this host announces is in adverts. The errors are joined, each naming its resource; the Speaker is
// good for everything else.
func CompileSpeaker(in SpeakerInput) (Speaker, error) {
	c := newSpeakerCompiler(&in)
	if c.self == nil || len(c.self.Addresses) == 0 {
		return Speaker{}, fmt.Errorf("node %s: no Node record with an address, so it speaks no BGP", in.Self)
	}
	s := Speaker{ASN: c.asn(c.self), RouterID: routerID(c.self), ListenPort: in.BGP.Port(in.Self), LogLevel: in.BGP.Config.LogLevel}
	if in.BGP.Config.BindNodeIP {
		for _, a := range c.self.Addresses {
			s.Listen = append(s.Listen, a.Addr())
		}
		slices.SortFunc(s.Listen, netip.Addr.Compare)
	}
	s.Sessions = c.sessions()
	if len(s.Sessions) == 0 {
		return Speaker{}, c.err() // nobody to speak with
	}
	s.Sets = slices.SortedFunc(maps.Values(c.sets), func(a, b PrefixSet) int { return cmp.Compare(a.Name, b.Name) })
	s.Advertisements = c.adverts()
	return s, c.err()
}

// speakerCompiler is one run of CompileSpeaker.
type speakerCompiler struct {
	in        *SpeakerInput
	self      *model.Node
	names     []model.NodeName // of Nodes, sorted
	byAddr    map[netip.Addr]*model.Node
	peers     []preparedPeer // sorted by name
	auto      automatic
	anyRouter bool           // with ShareLearned: some BGPPeer gives some node a router outside of the cluster
	services  []netip.Prefix // ranges of service addresses that may be announced, sorted
	held      map[model.NodeName][]netip.Prefix
	sets      map[string]PrefixSet
	doubles   map[[2]string]*double // of BGPPeers: the one in effect and the other
	errs      []error
}

func newSpeakerCompiler(in *SpeakerInput) *speakerCompiler {
	c := &speakerCompiler{in: in, self: in.Nodes[in.Self], names: slices.Sorted(maps.Keys(in.Nodes)),
		byAddr: map[netip.Addr]*model.Node{}, sets: map[string]PrefixSet{}, doubles: map[[2]string]*double{}}
	for _, name := range c.names {
		for _, a := range in.Nodes[name].Addresses {
			if first, taken := c.byAddr[a.Addr()]; taken {
				c.fail("node %s: address %v is that of node %s already, so nobody speaks BGP with it there", name, a.Addr(), first.Name)
			} else {
				c.byAddr[a.Addr()] = in.Nodes[name]
			}
		}
	}
	c.preparePeers()
	c.auto = c.automatic()
	c.anyRouter = in.BGP.Config.ShareLearned && slices.ContainsFunc(c.names, func(n model.NodeName) bool { return c.hasRouter(in.Nodes[n]) })
	c.services = c.serviceRanges()
	c.held = c.holders()
	return c
}

func (c *speakerCompiler) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *speakerCompiler) err() error {
	for k, d := range c.doubles {
		more := ""
		if d.count > 1 {
			more = fmt.Sprintf(" and %d more", d.count-1)
		}
		c.fail("BGPPeer %s: node %s has peer %s%s by BGPPeer %s already, which is in effect", k[1], c.in.Self, d.first, more, k[0])
	}
	slices.SortFunc(c.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(c.errs...)
}

// double counts the peers that two BGPPeers share.
type double struct {
	first string
	count int
}

func (c *speakerCompiler) noteDouble(winner, loser, peer string) {
	k := [2]string{winner, loser}
	if c.doubles[k] == nil {
		c.doubles[k] = &double{first: peer}
	}
	c.doubles[k].count++
}

// asn returns the node's AS number.
func (c *speakerCompiler) asn(n *model.Node) uint32 { return cmp.Or(n.BGP.ASN, c.in.BGP.Config.ASN) }

// routerID is the node's IPv4 address; where it has none, 32 bits of its name that are no 0.
func routerID(n *model.Node) netip.Addr {
	if a, ok := n.Address(model.IPv4); ok {
		return a.Addr()
	}
	h := hashName("router id", n.Name)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(h)|1)
	return netip.AddrFrom4(b)
}

// hashName spreads names evenly, for every host the same.
func hashName(purpose string, n model.NodeName) uint64 {
	sum := sha256.Sum256([]byte(purpose + "\x00" + string(n)))
	return binary.BigEndian.Uint64(sum[:])
}

// holders returns what each node may announce of its own: its blocks, and the addresses that it uses
// of others' blocks; only within pools that are advertised. Sorted.
func (c *speakerCompiler) holders() map[model.NodeName][]netip.Prefix {
	held := map[model.NodeName][]netip.Prefix{}
	for cidr, b := range c.in.Blocks {
		if !c.advertised(cidr) {
			continue
		}
		if b.Node != "" {
			held[b.Node] = append(held[b.Node], cidr)
		}
		for a, n := range b.Borrowed {
			if cidr.Contains(a) && n != b.Node {
				held[n] = append(held[n], model.HostPrefix(a))
			}
		}
	}
	for n := range held {
		slices.SortFunc(held[n], comparePrefix)
		held[n] = slices.Compact(held[n])
	}
	return held
}

// advertised tells whether the smallest pool that holds p is advertised.
func (c *speakerCompiler) advertised(p netip.Prefix) bool {
	best, yes := -1, false
	for i := range c.in.Pools {
		pool := &c.in.Pools[i]
		if contains(pool.CIDR, p) && pool.CIDR.Bits() > best {
			best, yes = pool.CIDR.Bits(), !pool.Unadvertised
		}
	}
	return yes
}

// contains tells whether p is q or within q.
func contains(q, p netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
