package offload

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
)

const (
	// prefix begins the names of what the driver owns in the table kernel.NFTable.
	prefix     = "offload-"
	flowTable  = prefix + "flows"
	chain      = prefix + "forward"
	setPods    = prefix + "pods"
	setDevices = prefix + "devices"
)

// Plan is whose connections are put into the flow table; the zero Plan: nobody's. A connection of which one end at
// least is a pod, and both come and go by a device of the Plan.
type Plan struct {
	Pods  []string // links of pods
	Other []string // uplinks, tunnel devices
}

// on returns the part of the Plan that is about these devices, each once and in order. The zero Plan when no pod is left.
func (p Plan) on(there func(device string) bool) Plan {
	keep := func(all []string) []string {
		all = slices.DeleteFunc(slices.Clone(all), func(d string) bool { return !there(d) })
		slices.Sort(all)
		return slices.Compact(all)
	}
	q := Plan{Pods: keep(p.Pods), Other: keep(p.Other)}
	if len(q.Pods) == 0 {
		return Plan{}
	}
	return q
}

// program is the flow table, and the last chain of forward: what gets there was allowed by every other. A connection
// that is held (kernel.HeldMark) is kept out: what is under way while the table is emptied must not put it back. One
// whose packets come in by another device than its answers leave by waits, as while both ends change how they reach each
// other: the kernel would look for the way back by that device and, without a route there, take the pod for a neighbour.
// The same rule keeps out what IPVS balances, whose entries do not say that they are translated: see TestIPVS.
//
// UDP to a service stays with the rules: kube-proxy deletes the entries of an endpoint that died, so that
// their clients get to another one, and before Linux 6.4 may not be able to while the connection is in a flow table.
func program(p Plan) nft.Program {
	if len(p.Pods) == 0 {
		return nft.Program{}
	}
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(p.Pods, p.Other))))
	last := *nftables.ChainPriorityLast
	c := nft.Chain{Name: chain, Base: &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: last},
		Rules: [][]expr.Any{nft.Rule(nft.L4Proto().Is(unix.IPPROTO_UDP), nft.DestTranslated(), nft.Return())}}
	for _, way := range []struct{ in, out string }{{setPods, setDevices}, {setDevices, setPods}} {
		c.Rules = append(c.Rules, nft.Rule(nft.Assured(), nft.NotConnMarked(kernel.HeldMark),
			nft.In(way.in, nft.InputInterface()), nft.In(way.out, nft.OutputInterface()), nft.FromWhereItsSourceIs(), nft.Offload(flowTable)))
	}
	return nft.Program{
		Sets:       []nft.Set{devices(setPods, p.Pods), devices(setDevices, all)},
		FlowTables: []nft.FlowTable{{Name: flowTable, Devices: all}},
		Chains:     []nft.Chain{c},
	}
}

func devices(name string, list []string) nft.Set {
	return nft.Set{Spec: nftables.Set{Name: name, KeyType: nftables.TypeIFName}, Elements: func() []nftables.SetElement {
		var e []nftables.SetElement
		for _, d := range list {
			key := make([]byte, 16) // IFNAMSIZ
			copy(key, d)
			e = append(e, nftables.SetElement{Key: key})
		}
		return e
	}}
}
