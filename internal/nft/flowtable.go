package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// FlowTable is where a rule with Offload puts connections: their next packets that come in by one of the devices
// go straight to where they leave, and meet no other rule of any table. TCP and UDP, both families. (Linux 4.16; of family
// inet.) A device that goes takes its flows with it. A flow table that is written anew begins empty.
type FlowTable struct {
	Name    string
	Devices []string // that are there, each once
}

// devicesPerMessage: the kernel takes 256 at once (NFT_NETDEVICE_MAX).
const devicesPerMessage = 200

// Offload puts the packet's connection into a flow table. In chains of hook forward only.
func Offload(flowTable string) []expr.Any { return []expr.Any{&expr.FlowOffload{Name: flowTable}} }

// AddFlowTable adds the flow table; to one that is there, the devices that it has not.
func (tx *Tx) AddFlowTable(f FlowTable) {
	tx.own(f.Name)
	tx.about(Refusal{Flows: f.Name, Rule: -1})
	devices := f.Devices
	for first := true; first || len(devices) > 0; first = false {
		n := min(len(devices), devicesPerMessage)
		tx.nft.AddFlowtable(&nftables.Flowtable{Table: tx.table, Name: f.Name, Hooknum: nftables.FlowtableHookIngress,
			Priority: nftables.FlowtablePriorityFilter, Devices: devices[:n], Flags: nftables.FlowtableFlagsCounter})
		devices = devices[n:]
	}
	tx.res.Added++
}

// readFlowTables lists those of the owner. A kernel that has none in any case says so by its answer.
func (tx *Tx) readFlowTables() ([]*nftables.Flowtable, error) {
	all, err := tx.nft.ListFlowtables(tx.table)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("list flow tables: %w", err)
	}
	return slices.DeleteFunc(all, func(f *nftables.Flowtable) bool { return !tx.owns(f.Name) }), nil
}

// diffFlowTables tells which devices come; ok is false when something else differs, since flows of a device that is
// left out have to go.
func diffFlowTables(have, want []FlowTable) (come []FlowTable, ok bool) {
	if len(have) != len(want) {
		return nil, false
	}
	for i, f := range want {
		old := have[i]
		if old.Name != f.Name || slices.ContainsFunc(old.Devices, func(d string) bool { return !slices.Contains(f.Devices, d) }) {
			return nil, false
		}
		added := slices.DeleteFunc(slices.Clone(f.Devices), func(d string) bool { return slices.Contains(old.Devices, d) })
		if len(added) > 0 {
			come = append(come, FlowTable{f.Name, added})
		}
	}
	return come, true
}
