// Package load makes the traffic that paths are measured with, and measures it: TCP streams, requests with answers,
// UDP packets and probes of one size. A Server is at one end, a Client at the other; who does not know the server's
// token gets nothing from it. It owns sockets only: links, addresses and routes are others'.
//
// A connection begins with the server's challenge; the client proves by it that it knows the token (HMAC-SHA256), which
// never crosses the network. A session is one such connection, over which the client asks in lines of JSON for what it
// wants counted. Streams and echoes are connections of their own that name their session, and UDP packets to the same
// port carry its key. Nothing of it is encrypted.
package load
