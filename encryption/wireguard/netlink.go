package wireguard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/encryption"
	"weft/internal/kernel"
	"weft/model"
)

// netlinkControl configures the kernel's devices, by generic netlink in the driver's network namespace.
type netlinkControl struct {
	h  *kernel.Handle
	mu sync.Mutex
	c  *wgctrl.Client
}

// client opens the socket late: where the module is not loaded yet, the first device loads it.
func (n *netlinkControl) client() (*wgctrl.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		return n.c, nil
	}
	err := n.h.Do(func() (err error) {
		n.c, err = wgctrl.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the kernel's WireGuard socket: %w", err)
	}
	return n.c, nil
}

func (n *netlinkControl) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		_ = n.c.Close()
		n.c = nil
	}
}

func (n *netlinkControl) read(ctx context.Context, name string) (*state, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := n.client()
	if err != nil {
		return nil, err
	}
	d, err := c.Device(name)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			n.close() // its family may have come after the socket
		}
		return nil, fmt.Errorf("read WireGuard device %s: %w", name, err)
	}
	s := &state{port: d.ListenPort, fwmark: uint32(d.FirewallMark), peers: make(map[model.PublicKey]peerState, len(d.Peers))}
	if d.PrivateKey != (wgtypes.Key{}) {
		if s.key, err = encryption.NewPrivateKey(d.PrivateKey); err != nil {
			return nil, err
		}
	}
	for i := range d.Peers {
		p := &d.Peers[i]
		have := peerState{
			keepalive: int(p.PersistentKeepaliveInterval / time.Second), handshake: p.LastHandshakeTime,
			rx: uint64(p.ReceiveBytes), tx: uint64(p.TransmitBytes), preshared: p.PresharedKey != (wgtypes.Key{}),
		}
		if p.Endpoint != nil {
			have.endpoint = unmapped(p.Endpoint.AddrPort())
		}
		for _, a := range p.AllowedIPs {
			have.allowed = append(have.allowed, prefixOf(a))
		}
		sortPrefixes(have.allowed)
		s.peers[model.PublicKey(p.PublicKey)] = have
	}
	return s, nil
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func prefixOf(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, total := n.Mask.Size()
	if a = a.Unmap(); a.Is4() && total == 128 {
		bits -= 96
	}
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// write turns drops into moves: kernels before 6.16 cannot take one prefix away from a peer, only all and
// give the others back, and packets would be lost meanwhile. So the prefix goes to a peer that nobody is,
// which is then removed.
func (n *netlinkControl) write(ctx context.Context, name string, _ uint64, c change) (uint64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	client, err := n.client()
	if err != nil {
		return 0, false, err
	}
	cfg := wgtypes.Config{ListenPort: c.port}
	if c.key != nil {
		key := wgtypes.Key(c.key.Bytes())
		cfg.PrivateKey = &key
	}
	if c.fwmark != nil {
		mark := int(*c.fwmark)
		cfg.FirewallMark = &mark
	}
	var nobody wgtypes.PeerConfig
	for _, p := range c.peers {
		cfg.Peers = append(cfg.Peers, p.config())
		for _, d := range p.drop {
			nobody.AllowedIPs = append(nobody.AllowedIPs, ipNet(d))
		}
	}
	if len(nobody.AllowedIPs) > 0 {
		_, _ = rand.Read(nobody.PublicKey[:])
		cfg.Peers = append(cfg.Peers, nobody, wgtypes.PeerConfig{PublicKey: nobody.PublicKey, Remove: true, UpdateOnly: true})
	}
	for _, part := range parts(cfg) {
		if err := client.ConfigureDevice(name, part); err != nil {
			return 0, false, fmt.Errorf("configure WireGuard device %s: %w", name, err)
		}
	}
	return 0, false, nil
}

// parts splits a configuration where it comes to a peer for the second time: of those the library passes on
// allowed addresses only, when it makes several messages.
func parts(cfg wgtypes.Config) []wgtypes.Config {
	var out []wgtypes.Config
	seen := map[wgtypes.Key]bool{}
	first := 0
	for i, p := range cfg.Peers {
		if !seen[p.PublicKey] {
			seen[p.PublicKey] = true
			continue
		}
		part := cfg
		part.Peers = cfg.Peers[first:i]
		out = append(out, part)
		cfg.PrivateKey, cfg.ListenPort, cfg.FirewallMark = nil, nil, nil
		first, seen = i, map[wgtypes.Key]bool{p.PublicKey: true}
	}
	cfg.Peers = cfg.Peers[first:]
	return append(out, cfg)
}

func (p peerChange) config() wgtypes.PeerConfig {
	cfg := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.key), Remove: p.remove, UpdateOnly: p.remove, Endpoint: udpAddr(p.endpoint)}
	if p.keepalive != nil {
		d := time.Duration(*p.keepalive) * time.Second
		cfg.PersistentKeepaliveInterval = &d
	}
	if p.unshare {
		cfg.PresharedKey = &wgtypes.Key{}
	}
	for _, a := range p.add {
		cfg.AllowedIPs = append(cfg.AllowedIPs, ipNet(a))
	}
	return cfg
}
