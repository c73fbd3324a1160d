// Package model holds the nouns that every compiler of this project works on: nodes, pools,
// blocks, endpoints and the underlay, joined in a Snapshot. It owns no behaviour beyond small
// accessors, does no I/O, and imports the standard library only. The wire form of these things
// (projectcalico.org/v3) lives in api/v3; package node converts one into the other.
package model
