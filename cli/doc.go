// Package cli is the ctl side of the weft binary: the verbs that read and change resources (get,
// apply, create, replace, delete, label, patch, ipam) and those that ask the local node (status,
// plan). It owns their flags, their output and their errors.
//
// It decides nothing about the network: resources are checked by api/v3, kept by node/datastore,
// addresses are counted by node/ipam, and what a node does is told by the node itself. The commands
// that run something (node, lab, bench) are elsewhere and are added to the root by cmd/weft.
//
// Whatever comes out of the cluster is somebody else's text: every human-readable line passes
// through clean, so that no control character of a resource reaches the terminal.
package cli
