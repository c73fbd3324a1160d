package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

const (
	labelTimeout = 10 * time.Second
	labelRetries = 10
)

// LabelChange sets labels and takes labels away.
type LabelChange struct {
	Set    map[string]string
	Remove []string
}

// ParseLabelChange reads KEY=VALUE and KEY- arguments.
func ParseLabelChange(args []string) (LabelChange, error) {
	c := LabelChange{Set: map[string]string{}}
	for _, a := range args {
		k, v, set := strings.Cut(a, "=")
		if !set {
			var ok bool
			if k, ok = strings.CutSuffix(a, "-"); !ok {
				return c, fmt.Errorf("label %q: want KEY=VALUE to set it or KEY- to remove it", a)
			}
			c.Remove = append(c.Remove, k)
		}
		if err := checkLabel(k, v); err != nil {
			return c, err
		}
		if set {
			c.Set[k] = v
		}
	}
	for _, k := range c.Remove {
		if _, both := c.Set[k]; both {
			return c, fmt.Errorf("label %q is both set and removed", k)
		}
	}
	return c, nil
}

// checkLabel applies the syntax of Kubernetes labels.
func checkLabel(key, value string) error {
	if bad := validation.IsQualifiedName(key); len(bad) > 0 {
		return fmt.Errorf("label key %q: %s", key, strings.Join(bad, "; "))
	}
	if bad := validation.IsValidLabelValue(value); len(bad) > 0 {
		return fmt.Errorf("label %s, value %q: %s", key, value, strings.Join(bad, "; "))
	}
	return nil
}

// LabelPod changes the labels of a pod's WorkloadEndpoint in the store, as a change of the pod's
// labels in Kubernetes would, and returns the new labels.
func (l *Lab) LabelPod(ctx context.Context, namespace, name string, c LabelChange) (map[string]string, error) {
	if err := checkPodName(namespace, name); err != nil {
		return nil, err
	}
	k, _, err := l.lockShared(ctx)
	if err != nil {
		return nil, err
	}
	defer k.release()
	one, err := l.lockOne(ctx, namespace+"."+name)
	if err != nil {
		return nil, err
	}
	defer one.release()
	r := podRecord{Namespace: namespace, Name: name}
	if err := readJSON(podPath(l.dir, r), &r); err != nil {
		if err := notExist(err); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("label pod %s/%s: lab %s has no such pod", namespace, name, l.name)
	}
	labels, err := l.labelEndpoint(ctx, r, c)
	if err != nil {
		return nil, fmt.Errorf("label pod %s/%s: %w", namespace, name, err)
	}
	r.Args.Labels = c.apply(r.Args.Labels)
	return labels, writeJSON(podPath(l.dir, r), r)
}

func (c LabelChange) apply(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, c.Set)
	for _, k := range c.Remove {
		delete(out, k)
	}
	return out
}

func (l *Lab) labelEndpoint(ctx context.Context, r podRecord, c LabelChange) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, labelTimeout)
	defer cancel()
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{l.StoreEndpoint()}, DialTimeout: labelTimeout})
	if err != nil {
		return nil, fmt.Errorf("reach the store: %w", err)
	}
	defer store.Close()
	for range labelRetries {
		e, err := findEndpoint(ctx, store, r)
		if err != nil {
			return nil, err
		}
		e.Labels = c.apply(e.Labels)
		out, err := store.Update(ctx, e)
		if err == nil {
			return out.GetLabels(), nil
		}
		if !errors.Is(err, datastore.ErrConflict) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("it changed under each of %d attempts: %w", labelRetries, datastore.ErrConflict)
}

// findEndpoint reads the endpoint that was made for the pod's container.
func findEndpoint(ctx context.Context, store datastore.Store, r podRecord) (*v3.WorkloadEndpoint, error) {
	list, err := store.List(ctx, v3.KindWorkloadEndpoint)
	if err != nil {
		return nil, err
	}
	for _, o := range list.Items {
		e, ok := o.(*v3.WorkloadEndpoint)
		if ok && e.Namespace == r.Namespace && e.Spec.ContainerID == r.ContainerID {
			return e, nil
		}
	}
	return nil, fmt.Errorf("WorkloadEndpoint of container %.12s: %w", r.ContainerID, datastore.ErrNotFound)
}
