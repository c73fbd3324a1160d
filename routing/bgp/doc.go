// Package bgp makes the BGP speaker of this host do what a routing.Speaker says, and knows what it learned.
// The speaker is a process of its own (routing/bgp/speaker) that outlives this one. The package writes no
// kernel route: that is for who compiles the routes.
package bgp
