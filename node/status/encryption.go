package status

import "time"

// PeersPath is where the node serves Peers.
const PeersPath = "peers"

// Encryption is where the node stands with encryption.
type Encryption struct {
	On bool `json:"on"`
	// Families are those of pods' addresses whose traffic is to be encrypted: "IPv4", "IPv6".
	Families []string `json:"families"`
	// Driver says who has the devices, "kernel" or "userspace"; empty: this host cannot have any.
	Driver string `json:"driver,omitempty"`
	Mode   string `json:"mode,omitempty"` // Required or Preferred; empty: off
	// KeyEpoch counts the rotations of the cluster's keys; OtherEpochs are those of the keys that this node has
	// devices of besides: traffic moves between them.
	KeyEpoch    int   `json:"keyEpoch"`
	OtherEpochs []int `json:"otherEpochs,omitempty"`
	// OnForGood tells that the rollout is over: what is to be encrypted never goes in clear again.
	OnForGood bool `json:"onForGood"`
	// Nodes counts the other nodes, Ready those that this node can reach by WireGuard with the current key.
	Nodes int `json:"nodes"`
	Ready int `json:"ready"`
	// Encrypted, Clear and Unreachable are other nodes with a path of an encrypted family: who has one that goes in
	// clear is in Clear, else who has one that leads nowhere in Unreachable, else in Encrypted. Sorted.
	Encrypted   []string `json:"encrypted"`
	Clear       []string `json:"clear"`
	Unreachable []string `json:"unreachable"`
	// Hosts is the same of what is sent to other nodes' own addresses; nil: that is not to be encrypted.
	Hosts *HostEncryption `json:"hosts,omitempty"`
	// RefusedOut and RefusedIn count packets in clear that the guard dropped; Error says why they cannot be read.
	RefusedOut uint64 `json:"refusedOut"`
	RefusedIn  uint64 `json:"refusedIn"`
	Error      string `json:"error,omitempty"`
}

// HostEncryption is how the own addresses of other nodes are reached; each node is in one of the lists, as in
// those of Encryption. Sorted.
type HostEncryption struct {
	Encrypted   []string `json:"encrypted"`
	Clear       []string `json:"clear"`
	Unreachable []string `json:"unreachable"`
}

// Peers is the document behind `weft peers`: GET /peers on the node's socket.
type Peers struct {
	Encryption Encryption       `json:"encryption"`
	Peers      []EncryptionPeer `json:"peers"`           // sorted by node, then device
	Error      string           `json:"error,omitempty"` // why a device could not be read
}

// EncryptionPeer is another node as a device of this node has it, or a node that no device has.
type EncryptionPeer struct {
	Node   string `json:"node"`             // empty: a peer that another program added
	Device string `json:"device,omitempty"` // empty: no device has the node
	Driver string `json:"driver,omitempty"` // of the device: kernel or userspace
	// KeyEpoch is that of the device's key.
	KeyEpoch  int    `json:"keyEpoch"`
	PublicKey string `json:"publicKey,omitempty"` // the peer's
	Endpoint  string `json:"endpoint,omitempty"`  // where the device sends to
	// LastHandshake is when keys were last agreed on; nil: never.
	LastHandshake *time.Time `json:"lastHandshake,omitempty"`
	Rx            uint64     `json:"rx"` // bytes, with the protocol's own
	Tx            uint64     `json:"tx"`
	AllowedIPs    []string   `json:"allowedIPs"`
	// Reach says how the prefixes of the node are reached that Why is about; none: nothing goes this way.
	Reach []string `json:"reach"`
	Why   []string `json:"why"` // sentences
	// Hosts are the node's own addresses that are reached by the device, or should be; Why has a sentence for each.
	Hosts []string `json:"hosts,omitempty"`
}
