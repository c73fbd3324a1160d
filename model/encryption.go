package model

import (
	"encoding/base64"
	"fmt"
	"math"
)

// PublicKey is a Curve25519 public key, as WireGuard uses it. Its zero value means "none".
type PublicKey [32]byte

// String prints the key in base64, as wg(8) does.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParsePublicKey reads what String prints. A key of zeros, which is nobody's, is refused.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(PublicKey{}) {
		return PublicKey{}, fmt.Errorf("public key %.60q: want 32 bytes in base64, as wg genkey | wg pubkey prints", s)
	}
	k := PublicKey(b)
	if k == (PublicKey{}) {
		return PublicKey{}, fmt.Errorf("public key %q is all zero: no node has that", s)
	}
	return k, nil
}

// NodeKey is a public key that a node published. A rotation begins a new epoch, with devices and keys
// of its own, so that both are accepted while traffic moves from one to the other.
type NodeKey struct {
	Epoch int
	Key   PublicKey
}

// EncryptionConfig is the part of FelixConfiguration that is about encryption.
type EncryptionConfig struct {
	// Enabled is by the family of the pods' addresses (wireguardEnabled, wireguardEnabledV6).
	Enabled4, Enabled6 bool
	// Preferred lets traffic to nodes without a key go in clear, as Calico does; otherwise
	// (encryptionMode Required) it goes in clear only until the rollout is over.
	Preferred bool
	Host      bool // wireguardHostEncryptionEnabled: node addresses, too
	Port4     int  // UDP, of the device over IPv4 (wireguardListeningPort)
	Port6     int  // of the one over IPv6 (wireguardListeningPortV6)
	// Epoch counts the rotations of the cluster's keys.
	Epoch     int
	Keepalive int  // wireguardKeepAlive, seconds; 0: none, but to nodes behind NAT
	Threading bool // wireguardThreadingEnabled: NAPI threads of the kernel's device
	// Priority is that of the rule which leads to encrypted node addresses (wireguardRoutingRulePriority).
	Priority int
	// Mark is on what the devices send, so that this rule passes it by; 0: none.
	Mark uint32
	// MTU of the devices in bytes; 0 computes (wireguardMTU, wireguardMTUV6).
	MTU4, MTU6 int
}

// Enabled tells whether pods' traffic of a family is to be encrypted.
func (c EncryptionConfig) Enabled(f Family) bool {
	if f == IPv6 {
		return c.Enabled6
	}
	return c.Enabled4
}

// Any tells whether anything is to be encrypted.
func (c EncryptionConfig) Any() bool { return c.Enabled4 || c.Enabled6 }

// Port returns the UDP port of the device over an underlay of a family in an epoch: every second epoch
// has a port two higher, since the devices of two epochs work side by side; or lower, where there is none.
func (c EncryptionConfig) Port(f Family, epoch int) int {
	port := c.Port4
	if f == IPv6 {
		port = c.Port6
	}
	if port > math.MaxUint16-2 {
		return port - 2*(epoch&1)
	}
	return port + 2*(epoch&1)
}

// EncryptionState is what this node remembers of the rollout.
type EncryptionState struct {
	// Over: every node is ready to encrypt, or the grace period has passed.
	Over bool
	// Seen are the nodes that have had a key since encryption was enabled: they are never again
	// reached in clear.
	Seen map[NodeName]bool
	// Hosts are the nodes whose own addresses were reached in cipher text since that was switched on: they are never
	// again reached in clear.
	Hosts map[NodeName]bool
	// Refused are the nodes that go on sending in clear for longer than a change of settings takes to
	// get around.
	Refused map[NodeName]bool
	// Met are those that answered this node's device of an end, so that what is sent there arrives; nil
	// when that is not known.
	Met map[Meeting]bool
}

// Meeting is a node and the end of WireGuard that it was met at.
type Meeting struct {
	Node NodeName
	End  TunnelEnd
}
