package iptables

import (
	"context"
	"fmt"
)

// Remains lists, for people, what of ours is in both backends. Where the programs or the kernel lack what is needed
// to look, nothing can be there.
func (d *Driver) Remains(ctx context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.choose(ctx); err != nil {
		d.log.Debug("nothing of iptables policy can be here", "why", err)
		return nil, ctx.Err()
	}
	var out []string
	for _, b := range []Backend{NFT, Legacy} {
		if !d.tools.has(b) {
			continue
		}
		for _, f := range families {
			have, err := d.read(ctx, b, f)
			if err != nil {
				if b == d.in {
					return nil, fmt.Errorf("read %s policy: %w", f, err)
				}
				continue // a backend that this kernel lacks holds nothing
			}
			if n := len(have.chains) + len(have.hooks); n > 0 {
				out = append(out, fmt.Sprintf("%d chains and hooks of %s in iptables (%s)", n, f, b))
			}
		}
	}
	sets, err := d.readSets(ctx)
	if n := len(sets); n > 0 {
		out = append(out, fmt.Sprintf("%d ipsets", n))
	}
	return out, err
}
