package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// getEndpoint reads the WorkloadEndpoint of a pod.
func (s *Store) getEndpoint(ctx context.Context, src *source, key datastore.Key) (v3.Object, error) {
	c, err := s.getPod(ctx, src, key)
	switch {
	case err != nil:
		return nil, err
	case c.Err != nil:
		return nil, fmt.Errorf("what is stored cannot be understood: %w", c.Err)
	case c.Object == nil || c.Key != key:
		return nil, datastore.ErrNotFound
	}
	return c.Object, nil
}

// DescribePod returns what the WorkloadEndpoint of a pod is but for its addresses, which the pod need not have yet: its
// labels, annotations, service account, ports, node and UID. It is datastore.ErrNotFound when there is no such pod.
func (s *Store) DescribePod(ctx context.Context, namespace, name string) (*v3.WorkloadEndpoint, error) {
	src := s.sources[v3.KindWorkloadEndpoint]
	pod, err := s.readPod(ctx, src, datastore.Key{Kind: "Pod", Namespace: namespace, Name: name})
	if err != nil {
		return nil, fmt.Errorf("get pod %s/%s: %w", namespace, name, err)
	}
	return src.describe(pod), nil
}

// readPod reads a pod by its own name.
func (s *Store) readPod(ctx context.Context, src *source, key datastore.Key) (*corev1.Pod, error) {
	path, err := src.at(key, "")
	if err != nil {
		return nil, err
	}
	r := get(path)
	r.accept = protobufType
	b, err := s.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return decodePod(b)
}

// getPod reads the pod of a WorkloadEndpoint; the Change has no object where it has no endpoint.
func (s *Store) getPod(ctx context.Context, src *source, key datastore.Key) (datastore.Change, error) {
	name, err := podKey(src, key)
	if err != nil {
		return datastore.Change{}, err
	}
	pod, err := s.readPod(ctx, src, name)
	if err != nil {
		return datastore.Change{}, err
	}
	return src.endpointOf(pod), nil
}

// podKey names the pod of a WorkloadEndpoint.
func podKey(src *source, key datastore.Key) (datastore.Key, error) {
	if _, err := src.at(key, ""); err != nil { // of the key as such
		return key, err
	}
	pod, ok := podOf(key.Name)
	if !ok {
		return key, fmt.Errorf("in Kubernetes a WorkloadEndpoint is named <node>-k8s-<pod>-eth0, and is a pod: %w", datastore.ErrNotFound)
	}
	return datastore.Key{Kind: key.Kind, Namespace: key.Namespace, Name: pod}, nil
}

// writeEndpoint writes the addresses and the container of w into the pod's annotations; fresh: it must have none.
func (s *Store) writeEndpoint(ctx context.Context, src *source, w *v3.WorkloadEndpoint, fresh bool) (v3.Object, error) {
	annotations, err := addressAnnotations(w)
	if err != nil {
		return nil, err
	}
	key := datastore.KeyOf(w)
	now, err := s.getPod(ctx, src, key)
	switch {
	case err != nil:
		return nil, err
	case now.Key != key:
		return nil, fmt.Errorf("the pod is on another node, or on its host's network: %w", datastore.ErrInvalid)
	case fresh && now.Object != nil:
		return nil, datastore.ErrAlreadyExists
	case !fresh && now.Object == nil && now.Err == nil:
		return nil, datastore.ErrNotFound
	}
	return s.annotate(ctx, src, key, annotations, datastore.Precondition{ResourceVersion: w.ResourceVersion, UID: string(w.UID)})
}

// addressAnnotations are what says in a pod's annotations which addresses it has, and for which container.
func addressAnnotations(w *v3.WorkloadEndpoint) (map[string]any, error) {
	if w.Spec.Orchestrator != "" && w.Spec.Orchestrator != orchestrator {
		return nil, fmt.Errorf("%w: spec.orchestrator is %q: in Kubernetes every WorkloadEndpoint is a pod", datastore.ErrInvalid, w.Spec.Orchestrator)
	}
	if err := v3.Validate(w); err != nil {
		return nil, fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	var ips []string
	for _, n := range w.Spec.IPNetworks {
		ip, _, _ := strings.Cut(n, "/")
		ips = append(ips, ip)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%w: spec.ipNetworks: a pod's endpoint has an address", datastore.ErrInvalid)
	}
	return map[string]any{annotationIP: ips[0], annotationIPs: strings.Join(ips, ","), annotationContainer: w.Spec.ContainerID}, nil
}

// WritePod writes the addresses and the container of w into the pod of its UID, whatever was there: one request, where
// Create needs another one that reads the pod. A pod of that UID stays on its node; where the name is another pod's by
// now the error is datastore.ErrConflict.
func (s *Store) WritePod(ctx context.Context, w *v3.WorkloadEndpoint) error {
	key := datastore.KeyOf(w)
	err := s.writePod(ctx, key, w)
	return datastore.Wrap("write", key, err)
}

func (s *Store) writePod(ctx context.Context, key datastore.Key, w *v3.WorkloadEndpoint) error {
	src, err := s.source(key.Kind)
	if err != nil {
		return err
	}
	if w.UID == "" {
		return fmt.Errorf("metadata.uid is empty: %w", datastore.ErrInvalid)
	}
	annotations, err := addressAnnotations(w)
	if err != nil {
		return err
	}
	written, err := s.annotate(ctx, src, key, annotations, datastore.Precondition{UID: string(w.UID)})
	if err == nil && written != nil && datastore.KeyOf(written) != key {
		return fmt.Errorf("the pod is on another node: %w", datastore.ErrInvalid)
	}
	return err
}

// deleteEndpoint says in the pod's annotations that it has no addresses any more.
func (s *Store) deleteEndpoint(ctx context.Context, src *source, key datastore.Key, p datastore.Precondition) error {
	if _, err := s.getEndpoint(ctx, src, key); err != nil {
		return err
	}
	_, err := s.annotate(ctx, src, key, map[string]any{annotationIP: "", annotationIPs: "", annotationContainer: nil}, p)
	return err
}

// annotate patches annotations by way of the pod's status, which leaves the pod itself out of what the node service may
// write. Kubernetes checks a revision and a UID that a patch has.
func (s *Store) annotate(ctx context.Context, src *source, key datastore.Key, annotations map[string]any, p datastore.Precondition) (v3.Object, error) {
	meta := map[string]any{"annotations": annotations}
	if p.ResourceVersion != "" {
		meta["resourceVersion"] = p.ResourceVersion
	}
	if p.UID != "" {
		meta["uid"] = p.UID
	}
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return nil, err
	}
	name, err := podKey(src, key)
	if err != nil {
		return nil, err
	}
	path, err := src.at(name, "status")
	if err != nil {
		return nil, err
	}
	b, err := s.do(ctx, &request{verb: http.MethodPatch, path: path, body: body,
		patch: string(types.MergePatchType), accept: protobufType})
	if p.UID != "" && errors.Is(err, datastore.ErrInvalid) && strings.Contains(err.Error(), "metadata.uid") {
		return nil, fmt.Errorf("it was deleted and created anew: its UID is not %s: %w", p.UID, datastore.ErrConflict)
	}
	if err != nil {
		return nil, err
	}
	pod, err := decodePod(b)
	if err != nil {
		return nil, fmt.Errorf("read the pod that was written: %w", err)
	}
	c := src.endpointOf(pod)
	return c.Object, c.Err
}
