package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// conf6 is one IPv6 setting of an interface: its place in what the kernel tells (linux/ipv6.h,
// DEVCONF_*), its file below net/ipv6/conf/<device>, and the value.
type conf6 struct {
	index int
	file  string
	value int32
}

const (
	conf6Forwarding      = 0
	conf6AcceptRA        = 3
	conf6AcceptRedirects = 4
	conf6Disable         = 26
	iflaInet6Conf        = 2 // linux/if_link.h IFLA_INET6_CONF
)

// hostConf6 returns the settings of the host side.
func hostConf6(v6 bool) []conf6 {
	if !v6 {
		// Without an IPv6 address the pod has nothing to say in IPv6, so the host does not listen.
		return []conf6{{conf6Disable, "disable_ipv6", 1}}
	}
	return []conf6{
		{conf6AcceptRA, "accept_ra", 0}, // a pod is no router
		{conf6AcceptRedirects, "accept_redirects", 0},
		{conf6Forwarding, "forwarding", 1},
		{conf6Disable, "disable_ipv6", 0},
	}
}

// setHostConf6 gives the host side its IPv6 settings where it has others: have, by their DEVCONF_*
// index, nil without IPv6. The kernel takes each only as a file, and looking those up takes several
// times as long as to ask once which of them differ.
func (p *PodLinks) setHostConf6(device string, v6 bool, have []int32) error {
	if have == nil { // a host without IPv6: switching it off is done already
		if v6 {
			return fmt.Errorf("set up IPv6 of %s: this host has no IPv6", device)
		}
		return nil
	}
	for _, c := range hostConf6(v6) {
		if c.index < len(have) && have[c.index] == c.value {
			continue
		}
		if err := p.inHost(func() error { return writeConf6(device, c) }); err != nil {
			return err
		}
	}
	return nil
}

func writeConf6(device string, c conf6) error {
	return writeSysctl("net/ipv6/conf/"+device+"/"+c.file, strconv.Itoa(int(c.value)))
}

// linkConf6 returns an interface with its IPv6 settings by their DEVCONF_* index, nil when it has no
// IPv6. An absent interface is an error that wraps unix.ENODEV.
func (h *Handle) linkConf6(ctx context.Context, device string) (Link, []int32, error) {
	if err := checkLinkName(device); err != nil {
		return Link{}, nil, err
	}
	r := linkByName(device)
	m, err := h.query(ctx, r.typ, r.body)
	link, there, err := linkOf(device, m, err)
	if err != nil || !there {
		return Link{}, nil, errors.Join(err, whenAbsent(there))
	}
	return link, parseConf6(m.body), nil
}

// parseConf6 reads the IPv6 settings of a link message.
func parseConf6(b []byte) (conf []int32) {
	if len(b) < ifInfoSize {
		return nil
	}
	eachAttr(b[ifInfoSize:], func(typ uint16, v []byte) {
		if typ != unix.IFLA_AF_SPEC {
			return
		}
		eachAttr(v, func(family uint16, v []byte) {
			if family != unix.AF_INET6 {
				return
			}
			eachAttr(v, func(typ uint16, v []byte) {
				for ; typ == iflaInet6Conf && len(v) >= 4; v = v[4:] {
					conf = append(conf, int32(binary.NativeEndian.Uint32(v)))
				}
			})
		})
	})
	return conf
}
