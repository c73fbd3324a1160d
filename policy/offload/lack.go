package offload

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/nft"
)

// refused is what of a program the kernel did not know.
type refused int

const (
	nothing    refused = iota
	everything         // it has no nftables, or none of family inet
	flowTables         // or a device of one went
	rules              // and not the flow table, without which its rules are refused as well
)

// refusedBy tells what of a program an error is about. Not to be found, as something that went may be too, is
// said of the kernel's expressions by a rule alone.
func refusedBy(err error) refused {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return everything // and all that is not found, for that reason
	}
	what := nothing
	for _, r := range nft.Refusals(err) {
		switch {
		case r.Flows != "" && (errors.Is(r.Err, unix.ENOENT) || errors.Is(r.Err, unix.EOPNOTSUPP)):
			return flowTables
		case r.Chain != "" && r.Rule >= 0 && (errors.Is(r.Err, unix.ENOENT) || errors.Is(r.Err, unix.EOPNOTSUPP)):
			what = rules
		}
	}
	if what == nothing && errors.Is(err, unix.EOPNOTSUPP) {
		return everything
	}
	return what
}

// parts are the expressions of the rules beside the one that offloads, each with what the kernel has it by.
var parts = []struct {
	option string
	rule   []expr.Any
}{
	{"NFT_CT", nft.Assured()},
	{"NF_CONNTRACK_MARK", nft.NotConnMarked(1)},
	{"NFT_FIB_INET", nft.FromWhereItsSourceIs()},
}

// probe has a rule for each of the parts, in a chain that no packet meets.
func probe() nft.Program {
	c := nft.Chain{Name: prefix + "probe"}
	for _, p := range parts {
		c.Rules = append(c.Rules, p.rule)
	}
	return nft.Program{Chains: []nft.Chain{c}}
}

// lackOf names what the kernel refused of the probe; when that is nothing, it is the rule that offloads.
func lackOf(err error) string {
	var all []string
	for _, r := range nft.Refusals(err) {
		if r.Chain != "" && r.Rule >= 0 && r.Rule < len(parts) {
			all = append(all, parts[r.Rule].option)
		}
	}
	switch {
	case len(all) > 0:
		return strings.Join(all, ", ")
	case err != nil:
		return fmt.Sprintf("an expression of the rules (%v)", err)
	}
	return "NFT_FLOW_OFFLOAD"
}

// lacking names what the kernel lacks, by the error of a transaction that was about these devices; empty: nothing, as
// far as that is known.
func (d *Driver) lacking(ctx context.Context, err error, links map[string]link) string {
	switch refusedBy(err) {
	case everything:
		return "NF_TABLES_INET"
	case flowTables:
		there, err := d.links(ctx)
		if err != nil {
			return ""
		}
		for name, l := range links {
			if there[name].index != l.index {
				return "" // that is what was not found
			}
		}
		return "NF_FLOW_TABLE_INET"
	case rules:
		_, err := d.owner.Sync(ctx, probe())
		return lackOf(err)
	}
	return ""
}
