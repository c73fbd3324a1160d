package nftables

import (
	"net/netip"
	"slices"

	lib "github.com/google/nftables"

	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/nat"
)

// sameButHosts tells whether two plans differ in no more than which nodes are spared: what changes often
// in a big cluster.
func sameButHosts(a, b nat.Plan) bool {
	return a.Hold == b.Hold && slices.Equal(a.Tunnels, b.Tunnels) && slices.Equal(a.Pods, b.Pods) && slices.EqualFunc(a.Outgoing, b.Outgoing, func(a, b nat.Outgoing) bool {
		return a.Family == b.Family && a.To == b.To && a.Ports == b.Ports && a.UDPPorts == b.UDPPorts && a.Interface == b.Interface &&
			slices.Equal(a.From, b.From) && slices.Equal(a.Spared, b.Spared) && (len(a.Hosts) > 0) == (len(b.Hosts) > 0)
	})
}

// hostsUpdate returns what makes the hosts of have those of want, where the plans differ in nothing else;
// nil when they are the same.
func hostsUpdate(have, want nat.Plan) func(*nft.Tx) error {
	type change struct {
		set       lib.Set
		gone, new []lib.SetElement
	}
	var changes []change
	for i := range want.Outgoing {
		o := &want.Outgoing[i]
		gone, come := reconcile.Diff(have.Outgoing[i].Hosts, o.Hosts, netip.Addr.Compare)
		if len(gone)+len(come) > 0 {
			changes = append(changes, change{hostsSpec(o.Family), elements(gone), elements(come)})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return func(tx *nft.Tx) error {
		for _, c := range changes {
			if err := tx.DelElements(c.set, c.gone); err != nil {
				return err
			}
			if err := tx.AddElements(c.set, c.new); err != nil {
				return err
			}
		}
		return nil
	}
}

func elements(addrs []netip.Addr) []lib.SetElement {
	e := make([]lib.SetElement, 0, len(addrs))
	for _, a := range addrs {
		e = append(e, lib.SetElement{Key: a.AsSlice()})
	}
	return e
}
