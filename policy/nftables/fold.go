package nftables

import (
	lib "github.com/google/nftables"

	"weft/internal/nft"
	"weft/policy"
)

// unit is a rule of the Program, or several in a row that one lookup answers for.
type unit struct {
	rule    policy.Rule // what all have in common
	indices []int
	rules   []policy.Rule

	// keys are what they differ in, one of which the fields of a packet must be; nil: in nothing.
	keys      []lib.SetElement
	keysText  string
	keysSpec  lib.Set
	fields    []nft.Field
	withPorts bool // the keys are of protocols with ports
}

func (u *unit) texts(i int) string { return u.rules[i].String() }

func fold(rules []policy.Rule) []unit {
	var units []unit
	for i := range rules {
		units = append(units, unit{rule: rules[i], indices: []int{rules[i].Index}, rules: rules[i : i+1]})
	}
	return units
}
