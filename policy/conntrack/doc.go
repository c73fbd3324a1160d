// Package conntrack ends connections that a change of policy denies. The kernel asks policy about the
// first packet of a connection only; what it knows since then is in its connection tracking table. After
// a change that can deny something, a Cutter reads the entries of the pods and addresses that the change
// is about, asks policy/eval about each, and holds those that are denied.
//
// To hold a connection is to mark its entry (kernel.HeldMark) and to drop what carries the mark, in both
// directions. Deleting the entry would not do: the next packet of the answering end, an
// acknowledgement say, would be the first of a new connection the other way round, which policy mostly
// allows, and everything from the end that policy denies would pass as its reply. An entry that policy
// allows again is released and goes on where it stood, translated addresses included.
//
// The package does not filter packets otherwise, and decides nothing about policy itself.
package conntrack
