package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft/node/datastore"
)

// LeaseNamespace is where leases are: with what else of this project runs in the cluster.
const LeaseNamespace = metav1.NamespaceSystem

var leases = &source{kind: "Lease", group: "coordination.k8s.io", version: "v1", resource: "leases", namespaced: true}

// GetLease implements datastore.Leaser by a Lease of Kubernetes in LeaseNamespace.
func (s *Store) GetLease(ctx context.Context, name string) (datastore.Lease, error) {
	key := datastore.Key{Kind: leases.kind, Namespace: LeaseNamespace, Name: name}
	path, err := leases.at(key, "")
	if err != nil {
		return datastore.Lease{}, datastore.Wrap("get", key, err)
	}
	b, err := s.do(ctx, get(path))
	if errors.Is(err, datastore.ErrNotFound) {
		return datastore.Lease{}, nil
	}
	var l datastore.Lease
	if err == nil {
		l, err = decodeLease(b)
	}
	return l, datastore.Wrap("get", key, err)
}

// PutLease implements datastore.Leaser.
func (s *Store) PutLease(ctx context.Context, name string, l datastore.Lease) (datastore.Lease, error) {
	key := datastore.Key{Kind: leases.kind, Namespace: LeaseNamespace, Name: name}
	r := &request{verb: http.MethodPost, path: leases.path(key.Namespace, "", "")}
	var err error
	if l.Version != "" {
		r.verb = http.MethodPut
		r.path, err = leases.at(key, "")
	}
	if err == nil {
		r.body, err = json.Marshal(encodeLease(key, l))
	}
	var b []byte
	if err == nil {
		b, err = s.do(ctx, r)
	}
	if errors.Is(err, datastore.ErrAlreadyExists) || l.Version != "" && errors.Is(err, datastore.ErrNotFound) {
		err = fmt.Errorf("somebody else made or removed it: %w", datastore.ErrConflict)
	}
	var out datastore.Lease
	if err == nil {
		out, err = decodeLease(b)
	}
	return out, datastore.Wrap("write", key, err)
}

func encodeLease(key datastore.Key, l datastore.Lease) *coordinationv1.Lease {
	out := &coordinationv1.Lease{TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: key.Kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, ResourceVersion: l.Version}}
	out.Spec.LeaseDurationSeconds = new(max(1, int32((l.Duration+time.Second-1)/time.Second)))
	out.Spec.LeaseTransitions = new(int32(l.Transitions))
	out.Spec.RenewTime = &metav1.MicroTime{Time: l.Renewed}
	if l.Holder != "" { // Kubernetes refuses an empty one
		out.Spec.HolderIdentity = new(l.Holder)
		out.Spec.AcquireTime = &metav1.MicroTime{Time: l.Acquired}
	}
	return out
}

func decodeLease(data []byte) (datastore.Lease, error) {
	var in coordinationv1.Lease
	if err := json.Unmarshal(data, &in); err != nil {
		return datastore.Lease{}, fmt.Errorf("read the lease: %w", err)
	}
	s := in.Spec
	return datastore.Lease{Version: in.ResourceVersion, Holder: given(s.HolderIdentity), Duration: time.Duration(given(s.LeaseDurationSeconds)) * time.Second,
		Acquired: given(s.AcquireTime).Time, Renewed: given(s.RenewTime).Time, Transitions: int(given(s.LeaseTransitions))}, nil
}

// given is what p points to, else the zero value.
func given[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
