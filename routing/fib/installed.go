package fib

import (
	"context"
	"fmt"
	"net/netip"

	"weft/internal/kernel"
	"weft/routing"
)

// Installed reads the kernel's main table and returns the prefixes of those routes that it has as they are wanted.
func Installed(ctx context.Context, h *kernel.Handle, routes []routing.Route) (map[netip.Prefix]bool, error) {
	if len(routes) == 0 {
		return nil, nil
	}
	t := kernel.RouteTable(h)
	have, err := t.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("read which routes are in the kernel: %w", err)
	}
	in := make(map[netip.Prefix]bool, len(routes))
	for _, r := range routes {
		k, want := entry(kernel.MainTable, r)
		if is, there := have[k]; there && t.Equal(is, want) {
			in[r.Dst] = true
		}
	}
	return in, nil
}
