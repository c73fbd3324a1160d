package nftables

import (
	"testing"

	"weft/internal/testkit"
	"weft/policy"
	"weft/policy/policytest/wire"
)

// TestShapes: fragments, and packets with an extension header of IPv6, meet what the same packet meets whole.
func TestShapes(t *testing.T) {
	rig := wire.New(t)
	d := newDriver(t, rig.Node)
	rig.CheckShapes(t, testkit.Count(6), 300, func(u policy.Update) { apply(t, d, u) })
}
