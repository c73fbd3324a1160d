package status

import "time"

// Where the node serves BGPPeers and BGPRoutes.
const (
	BGPPeersPath  = "bgp/peers"
	BGPRoutesPath = "bgp/routes"
)

// BGP is where the node stands with BGP.
type BGP struct {
	On       bool   `json:"on"`            // it has sessions to keep
	Why      string `json:"why,omitempty"` // it has none
	ASN      uint32 `json:"asn,omitempty"`
	RouterID string `json:"routerID,omitempty"`
	// Established counts the sessions that are up, of Sessions.
	Established int `json:"established"`
	Sessions    int `json:"sessions"`
	// Advertised counts the prefixes that this node originates, Learned those that it knows from others.
	Advertised int `json:"advertised"`
	Learned    int `json:"learned"`
	// Problems are what resources of BGP ask for and cannot have, and sessions that are down, in sentences.
	Problems []string `json:"problems,omitempty"`
}

// BGPPeers is the document behind `weft bgp peers`: GET /bgp/peers on the node's socket.
type BGPPeers struct {
	BGP
	Peers []BGPPeer `json:"peers"`           // sorted by address
	Error string    `json:"error,omitempty"` // why the speaker could not be asked
}

// BGPPeer is one session.
type BGPPeer struct {
	Node    string `json:"node"`           // that has the session
	Address string `json:"address"`        // of the other end
	Peer    string `json:"peer,omitempty"` // the node at the other end, if it is one
	// Type is NodeMesh, NodePeer (a BGPPeer with a node or nodeSelector) or GlobalPeer; From is what asks for it.
	Type  string    `json:"type"`
	From  string    `json:"from,omitempty"`
	ASN   uint32    `json:"asn,omitempty"`
	State string    `json:"state"` // as RFC 4271 names it
	Since time.Time `json:"since,omitzero"`
	BFD   string    `json:"bfd,omitempty"`
	// Received, Accepted and Sent count prefixes; Flaps how often an established session ended.
	Received uint64 `json:"received"`
	Accepted uint64 `json:"accepted"`
	Sent     uint64 `json:"sent"`
	Flaps    uint64 `json:"flaps"`
	// Malformed counts messages of the peer that were refused, or taken for a withdrawal (RFC 7606).
	Malformed uint64 `json:"malformed"`
	// LastError says why the session is down, or ended last: what was tried and what to look at.
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
}

// BGPRoutes is the document behind `weft bgp routes`: GET /bgp/routes on the node's socket.
type BGPRoutes struct {
	Routes []BGPRoute `json:"routes"`          // sorted by prefix
	Error  string     `json:"error,omitempty"` // why the kernel could not be read
}

// BGPRoute is a prefix that this node originates, or the best route to one that it learned.
type BGPRoute struct {
	Prefix   string   `json:"prefix"`
	Origin   string   `json:"origin"` // Local or Learned
	NextHops []string `json:"nextHops,omitempty"`
	Peer     string   `json:"peer,omitempty"` // that it was learned from
	Priority uint32   `json:"priority,omitempty"`
	// Why says for what of this node it is originated, or why a learned one is not in the kernel.
	Why         string   `json:"why,omitempty"`
	Communities []string `json:"communities,omitempty"`
	// Installed tells whether the kernel's route of the prefix is this one; an originated one has none.
	Installed bool `json:"installed"`
	// Store tells that this node's route to the prefix is not this one but the store's: as it is with the blocks of other
	// nodes.
	Store bool `json:"store,omitempty"`
}
