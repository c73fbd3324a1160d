package node

import (
	"net/url"
	"slices"
	"strconv"

	"weft/internal/kernel"
	"weft/routing"
)

// hostRouting says how packets to other nodes' own addresses are led to the encrypting devices; priority is that
// of the rule which does so.
func (e *engine) hostRouting(priority int) routing.HostConfig {
	return routing.HostConfig{Priority: priority, Table: kernel.HostTable, Main: kernel.MainTable, Mark: kernel.UnderlayMark, Store: e.store}
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
