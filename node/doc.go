// Package node is the node service: it watches the store, compiles what this host's kernel should
// look like, applies it, and reports. wire.go alone names the drivers; everything else here is the
// same whatever the encapsulation.
package node
