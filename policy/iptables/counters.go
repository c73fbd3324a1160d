package iptables

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/policy"
)

// Counter is how many packets a rule matched since its chain was written last, in both families, and
// their bytes. Packets of connections that were accepted before are not among them.
type Counter struct {
	Chain          policy.ChainID
	Rule           int // Index
	Packets, Bytes uint64
}

// Counters returns the counters of all rules, by chain and rule. None before the first Apply.
func (d *Driver) Counters(ctx context.Context) ([]Counter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.known {
		return nil, ctx.Err()
	}
	type rule struct {
		id    policy.ChainID
		index int
	}
	sums := map[rule]Counter{}
	parts := map[key]*part{}
	for _, p := range d.rules.parts {
		for k := range p.counts {
			parts[k] = &p
		}
	}
	for _, f := range families {
		tables := tableOrder
		if !present(f) {
			continue
		}
		if d.in == Legacy {
			var err error
			if tables, err = d.legacyTables(f); err != nil {
				return nil, err
			}
		}
		for _, t := range tables {
			text, err := d.run.run(ctx, nil, d.tools.save[d.in][f], "-c", "-t", t)
			if err != nil {
				return nil, fmt.Errorf("read the counters of %s policy: %w", f, err)
			}
			line := map[string]int{}
			for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
				var c Counter
				var chain string
				if n, _ := fmt.Sscanf(s.Text(), "[%d:%d] -A %s", &c.Packets, &c.Bytes, &chain); n != 3 || !strings.HasPrefix(chain, prefix) {
					continue
				}
				at := line[chain]
				line[chain]++
				k := key{f, t, chain}
				p := parts[k]
				if p == nil || at >= len(p.counts[k]) || p.counts[k][at] < 0 {
					continue
				}
				r := rule{p.id, p.counts[k][at]}
				sum := sums[r]
				sums[r] = Counter{r.id, r.index, sum.Packets + c.Packets, sum.Bytes + c.Bytes}
			}
		}
	}
	list := make([]Counter, 0, len(sums))
	for _, c := range sums {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Counter) int { return cmp.Or(cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Rule, b.Rule)) })
	return list, nil
}
