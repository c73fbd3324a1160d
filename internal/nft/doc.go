// Package nft keeps what several owners have in the project's one nftables table, inet weft. An Owner
// has a name prefix ("tunnel-vxlan-", "nat-", ...); everything whose name begins with it is the
// owner's, and nothing else is ever touched. A change is one transaction: no packet meets half of it.
//
// The package decides nothing: drivers say what they want as a Program, and, when they know it, how that
// differs from what they wanted before, so that one more element of 100,000 costs one element.
package nft
