package datastore

import (
	"encoding/json"
	"hash/maphash"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
)

// Unchanged leaves out changes of which nothing but conditions, or what the store counts, is new: what the cluster says of
// a resource is no reason to do anything. It goes by the content, since generations mean nothing once a store was set
// back. Pools are not its matter: a node goes by their conditions. Its zero value works; one goroutine uses it.
type Unchanged struct {
	seed maphash.Seed
	last map[Key]uint64 // of resources that have conditions
}

// Drop returns the changes that are some; it may reuse their memory.
func (u *Unchanged) Drop(changes []Change) []Change {
	if u.last == nil {
		u.seed, u.last = maphash.MakeSeed(), map[Key]uint64{}
	}
	out := changes[:0]
	for _, c := range changes {
		if !u.same(c) {
			out = append(out, c)
		}
	}
	return out
}

func (u *Unchanged) same(c Change) bool {
	if c.Err != nil { // nothing of it is known but this
		return u.again(c.Key, []byte("error: "+c.Err.Error()))
	}
	if c.Object == nil || c.Key.Kind == v3.KindIPPool || v3.ConditionsOf(c.Object) == nil {
		delete(u.last, c.Key)
		return false
	}
	o, ok := c.Object.DeepCopyObject().(v3.Object)
	if !ok {
		return false
	}
	*v3.ConditionsOf(o) = nil
	o.SetManagedFields([]metav1.ManagedFieldsEntry(nil))
	o.SetResourceVersion("")
	o.SetGeneration(0)
	data, err := json.Marshal(o)
	if err != nil {
		delete(u.last, c.Key)
		return false
	}
	return u.again(c.Key, data)
}

// again notes the content of a resource; it tells whether that is what it was.
func (u *Unchanged) again(k Key, content []byte) bool {
	now := maphash.Bytes(u.seed, content)
	was, known := u.last[k]
	u.last[k] = now
	return known && was == now
}
