// Package flows tells which policy dropped a packet. A Recorder reads what the kernel writes to NFLOG
// for every packet that policy denies or logs, finds the names behind the tag (policy.Tag) and the
// addresses, keeps the last few thousand, and serves them over HTTP, which a Client reads. The rules'
// counters are served here too.
//
// It decides nothing and drops nothing, and what it cannot understand of a packet it leaves out.
package flows
