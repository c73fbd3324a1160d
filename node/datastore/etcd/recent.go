package etcd

import (
	"encoding/json"
	"strconv"
	"sync"

	v3 "weft/api/v3"
)

// known is the stored form of a resource, with what is worth keeping of having read it.
type known struct {
	rev    int64
	raw    []byte
	object v3.Object
	body   map[string]json.RawMessage // all but metadata and status; nil: not looked at yet
}

// recent holds what this process wrote last: an update that follows on its own predecessor, as
// those of a block of addresses do, needs no read. It is a hint only: every write is conditional
// on the revision that it follows on.
type recent struct {
	mu sync.Mutex
	m  map[string]*known
}

const (
	maxRecent      = 64
	maxRecentBytes = 64 << 10 // of one resource
)

// get returns what is known of a key at a resource version, or nil.
func (r *recent) get(key, version string) *known {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.m[key]
	if k == nil || strconv.FormatInt(k.rev, 10) != version {
		return nil
	}
	return k
}

// put keeps what was written; o is copied, since its caller owns it.
func (r *recent) put(key string, k *known, o v3.Object, rev int64) {
	object, ok := o.DeepCopyObject().(v3.Object)
	if !ok || k.body == nil || len(k.raw) > maxRecentBytes {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[string]*known{}
	}
	if _, there := r.m[key]; !there && len(r.m) >= maxRecent {
		for any := range r.m {
			delete(r.m, any)
			break
		}
	}
	r.m[key] = &known{rev: rev, raw: k.raw, object: object, body: k.body}
}
