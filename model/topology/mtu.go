package topology

import (
	"fmt"
	"regexp"
	"slices"

	"weft/model"
)

// minMTU6 is what every link that carries IPv6 must take, in bytes (RFC 8200, section 5).
const minMTU6 = 1280

// mtuPlan is what the MTU settings make of this host's links.
type mtuPlan struct {
	profile Profile // zero: none
	// base is what the interfaces of mtuIfacePattern carry at least, in bytes; 0: the interface that
	// carries the node's address decides.
	base    int
	baseWhy string
}

// planMTU reads the settings. What makes no sense is a problem, and counts as not set.
func (c *compiler) planMTU() {
	if name := c.s.MTU.Profile; name != "" {
		p, err := ProfileByName(name)
		if err != nil {
			c.problem("mtuProfile: %v", err)
		}
		c.mtu.profile = p
	}
	pattern := c.s.MTU.IfacePattern
	if pattern == "" {
		return
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		c.problem("mtuIfacePattern: %v", err)
		return
	}
	for _, l := range c.s.Underlay.Links {
		if mtu := c.mtu.profile.Limit(l.MTU); l.Up && re.MatchString(l.Name) && (c.mtu.base == 0 || mtu < c.mtu.base) {
			c.mtu.base, c.mtu.baseWhy = mtu, fmt.Sprintf("%s has the smallest MTU of those that mtuIfacePattern matches", l.Name)
		}
	}
	if c.mtu.base == 0 {
		c.problem("mtuIfacePattern %.63q matches no interface that is up: the one with the node's address counts instead", pattern)
	}
}

// uplinkMTU returns what the underlay carries by l as far as the settings say, in bytes, and why.
func (c *compiler) uplinkMTU(l model.Link) (mtu int, why string) {
	if c.mtu.base > 0 {
		return c.mtu.base, c.mtu.baseWhy
	}
	why = l.Name
	if mtu = c.mtu.profile.Limit(l.MTU); mtu < l.MTU {
		why += fmt.Sprintf(" (mtuProfile %s: %d of %d)", c.mtu.profile.Name, mtu, l.MTU)
	}
	return mtu, why
}

// hopMTU returns what the underlay carries by h, in bytes.
func (c *compiler) hopMTU(h hop) int {
	mtu := min(h.mtu, c.mtu.profile.Limit(c.under.links[h.device].MTU))
	if c.mtu.base > 0 {
		mtu = min(mtu, c.mtu.base)
	}
	return mtu
}

// tunnelMTU returns the MTU of this host's device of an end, in bytes: what the settings say of the
// device, else what is left of the uplink. A device never has more than fits into its uplink, which
// the kernel would refuse. One over IPv6 has at least what IPv6 needs, or cannot be.
func (c *compiler) tunnelMTU(e model.TunnelEnd, parent model.Link, overhead int) (int, error) {
	most := parent.MTU - overhead
	mtu, what := c.configuredMTU(e)
	if mtu > most {
		c.problem("%s is %d, but %s (MTU %d) has room for %d: that counts", what, mtu, parent.Name, parent.MTU, most)
	}
	if mtu == 0 {
		mtu, _ = c.uplinkMTU(parent)
		mtu -= overhead
	}
	mtu = min(mtu, most)
	six := e.Family == model.IPv6 || e.Encap == model.EncapWireGuard && c.s.Encryption.Enabled6
	if !six || mtu >= minMTU6 {
		return mtu, nil
	}
	if most < minMTU6 {
		return 0, fmt.Errorf("but %s has an MTU of %d, and IPv6 in %s needs %d: raise it", parent.Name, parent.MTU, e.Encap, minMTU6+overhead)
	}
	c.problem("%s over %s would carry %d bytes by the MTU settings, but IPv6 needs %d: that counts", e.Encap, parent.Name, mtu, minMTU6)
	return minMTU6, nil
}

// configuredMTU returns what the settings say of the device of an end, 0 for nothing, and which one.
func (c *compiler) configuredMTU(e model.TunnelEnd) (mtu int, what string) {
	switch {
	case e.Encap == model.EncapIPIP:
		return c.s.MTU.IPIP, "ipipMTU"
	case e.Encap == model.EncapWireGuard && e.Family == model.IPv6:
		return c.s.Encryption.MTU6, "wireguardMTUV6"
	case e.Encap == model.EncapWireGuard:
		return c.s.Encryption.MTU4, "wireguardMTU"
	case e.Family == model.IPv6:
		return c.s.MTU.VXLAN6, "vxlanMTUV6"
	default:
		return c.s.MTU.VXLAN, "vxlanMTU"
	}
}

// insideMTU returns what a packet inside t may have on its way by h, in bytes: exact for the route
// that the outer packet takes. Where the settings name the device's MTU, they know better than the
// profile and the pattern, but not better than the kernel.
func (c *compiler) insideMTU(t *Tunnel, overhead int, h hop) int {
	outer := c.hopMTU(h)
	if set, _ := c.configuredMTU(t.End); set > 0 {
		outer = h.mtu
	}
	return min(t.MTU, outer-overhead)
}

// podMTU decides what pods have. Smallest is the largest packet that every path takes, also paths to
// nodes that are yet to come: the uplink's MTU less the overhead of what the pools ask for. PerRoute
// is what the uplink takes, and the routes say where less fits.
func (c *compiler) podMTU(v *View) {
	set := func(mtu int, format string, args ...any) {
		v.PodMTU, v.PodMTUWhy = mtu, fmt.Sprintf(format, args...)
	}
	smaller := func(mtu int) bool { return v.PodMTU == 0 || mtu < v.PodMTU }
	for _, a := range c.self.Addresses {
		l, ok := c.under.carrier(c.s.Underlay.Links, a.Addr())
		if !ok {
			v.Problems = append(v.Problems, fmt.Sprintf("no interface of this host has the node address %s", a.Addr()))
			continue
		}
		switch mtu, why := c.uplinkMTU(l); {
		case c.s.MTU.PerRoute && mtu > v.PodMTU:
			set(mtu, "mtuMode PerRoute: %s; routes say where less fits", why)
		case !c.s.MTU.PerRoute && smaller(mtu) && c.mtu.base > 0:
			set(mtu, "%s", why)
		case !c.s.MTU.PerRoute && smaller(mtu):
			set(mtu, "%s carries %s", why, a.Addr())
		}
	}
	if !c.s.MTU.PerRoute {
		for _, t := range c.tunnels {
			if smaller(t.MTU) {
				set(t.MTU, "%s over %s", t.Device, t.Parent)
			}
		}
		for i := range v.Paths {
			if p := &v.Paths[i]; p.Reach != Local && p.Reach != Unreachable && smaller(p.MTU) {
				set(p.MTU, "the path to %s on node %s", p.Dst, p.Node)
			}
		}
	}
	c.podMTU6(v)
}

// podMTU6 keeps pods that have IPv6 addresses, or may get some, at what IPv6 needs: the kernel takes
// IPv6 off a device that has less. Where less fits, the routes say so.
func (c *compiler) podMTU6(v *View) {
	six := slices.ContainsFunc(c.s.Pools, func(p model.Pool) bool { return model.FamilyOf(p.CIDR.Addr()) == model.IPv6 })
	if v.PodMTU > 0 && v.PodMTU < minMTU6 && six {
		v.Problems = append(v.Problems, fmt.Sprintf("pods would have an MTU of %d (%s), but there is an IPv6 pool, and IPv6 needs %d: pods have that, and packets of theirs may be too large: raise the MTU", v.PodMTU, v.PodMTUWhy, minMTU6))
		v.PodMTU = minMTU6
	}
}
