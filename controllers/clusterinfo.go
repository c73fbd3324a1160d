package controllers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// keepClusterInformation has the store say which cluster this is, and which release looks after it.
func (s *sweeper) keepClusterInformation(ctx context.Context, l *datastore.List) error {
	var have *v3.ClusterInformation
	for _, o := range l.Items {
		if c, ok := o.(*v3.ClusterInformation); ok {
			have = c
		}
	}
	for _, r := range l.Rejected {
		if r.Key.Kind == v3.KindClusterInformation {
			return nil // somebody else's business
		}
	}
	want, create := clusterInformation(have, s.cfg.Version)
	var err error
	switch {
	case want == nil:
		return nil
	case create:
		_, err = s.store.Create(ctx, want)
	default:
		_, err = s.store.Update(ctx, want)
	}
	if err != nil && !errors.Is(err, datastore.ErrAlreadyExists) && !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrNotFound) {
		return fmt.Errorf("write ClusterInformation: %w", err)
	}
	return nil
}

// clusterInformation returns what is to be written, nil for nothing. An ID once given stays, and so does the word that the
// store is not ready: somebody moves it.
func clusterInformation(have *v3.ClusterInformation, version string) (want *v3.ClusterInformation, create bool) {
	if have == nil {
		info, _ := v3.LookupKind(v3.KindClusterInformation)
		want, create = info.New().(*v3.ClusterInformation), true
		want.Name = "default"
	} else {
		want = have.DeepCopy()
	}
	was := want.Spec
	if want.Spec.ClusterGUID == "" {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // never fails (package documentation)
		want.Spec.ClusterGUID = hex.EncodeToString(id)
	}
	if version != "" {
		want.Spec.CalicoVersion = version
	}
	if want.Spec.DatastoreReady == nil {
		want.Spec.DatastoreReady = new(true)
	}
	if !create && was == want.Spec {
		return nil, false
	}
	return want, create
}
