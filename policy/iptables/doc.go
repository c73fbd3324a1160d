// Package iptables makes the kernel run a policy.Program by iptables and ipset: chains and sets of
// its own whose names begin with weft-, each hooked by one jump at the first place of a built-in
// chain. Rendering (a Program to the text of iptables-restore and ipset) is pure; the Driver feeds
// what differs to the programs, in one transaction for each table and family.
//
// It decides nothing, and touches no chain, set or rule of others. docs/policy-iptables.md tells how
// a packet walks.
package iptables
