package iptables

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/policy"
)

// Counter is how often something decided about the first packets of connections, or about packets that
// belong to none, in both families, since it was last written.
type Counter struct {
	Chain policy.ChainID // of a rule; empty when Tag says what else it was
	Rules []int          // its Index; none of what is no rule
	// Tag has the action and direction, and for what is no rule the cause; the same as in the log.
	Tag            policy.Tag
	Packets, Bytes uint64
}

// Counters reads what rules, ends of tiers and all else that drops counted, in a fixed order. What was
// never met counts zero. None before the first Apply.
func (d *Driver) Counters(ctx context.Context) ([]Counter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.known {
		return nil, ctx.Err()
	}
	rules := map[key]counts{}
	for _, p := range d.rules.parts {
		for k, tags := range p.counts {
			rules[k] = counts{p.id, tags}
		}
	}
	sums := map[policy.Tag]*Counter{}
	for _, f := range families {
		if !present(f) {
			continue
		}
		tables := tableOrder
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
			sum(text, func(chain string) (counts, bool) { c, ok := rules[key{f, t, chain}]; return c, ok }, sums)
		}
	}
	list := make([]Counter, 0, len(sums))
	for _, c := range sums {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Tag.Rule, b.Tag.Rule), cmp.Compare(a.Tag.String(), b.Tag.String()))
	})
	return list, nil
}

// counts is what the lines of a policy's chain count.
type counts struct {
	id   policy.ChainID
	tags []*policy.Tag
}

// sum adds up what the lines of one table counted. Lines of policies count as rules says, all others
// by the tag that the line before them logs.
func sum(text []byte, rules func(chain string) (counts, bool), into map[policy.Tag]*Counter) {
	lines := map[string]int{}
	var logged *policy.Tag               // by the line before
	for raw := range bytes.Lines(text) { // of any length
		line := strings.TrimSpace(string(raw))
		var packets, size uint64
		var chain string
		if n, _ := fmt.Sscanf(line, "[%d:%d] -A %s", &packets, &size, &chain); n != 3 || !strings.HasPrefix(chain, prefix) {
			continue
		}
		at := lines[chain]
		lines[chain]++
		var tag *policy.Tag
		var id policy.ChainID
		before := logged
		logged = nil
		if c, ok := rules(chain); ok {
			if at < len(c.tags) {
				tag, id = c.tags[at], c.id
			}
		} else if _, rest, logs := strings.Cut(line, `--nflog-prefix "`); logs {
			text, _, _ := strings.Cut(rest, `"`)
			if t, err := policy.ParseTag(text); err == nil {
				logged = &t
			}
		} else if strings.HasSuffix(line, " -j DROP") {
			tag = before
		}
		if tag == nil {
			continue
		}
		if into[*tag] == nil {
			c := Counter{Chain: id, Tag: *tag}
			if tag.Cause == policy.ByRule {
				c.Rules = []int{tag.Rule}
			}
			into[*tag] = &c
		}
		into[*tag].Packets += packets
		into[*tag].Bytes += size
	}
}
