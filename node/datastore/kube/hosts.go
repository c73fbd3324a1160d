package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft/node/datastore"
)

// allHosts are Kubernetes' Nodes, of which only the metadata is read: their status, with the list of images, is larger
// by far.
var allHosts = &source{kind: KindHost, version: "v1", resource: "nodes", metadata: true}

// Hosts implements datastore.Inventory by Kubernetes' Nodes.
func (s *Store) Hosts(ctx context.Context) (map[string]bool, error) {
	out, next := map[string]bool{}, ""
	for {
		p, err := s.page(ctx, allHosts, pageSize, next)
		if err != nil {
			return nil, fmt.Errorf("list the nodes of Kubernetes: %w", err)
		}
		for _, c := range p.items {
			out[c.Key.Name] = true
		}
		if next = p.next; next == "" {
			return out, nil
		}
	}
}

// HasHost implements datastore.Inventory.
func (s *Store) HasHost(ctx context.Context, name string) (bool, error) {
	path, err := allHosts.at(datastore.Key{Kind: KindHost, Name: name}, "")
	if err != nil {
		return false, nil // Kubernetes has no Node of such a name
	}
	_, err = s.do(ctx, &request{verb: http.MethodGet, path: path})
	if errors.Is(err, datastore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get node %s of Kubernetes: %w", name, err)
	}
	return true, nil
}

// WriteConditions implements datastore.ConditionWriter.
func (s *Store) WriteConditions(ctx context.Context, key datastore.Key, version string, conditions []metav1.Condition) (written bool, err error) {
	written, err = s.writeConditions(ctx, key, version, conditions)
	return written, datastore.Wrap("write the conditions of", key, err)
}

func (s *Store) writeConditions(ctx context.Context, key datastore.Key, version string, conditions []metav1.Condition) (bool, error) {
	src, err := s.source(key.Kind)
	if err != nil {
		return false, err
	}
	if version == "" {
		return false, errors.New("which version of it they are of is not said")
	}
	path, err := src.at(key, "")
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(conditions, func(c metav1.Condition) bool { return c.ObservedGeneration == 0 }) {
		var changed bool
		if conditions, changed, err = s.completed(ctx, path, version, conditions); err != nil || !changed {
			return false, err
		}
	}
	if path, err = src.at(key, "status"); err != nil {
		return false, err
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": version}, "status": map[string]any{"conditions": conditions}})
	if err != nil {
		return false, err
	}
	_, err = s.do(ctx, &request{verb: http.MethodPatch, path: path, body: body, patch: string(types.MergePatchType)})
	return err == nil, err
}

// completed returns the conditions that the resource has, with these set among them, of its generation: whose condition
// says the same keeps its time, and those of others stay.
func (s *Store) completed(ctx context.Context, path []string, version string, conditions []metav1.Condition) (out []metav1.Condition, changed bool, err error) {
	b, err := s.do(ctx, get(path))
	if err != nil {
		return nil, false, err
	}
	var is struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Status   struct {
			Conditions []metav1.Condition `json:"conditions"`
		} `json:"status"`
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return nil, false, fmt.Errorf("read what it has: %w", err)
	}
	if have := is.Metadata.ResourceVersion; have != version {
		return nil, false, fmt.Errorf("resource version is %s, not %s: %w", have, version, datastore.ErrConflict)
	}
	for _, c := range conditions {
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = is.Metadata.Generation
		}
		c.LastTransitionTime = metav1.Time{}
		changed = apimeta.SetStatusCondition(&is.Status.Conditions, c) || changed
	}
	return is.Status.Conditions, changed, nil
}
