package node

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"

	"weft/internal/kernel"
	"weft/model"
	"weft/model/topology"
	"weft/node/status"
	"weft/routing"
)

// hostRouting says how packets to other nodes' own addresses are led to the encrypting devices; priority is that
// of the rule which does so.
func (e *engine) hostRouting(priority int) routing.HostConfig {
	return routing.HostConfig{Priority: priority, Table: kernel.HostTable, Main: kernel.MainTable, Mark: kernel.UnderlayMark, Store: e.store}
}

// servicePriority is that of the rules that lead to what refuses service addresses: the last before the main
// table's, so that whatever rule an administrator made goes first.
const servicePriority = 32765

// announcedServices says what takes the packets to announced service addresses that nobody serves; nil while that
// is not known.
func (e *engine) announcedServices(u model.Underlay) *routing.Ruled {
	if e.speaker == nil {
		return nil
	}
	announced, known := e.speaker.announced()
	if !known {
		return nil
	}
	r := routing.CompileServices(announced, u, routing.ServiceConfig{Priority: servicePriority, Table: kernel.ServiceTable})
	return &r
}

// storePorts returns the TCP ports of the store's endpoints, sorted; a Unix socket has none.
func storePorts(endpoints []string) []uint16 {
	var ports []uint16
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Hostname() == "" {
			continue
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		switch {
		case err == nil && port > 0:
			ports = append(ports, uint16(port))
		case u.Scheme == "https":
			ports = append(ports, 443)
		case u.Scheme == "http":
			ports = append(ports, 80)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// hostEncryptionOf is what the plans say of the encryption of other nodes' own addresses; nil when that is off.
func hostEncryptionOf(p *plans) *status.HostEncryption {
	if !p.snapshot.Encryption.Host || !p.snapshot.Encryption.Any() {
		return nil
	}
	how := map[model.NodeName]mix{}
	for i := range p.view.Hosts {
		path := &p.view.Hosts[i]
		h := how[path.Node]
		h.clear = h.clear || path.Reach == topology.Direct
		h.unreachable = h.unreachable || path.Reach == topology.Unreachable
		how[path.Node] = h
	}
	e := &status.HostEncryption{}
	e.Encrypted, e.Clear, e.Unreachable = sortedOut(how)
	return e
}

// sortedOut lists the nodes that are reached in cipher text only, partly in clear, and else partly not at all.
func sortedOut(how map[model.NodeName]mix) (encrypted, clear, unreachable []string) {
	encrypted, clear, unreachable = []string{}, []string{}, []string{}
	for _, node := range slices.Sorted(maps.Keys(how)) {
		switch h := how[node]; {
		case h.clear:
			clear = append(clear, string(node))
		case h.unreachable:
			unreachable = append(unreachable, string(node))
		default:
			encrypted = append(encrypted, string(node))
		}
	}
	return encrypted, clear, unreachable
}

// addHosts adds a sentence for each address of a node itself: to the row of the device that it goes by.
func (b *peerRows) addHosts() {
	for i := range b.plans.view.Hosts {
		path := &b.plans.view.Hosts[i]
		device := path.Device
		if path.Reach != topology.WireGuard {
			device = b.any(path.Node)
		}
		row := b.row(path.Node, device)
		why := path.Why
		if slices.Contains(row.Why, why) {
			why = "the same"
		}
		row.Hosts = append(row.Hosts, path.Dst.Addr().String())
		row.Why = append(row.Why, fmt.Sprintf("the node's own address %s: %s", path.Dst.Addr(), why))
	}
}

// any returns a device that has the node as its peer; "" when there is none.
func (b *peerRows) any(node model.NodeName) string {
	devices := slices.Sorted(slices.Values(b.devices[node]))
	if len(devices) == 0 {
		return ""
	}
	return devices[0]
}
