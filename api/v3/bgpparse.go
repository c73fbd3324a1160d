package v3

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParsePeerIP reads the address of a BGP peer with a port or without, which is 0 then: "192.0.2.1",
// "192.0.2.1:1179", "2001:db8::1", "[2001:db8::1]:1179". A link-local address has a zone, which is the
// interface it is on.
func ParsePeerIP(s string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a, 0, checkPeerAddr(a)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.Addr{}, 0, fmt.Errorf("want an address, or one with a port from 1 to 65535, such as 192.0.2.1:1179 or [2001:db8::1]:1179")
	}
	return ap.Addr(), ap.Port(), checkPeerAddr(ap.Addr())
}

func checkPeerAddr(a netip.Addr) error {
	switch {
	case a.Is4In6():
		return fmt.Errorf("want an IPv4 address as such: %s", a.Unmap())
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("want the address of one router")
	case a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "":
		return fmt.Errorf("want the interface that it is on, too, such as %s%%eth0", a)
	case a.Zone() != "" && (!a.IsLinkLocalUnicast() || !isName(a.Zone(), maxInterfaceName)):
		return fmt.Errorf("only a link-local address has an interface behind %%")
	}
	return nil
}

// ParseCommunity reads a BGP community, aa:nn with 16 bits each (RFC 1997) or aa:nn:mm with 32 bits each
// (RFC 8092), and returns it without leading zeros.
func ParseCommunity(s string) (string, error) {
	parts := strings.Split(s, ":")
	bits := 16
	if len(parts) == 3 {
		bits = 32
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil || len(parts) < 2 || len(parts) > 3 {
			return "", fmt.Errorf("want a community: two numbers from 0 to 65535 such as 64512:100, or three from 0 to 4294967295 such as 64512:1:100")
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), nil
}
