// Package nftables makes the kernel enforce a policy.Program, by chains and sets of its own in the
// project's nftables table. It decides nothing: what a packet's fate is, policy/eval tells, and this
// is held to that by real packets. docs/policy-nftables.md shows the layout and what it costs.
//
// It sees IP only: ARP is no business of family inet, nor is what a bridge forwards.
package nftables
