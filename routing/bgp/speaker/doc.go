// Package speaker is the process that speaks BGP for one network namespace: GoBGP as a library, told what
// to do over a Unix socket. It outlives the node service, so that its neighbours notice nothing when that
// is killed or replaced. It decides nothing and touches no kernel route: what is spoken comes as a
// routing.Speaker, and what is learned goes out as routing.Learned.
package speaker
