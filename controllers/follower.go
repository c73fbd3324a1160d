package controllers

import (
	"sync"

	"weft/internal/reconcile"
	"weft/node/datastore"
)

// follower is what follows the store and has a Runner act on what it saw.
type follower struct {
	runner *reconcile.Runner

	mu     sync.Mutex
	synced bool
}

// OnState implements datastore.Sink.
func (f *follower) OnState(s datastore.State, _ error) {
	f.mu.Lock()
	f.synced = s == datastore.StateInSync
	f.mu.Unlock()
	f.runner.Kick()
}
