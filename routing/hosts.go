package routing

import (
	"fmt"
	"slices"

	"weft/model"
	"weft/model/topology"
)

// HostConfig says how the rules are to be.
type HostConfig struct {
	Priority int // of the rule that leads to Table (wireguardRoutingRulePriority); at least 1
	Table    int
	Main     int      // the number of the main table
	Mark     uint32   // of packets that the encrypting devices send
	Store    []uint16 // TCP ports of the store
}

// exceptions is what goes between hosts in clear, as the main table says: what a node needs of others before it can
// encrypt, or to find that it cannot. BGP at a port of its own is not among it: no node waits for that to start.
func exceptions(cfg HostConfig) []Rule {
	var rules []Rule
	both := func(p model.Protocol, port uint16, why string) {
		rules = append(rules, Rule{Protocol: p, DestPort: port, Why: why}, Rule{Protocol: p, SourcePort: port, Why: why})
	}
	for _, port := range cfg.Store {
		both(model.TCP, port, "the store: nodes learn from it how to encrypt")
	}
	if !slices.Contains(cfg.Store, 2379) {
		both(model.TCP, 2379, "etcd, whatever port it has in this node's configuration")
	}
	both(model.TCP, 2380, "etcd among its members: without most of them there is no store")
	both(model.TCP, 6443, "the Kubernetes API: what starts a node service may have to ask it first")
	both(model.TCP, 179, "BGP (RFC 4271) tells of the underlay's own state")
	rules = append(rules, Rule{Protocol: model.UDP, DestPort: 3784, Why: "BFD (RFC 5881) asks about the underlay's links"},
		Rule{Protocol: model.UDP, DestPort: 4784, Why: "BFD over several hops (RFC 5883), the same"})
	return rules
}

// CompileHosts says which routes and rules lead to other nodes' own addresses where these are encrypted: they encrypt what is sent to other nodes' own addresses, by v.Hosts. What
// no route is for stays with the main table. The exceptions have a priority one lower than the rule they are
// from, so that they come first.
func CompileHosts(v *topology.View, cfg HostConfig) Ruled {
	h := Ruled{Table: cfg.Table}
	families := map[model.Family]bool{}
	for i := range v.Hosts {
		p := &v.Hosts[i]
		r := Route{Dst: p.Dst, Why: fmt.Sprintf("node %s: %s", p.Node, p.Why)}
		switch p.Reach {
		case topology.WireGuard:
			r.Device, r.Source = p.Device, p.Source
			if p.MTU < p.DeviceMTU {
				r.MTU = p.MTU
			}
		case topology.Unreachable:
			r.Unreachable = true
		default:
			continue
		}
		h.Routes = append(h.Routes, r)
		families[model.FamilyOf(p.Dst.Addr())] = true
	}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if !families[f] {
			continue
		}
		for _, r := range slices.Concat(exceptions(cfg), carriers(v, f)) {
			r.Family, r.Priority, r.Table = f, cfg.Priority-1, cfg.Main
			h.Rules = append(h.Rules, r)
		}
		h.Rules = append(h.Rules, Rule{Family: f, Priority: cfg.Priority, Unmarked: cfg.Mark, Table: cfg.Table,
			Why: "other nodes' own addresses are encrypted, but not what the encrypting devices send"})
	}
	if len(h.Routes) == 0 {
		return Ruled{}
	}
	slices.SortFunc(h.Routes, CompareRoutes)
	slices.SortStableFunc(h.Rules, CompareRules)
	h.Rules = slices.CompactFunc(h.Rules, func(a, b Rule) bool { return CompareRules(a, b) == 0 })
	return h
}

// carriers are the packets of tunnels: those of the encrypting devices, should they have lost their mark, and
// those of the others, which bring what is not to be encrypted.
func carriers(v *topology.View, f model.Family) []Rule {
	var rules []Rule
	for i := range v.Tunnels {
		t := &v.Tunnels[i]
		if t.Family != f {
			continue
		}
		r := Rule{Protocol: model.UDP, DestPort: uint16(t.Port), Why: "packets of " + t.Device}
		switch t.End.Encap {
		case model.EncapIPIP:
			r.Protocol, r.DestPort = model.IPIP, 0
		case model.EncapWireGuard: // a peer behind NAT has any port
			rules = append(rules, Rule{Protocol: model.UDP, SourcePort: uint16(t.Port), Why: r.Why})
		}
		rules = append(rules, r)
	}
	return rules
}
