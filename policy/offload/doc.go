// Package offload puts established connections of pods into a flow table of the kernel (nftables, in software): their
// next packets meet no rule. It owns that flow table, the chain that fills it and the sets of devices which the chain asks
// about. It decides nothing about policy: what is denied never gets as far as the chain, and whoever ends
// connections calls Flush. docs/flow-offload.md says what holds, and why.
package offload
