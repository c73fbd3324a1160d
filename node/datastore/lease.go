package datastore

import (
	"context"
	"time"
)

// Lease says who of several processes acts. Others take it when its holder has given it up, or has not written it for
// Duration by their own clocks: the times in it are for people.
type Lease struct {
	Holder      string // empty: nobody
	Duration    time.Duration
	Acquired    time.Time // by this holder
	Renewed     time.Time
	Transitions int // how often the holder changed
	// Version changes with every write; empty: it has never been written.
	Version string
}

// Leaser is a Store that keeps leases beside the resources. Both of this project do.
type Leaser interface {
	// GetLease returns a lease; the zero one where there is none.
	GetLease(ctx context.Context, name string) (Lease, error)
	// PutLease writes a lease in place of the one of its Version, and returns what is stored. It is ErrConflict when
	// somebody else wrote since.
	PutLease(ctx context.Context, name string, l Lease) (Lease, error)
}
