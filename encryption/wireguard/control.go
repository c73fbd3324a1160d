package wireguard

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"weft/encryption"
	"weft/model"
)

// state is what a device holds, as far as it was configured.
type state struct {
	key    encryption.PrivateKey
	port   int
	fwmark uint32
	peers  map[model.PublicKey]peerState
	// revision is of the process's configuration; the kernel's device has none.
	revision uint64
}

type peerState struct {
	endpoint  netip.AddrPort
	allowed   []netip.Prefix // sorted
	keepalive int            // seconds
	handshake time.Time      // the last one; zero is none
	rx, tx    uint64         // bytes
	preshared bool
}

// change is what is written to a device; nil and empty fields leave what is there.
type change struct {
	key    *encryption.PrivateKey
	port   *int
	fwmark *uint32
	peers  []peerChange
}

func (c change) empty() bool {
	return c.key == nil && c.port == nil && c.fwmark == nil && len(c.peers) == 0
}

// peerChange adds or changes a peer, or removes it.
type peerChange struct {
	key       model.PublicKey
	node      model.NodeName // for errors; empty where no plan knows the peer
	added     bool           // it was not there
	remove    bool
	unshare   bool // takes a preshared key away that somebody gave it
	endpoint  netip.AddrPort
	keepalive *int
	// add are prefixes that the peer gets, from whichever peer has them; drop those that nobody has then.
	add, drop []netip.Prefix
}

// control configures the device called name.
type control interface {
	read(ctx context.Context, name string) (*state, error)
	// write applies a change in its order and returns the revision since; foreign tells that somebody
	// else changed the device as well since the revision before.
	write(ctx context.Context, name string, before uint64, c change) (revision uint64, foreign bool, err error)
	close()
}

func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if !a.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(a)
}

func comparePrefixes(a, b netip.Prefix) int { return a.Compare(b) }

func sortPrefixes(p []netip.Prefix) []netip.Prefix {
	slices.SortFunc(p, comparePrefixes)
	return p
}
