package ipip

import (
	"context"
	"fmt"
)

// Remains lists, for people, where eBPF programs of ours run.
func (d *Driver) Remains(ctx context.Context) ([]string, error) {
	links, err := d.h.TunnelLinks(ctx)
	if err != nil {
		return nil, err
	}
	running, err := d.runningPrograms(ctx, links)
	if err != nil {
		return nil, err
	}
	defer closeAll(running)
	var out []string
	for _, f := range running {
		out = append(out, fmt.Sprintf("eBPF program %s at interface %d", f.info.Name, f.at.index))
	}
	return out, nil
}
