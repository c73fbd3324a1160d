package nft

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// outline is what the kernel has under the owner's names, and under its legacy names.
type outline struct {
	table      bool
	chains     []*nftables.Chain
	sets       []*nftables.Set
	flowTables []*nftables.Flowtable
	counters   []*nftables.CounterObj
}

func (tx *Tx) owns(name string) bool {
	return strings.HasPrefix(name, tx.owner.prefix) || tx.owner.legacy != nil && tx.owner.legacy(name)
}

func (tx *Tx) read() (outline, error) {
	var n outline
	tables, err := tx.nft.ListTablesOfFamily(tx.table.Family)
	if err != nil {
		return n, fmt.Errorf("list tables: %w", err)
	}
	n.table = slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tx.table.Name })
	if !n.table {
		return n, nil
	}
	chains, err := tx.nft.ListChainsOfTableFamily(tx.table.Family)
	if err != nil {
		return n, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == tx.table.Name && tx.owns(c.Name) {
			c.Table = tx.table
			n.chains = append(n.chains, c)
		}
	}
	sets, err := tx.nft.GetSets(tx.table)
	if err != nil {
		return n, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if tx.owns(s.Name) {
			s.Table = tx.table
			n.sets = append(n.sets, s)
		}
	}
	if n.flowTables, err = tx.readFlowTables(); err != nil {
		return n, err
	}
	objs, err := tx.nft.GetNamedObjects(tx.table)
	if err != nil {
		return n, fmt.Errorf("list counters: %w", err)
	}
	for _, o := range objs {
		if c, ok := o.(*nftables.NamedObj); ok && tx.owns(c.Name) {
			n.counters = append(n.counters, &nftables.CounterObj{Table: tx.table, Name: c.Name})
		}
	}
	return n, nil
}

// sound tells whether a chain hangs where it should.
func sound(have *nftables.Chain, want Chain) bool {
	if want.Base == nil {
		return have.Hooknum == nil
	}
	return have.Hooknum != nil && *have.Hooknum == *want.Base.Hook && have.Type == want.Base.Type &&
		have.Priority != nil && *have.Priority == want.Base.Priority &&
		(have.Policy == nil || *have.Policy == want.Base.policy())
}

// intact tells whether chains, sets, counters and the number of rules are as we wrote them.
func (o *Owner) intact(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true // nothing follows
	}
	if o.open() != nil {
		return false
	}
	tx := &Tx{nft: o.nft, owner: o, table: table()}
	have := o.have()
	there, err := tx.read()
	if err != nil || len(there.chains) != len(have.Chains) || len(there.sets) != len(have.Sets) || len(there.flowTables) != len(have.FlowTables) || len(there.counters) != len(have.Counters) {
		return false
	}
	rules, err := o.countRules("")
	if err != nil {
		return false
	}
	names := have.names()
	for _, c := range there.chains {
		want := names.chains[c.Name]
		if want == nil || !sound(c, *want) || rules[c.Name] != len(want.Rules) {
			return false
		}
	}
	for _, s := range there.sets {
		if names.sets[s.Name] == nil {
			return false
		}
	}
	for _, c := range there.counters {
		if !slices.Contains(have.Counters, c.Name) {
			return false
		}
	}
	return true
}

// countRules counts the rules of each chain of the table, by one dump; with a name, of that chain alone.
func (o *Owner) countRules(chain string) (map[string]int, error) {
	filter := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(kernel.NFTable), 0)}}
	if chain != "" {
		filter = append(filter, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)})
	}
	rules := map[string]int{}
	err := o.dump(unix.NFT_MSG_GETRULE, filter, func(ad *netlink.AttributeDecoder) error {
		chain, ok := chainIn(ad)
		if ok {
			rules[chain]++
		}
		return ad.Err()
	})
	return rules, err
}

// chainIn tells which chain the rule of a dump's message is of.
func chainIn(ad *netlink.AttributeDecoder) (chain string, ok bool) {
	for ad.Next() {
		if ad.Type() == unix.NFTA_RULE_CHAIN {
			return ad.String(), true
		}
	}
	return "", false
}
