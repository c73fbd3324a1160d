// Package datastore is the contract between the node and whatever holds the cluster's resources,
// with the one loop (Follow) that turns list and watch into a consistent stream. It knows
// resources only by kind, namespace and name; the drivers (node/datastore/etcd) know the wire.
package datastore

import (
	"context"
	"errors"
	"fmt"

	v3 "weft/api/v3"
)

// Key names one resource. Namespace is empty for a cluster-scoped kind.
type Key struct {
	Kind      string // "IPPool": as v3.KindInfo has it
	Namespace string
	Name      string
}

// String prints "IPPool default-ipv4-ippool" or "WorkloadEndpoint default/name".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// KeyOf returns the key of o, whose kind is told by its Go type. Of a type that is no resource it is
// what the TypeMeta says.
func KeyOf(o v3.Object) Key {
	kind, ok := v3.KindOf(o)
	if !ok {
		kind = o.GetObjectKind().GroupVersionKind().Kind
	}
	return Key{kind, o.GetNamespace(), o.GetName()}
}

// Errors that callers decide on; drivers wrap them with what was tried and on what.
var (
	ErrNotFound      = errors.New("not found")
	ErrAlreadyExists = errors.New("already exists")
	// ErrConflict: the resource changed since it was read. Read again and retry.
	ErrConflict = errors.New("changed since it was read")
	// ErrCompacted: the asked revision is no longer held. List again.
	ErrCompacted = errors.New("revision compacted")
	// ErrInvalid: the resource breaks a rule of its kind, or is more than the store takes. Nothing
	// was written.
	ErrInvalid = errors.New("invalid resource")
	// ErrUnavailable: the store could not be reached or did not answer in time. A write that ends
	// so may or may not have been done: read before trying again.
	ErrUnavailable = errors.New("store unavailable")
)

// Precondition guards a Delete. Zero fields are not checked.
type Precondition struct {
	ResourceVersion string
	UID             string
}

// List is a consistent view of some kinds, all of one revision unless the Store is a Partitioner.
type List struct {
	Items []v3.Object
	// Revision is where a Watch resumes without missing or repeating a change. It is opaque, and
	// not comparable with the ResourceVersion of an object.
	Revision string
	// History names the history that the revisions belong to. When it differs from that of an
	// earlier list, the store was emptied or restored and equal revisions mean nothing.
	History string
	// Rejected holds what is stored but cannot be understood; those are left out of Items.
	Rejected []Rejection
}

// Rejection is a stored resource that could not be decoded or is not valid.
type Rejection struct {
	Key Key
	Err error
	// Revision is the store's revision of its last change.
	Revision string
}

// Change is one step of a Watch.
type Change struct {
	Key Key
	// Object is the new state; nil when the resource was deleted or when Err is set.
	Object v3.Object
	// Err is set when the new state cannot be understood: whoever follows keeps the last good one.
	Err error
	// Revision is the store's revision of this change.
	Revision string
}

// Batch is one step of a Stream.
type Batch struct {
	Changes []Change
	// Revision is where a Watch or Stream resumes after this batch, opaque like List.Revision.
	// Empty when the batch brings no progress.
	Revision string
	// CaughtUp tells that everything up to the moment at which the stream began is delivered.
	CaughtUp bool
}

// Streamer is a Store whose watch tells more: how far it has read although nothing changed, and
// when it has caught up. Follow uses it where it is there; without it, every lost watch costs a
// list.
type Streamer interface {
	// Stream is Watch, with batches.
	Stream(ctx context.Context, revision string, kinds []string, f func(Batch) error) error
}

// Pager is a Store that can be listed a page at a time, so that a hundred thousand objects need not be
// in memory at once. Follow uses it where it is there.
type Pager interface {
	// ListPages calls f with one page after the other, all of one revision, which each page names. It
	// ends with an error, ErrCompacted among them, when not all could be read.
	ListPages(ctx context.Context, kinds []string, f func(*List)) error
}

// Partitioner is a Store whose kinds have no revision in common. Follow lists and watches each part by itself, so
// that what happens to one part (a revision that is gone, a watch that breaks) costs the others nothing.
type Partitioner interface {
	// Partition splits kinds into those that have a revision in common, keeping their order.
	Partition(kinds []string) [][]string
}

// Store holds resources. Every call honours its context. Objects that go in are defaulted and
// validated (v3.Default, v3.Validate) before anything is written, and are never modified; objects
// that come out carry TypeMeta, UID, creation time and ResourceVersion.
type Store interface {
	Get(ctx context.Context, key Key) (v3.Object, error)
	// List reads the kinds at one revision; that of a Partitioner, each part at one of its own.
	List(ctx context.Context, kinds ...string) (*List, error)
	Create(ctx context.Context, o v3.Object) (v3.Object, error)
	// Update replaces the resource if its ResourceVersion is still o's (ErrConflict otherwise);
	// an empty ResourceVersion in o replaces whatever is there.
	Update(ctx context.Context, o v3.Object) (v3.Object, error)
	Delete(ctx context.Context, key Key, p Precondition) error
	// Watch sends the changes of the kinds after revision, in order, in batches of what the store
	// delivered together. It returns when ctx ends, with ErrCompacted when the revision is too
	// old, or with another error when the stream broke; it never skips silently.
	Watch(ctx context.Context, revision string, kinds []string, f func([]Change) error) error
	Close() error
}

// State is where a follower stands.
type State string

// The states of a follower, and the values of weft_datastore_sync_state{state}.
const (
	StateWait   State = "wait-for-datastore" // nothing read yet, or the store is away
	StateResync State = "resync-in-progress" // reading a snapshot
	StateInSync State = "in-sync"            // all that was stored has been delivered
)

// Sink receives what Follow reads. Calls come from one goroutine, in order.
type Sink interface {
	// OnState tells a change of state; err says why the store is away, else nil. The first
	// StateInSync marks the end of the first complete snapshot. When the store comes back after
	// having been away, what changed meanwhile is delivered before StateInSync.
	OnState(s State, err error)
	// OnChanges delivers changes: a nil Object without Err is a deletion.
	OnChanges(c []Change)
}

// Wrap adds what was tried and on what to one of this package's errors.
func Wrap(verb string, k Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}
