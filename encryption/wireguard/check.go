package wireguard

import (
	"errors"
	"fmt"
	"net/netip"

	"weft/encryption"
	"weft/encryption/wireguard/userspace"
	"weft/model"
)

// maxKeepalive is the largest interval that the protocol's configuration has room for, in seconds.
const maxKeepalive = 65535

func checkDevice(d *encryption.Device) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("WireGuard device %s: %w", d.Name, fmt.Errorf(format, args...))
	}
	if err := userspace.CheckDevice(d.Name); err != nil {
		return err
	}
	switch {
	case d.Key.IsZero():
		return fail("it has no private key")
	case d.Port < 1 || d.Port > 65535:
		return fail("UDP port %d: want 1 to 65535", d.Port)
	case d.MTU < 576 || d.MTU > 65535-32:
		return fail("MTU %d bytes: want 576 to 65503", d.MTU)
	}
	return nil
}

// checkDevices refuses devices that cannot be, or not beside one another.
func checkDevices(devices []encryption.Device) (good []*encryption.Device, err error) {
	var errs []error
	names, ports := map[string]bool{}, map[int]string{}
	for i := range devices {
		d := &devices[i]
		err := checkDevice(d)
		switch other := ports[d.Port]; {
		case err != nil:
		case names[d.Name]:
			err = fmt.Errorf("WireGuard device %s is in the plan twice", d.Name)
		case other != "":
			err = fmt.Errorf("WireGuard device %s: device %s has UDP port %d already", d.Name, other, d.Port)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names[d.Name], ports[d.Port] = true, d.Name
		good = append(good, d)
	}
	return good, errors.Join(errs...)
}

// checkPeer tells why a device cannot have a peer. Of two with one key neither is believed; of two with one
// prefix, the first by name has it.
func checkPeer(p *encryption.Peer, own model.PublicKey, twice *encryption.Peer, owners map[netip.Prefix]*encryption.Peer) error {
	switch {
	case p.Key == model.PublicKey{}:
		return errors.New("it has no public key")
	case p.Key == own:
		return errors.New("its public key is this node's: no two nodes may have one key; remove the key file of one of them")
	case twice != nil:
		return fmt.Errorf("node %s has the same public key, or more nodes: no two may; remove the key file of all but one", twice.Node)
	case p.Endpoint.IsValid() && (p.Endpoint.Port() == 0 || p.Endpoint.Addr().IsUnspecified() || p.Endpoint.Addr().Is4In6()):
		return fmt.Errorf("its endpoint %v is no address and port to send to", p.Endpoint)
	case p.Keepalive < 0 || p.Keepalive > maxKeepalive:
		return fmt.Errorf("its keepalive of %d s: want 0 to %d", p.Keepalive, maxKeepalive)
	}
	for i, a := range p.AllowedIPs {
		switch {
		case !a.IsValid() || a != a.Masked() || a.Addr().Is4In6():
			return fmt.Errorf("its allowed address %v is no network prefix", a)
		case i > 0 && a == p.AllowedIPs[i-1]:
			return fmt.Errorf("its allowed address %v is there twice", a)
		case owners[a] != nil:
			return fmt.Errorf("its allowed address %v is also node %s's: two peers cannot have one prefix", a, owners[a].Node)
		}
	}
	return nil
}
