// Package traffic sends counted traffic between network namespaces of this machine and says what
// became of every packet: UDP streams with sequence numbers, TCP streams with known content, and
// probes of every packet size. One process serves all of them, since a socket stays in the
// namespace that it was opened in. It owns sockets only, never links, routes or filters. The tests
// of the whole and the demo measure with it.
package traffic
