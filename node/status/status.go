// Package status is what a node says about itself: the Status document behind `weft status`,
// conditions with reasons, health checks and metrics. It owns no decisions.
package status

import "time"

// SocketName is the file name, in the node's run directory, of the Unix socket that serves
// Status, plans, health and metrics over HTTP to root on the same host.
const SocketName = "node.sock"

// Status is one node's account of itself: GET /status on its socket.
type Status struct {
	Node        string    `json:"node"`
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Address     string    `json:"address"`    // underlay address with prefix length
	AddressWhy  string    `json:"addressWhy"` // how it was found
	Uplink      string    `json:"uplink"`     // interface that carries Address
	Datastore   Datastore `json:"datastore"`
	PodMTU      int       `json:"podMTU"` // bytes
	PodMTUWhy   string    `json:"podMTUWhy"`
	Peers       []Peer    `json:"peers"`
	Tunnels     []Tunnel  `json:"tunnels"`
	Endpoints   int       `json:"endpoints"` // local pods
	Policy      Policy    `json:"policy"`
	Problems    []string  `json:"problems,omitempty"`   // sentences
	LastErrors  []Error   `json:"lastErrors,omitempty"` // newest first, of each driver its last
	Ready       bool      `json:"ready"`
	Checks      []Check   `json:"checks"`
	Repairs     uint64    `json:"repairs"` // kernel objects put back since the start
	LastApplied time.Time `json:"lastApplied"`

	// NotAccepted are the resources of the cluster that are not honoured, all of them, sorted.
	NotAccepted []NotAccepted `json:"notAccepted,omitempty"`

	Encryption *Encryption `json:"encryption,omitempty"` // nil before the first run
	BGP        *BGP        `json:"bgp,omitempty"`        // nil: the node speaks no BGP
}

// NotAccepted is a resource that is not honoured, or not all of it.
type NotAccepted struct {
	Resource string `json:"resource"` // "NetworkPolicy default/a"
	Reason   string `json:"reason"`   // of the condition Accepted
	Message  string `json:"message"`  // what is wrong, what is done instead, what to do
}

// Policy is where the node stands with network policy.
type Policy struct {
	Driver     string   `json:"driver"`     // "nftables"; empty: not enforced
	Generation uint64   `json:"generation"` // of the program that the store's resources make
	Programmed uint64   `json:"programmed"` // of the one that is in the kernel
	Policies   int      `json:"policies"`   // that select something of this node
	Pods       int      `json:"pods"`       // that have a program
	Hosts      int      `json:"hosts"`      // interfaces with a host endpoint
	Chains     int      `json:"chains"`
	Sets       int      `json:"sets"`
	Offload    string   `json:"offload,omitempty"`  // what flow offload does, or why it does nothing; empty: nobody asks for it
	Isolated   []string `json:"isolated,omitempty"` // pods that nothing passes to or from, as nobody knows what they are
	Error      string   `json:"error,omitempty"`    // of the last attempt
}

// Datastore is where the node stands with its store.
type Datastore struct {
	Kind  string `json:"kind"`  // "embedded etcd", "etcd"
	State string `json:"state"` // datastore.State
	Error string `json:"error,omitempty"`
}

// Peer is another node and the paths towards its prefixes.
type Peer struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Paths   []Path `json:"paths"`
}

// Path is how one prefix is reached.
type Path struct {
	Dst    string `json:"dst"`
	Reach  string `json:"reach"` // topology.Reach
	Via    string `json:"via,omitempty"`
	Device string `json:"device,omitempty"`
	MTU    int    `json:"mtu"`
	Why    string `json:"why"`
}

// Tunnel is a tunnel device of this node.
type Tunnel struct {
	Device string `json:"device"`
	Driver string `json:"driver"`
	Outer  string `json:"outer"` // "UDP 4789, VNI 4096"
	MTU    int    `json:"mtu"`
	Why    string `json:"why,omitempty"` // who asks for it, or what it waits for to go
}

// Error is the last failure of one part.
type Error struct {
	Part string    `json:"part"`
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Check is one line of /readyz?verbose.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}
