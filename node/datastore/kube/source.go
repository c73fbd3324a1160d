package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// BGPSecret is the Secret, in v3.BGPPasswordNamespace, whose keys are passwords of BGP sessions. By its name the node
// service can be given this one and no other.
const BGPSecret = "bgp-secrets"

// KindHost is Kubernetes' own Node of Config.NodeName: a *corev1.Node. No other Node is read.
const KindHost = "KubernetesNode"

// source is where a kind comes from.
type source struct {
	kind       string
	group      string
	version    string
	resource   string
	namespaced bool
	// optional: where it is not served, or not for us, there is none.
	optional bool
	// status tells that the status is written apart from the rest.
	status bool
	// what is listed and watched; empty: all.
	namespace, fields string
	// pods are read for it, in another form.
	pods bool
	// self is the node whose pods are read in full.
	self string
	// waiting pods are read too: those that have no addresses.
	waiting bool
	// metadata is all that is read.
	metadata bool
}

// sources returns where each kind comes from; node is whose pods are read in full, waiting whether those without addresses
// are read.
func sources(node string, waiting bool) []*source {
	var out []*source
	for _, k := range v3.Kinds() {
		resource, _, _ := strings.Cut(k.Plural, ".")
		src := &source{kind: k.Kind, group: k.GroupVersion.Group, version: k.GroupVersion.Version, resource: resource, namespaced: k.Namespaced}
		switch k.Kind {
		case v3.KindWorkloadEndpoint:
			src.group, src.version, src.resource, src.pods, src.self = "", "v1", "pods", true, node
			src.waiting = waiting
		case v3.KindClusterNetworkPolicy:
			src.optional = true
		case v3.KindSecret:
			src.optional, src.namespace, src.fields = true, v3.BGPPasswordNamespace, "metadata.name="+BGPSecret
		case v3.KindCalicoNodeStatus, v3.KindIPPool, v3.KindTier: // as their CRDs have it
			src.status = true
		}
		out = append(out, src)
	}
	if node != "" {
		out = append(out, &source{kind: KindHost, version: "v1", resource: "nodes", fields: "metadata.name=" + node})
	}
	return out
}

// path is where the API server has the resource, one of it, or a part of that.
func (s *source) path(namespace, name, part string) []string {
	p := []string{"/api", s.version}
	if s.group != "" {
		p = []string{"/apis", s.group, s.version}
	}
	if namespace != "" {
		p = append(p, "namespaces", namespace)
	}
	p = append(p, s.resource)
	if name != "" {
		p = append(p, name)
	}
	if part != "" {
		p = append(p, part)
	}
	return p
}

// at checks a key and returns the path of what it names. A name is a part of a path: it cannot be one.
func (s *source) at(key datastore.Key, part string) ([]string, error) {
	switch {
	case s.namespaced && key.Namespace == "":
		return nil, fmt.Errorf("namespace is empty: %w", datastore.ErrInvalid)
	case !s.namespaced && key.Namespace != "":
		return nil, fmt.Errorf("%s is not namespaced, yet namespace %q is given: %w", key.Kind, key.Namespace, datastore.ErrInvalid)
	case key.Name == "":
		return nil, fmt.Errorf("name is empty: %w", datastore.ErrInvalid)
	}
	for _, v := range []string{key.Namespace, key.Name} {
		if i := strings.IndexFunc(v, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
		}); i >= 0 || v == "." || v == ".." || len(v) > 253 {
			return nil, fmt.Errorf("name %.60q has characters that are not allowed, or too many: %w", v, datastore.ErrInvalid)
		}
	}
	return s.path(key.Namespace, key.Name, part), nil
}

// meta is what every object has, read before the rest is understood.
type meta struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

// decode reads one object as JSON. When it cannot be understood the error says why and the rest is of what
// can be read of it: key and revision.
func (s *source) decode(data []byte) (key datastore.Key, o v3.Object, revision string, err error) {
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return datastore.Key{Kind: s.kind}, nil, "", fmt.Errorf("read %s: %w", s.kind, err)
	}
	key, revision = datastore.Key{Kind: s.kind, Namespace: m.Metadata.Namespace, Name: m.Metadata.Name}, m.Metadata.ResourceVersion
	if s.kind == KindHost {
		n := &corev1.Node{}
		err := json.Unmarshal(data, n)
		n.ManagedFields, n.Status.Images = nil, nil
		n.Kind = KindHost
		return key, n, revision, err
	}
	if m.Kind == "" { // as the items of a list of Kubernetes' own kinds are
		data = append([]byte(s.typeMeta()), data[1:]...)
	}
	o, err = v3.DecodeStored(s.kind, data)
	if err != nil {
		return key, nil, revision, fmt.Errorf("what is stored cannot be understood: %w", err)
	}
	o.SetManagedFields(nil)
	v3.Default(o) // who wrote it may not have known our defaults
	return key, o, revision, nil
}

// typeMeta begins an object that does not say what it is.
func (s *source) typeMeta() string {
	gv := s.version
	if s.group != "" {
		gv = s.group + "/" + s.version
	}
	kind := s.kind
	if kind == v3.KindKubernetesNetworkPolicy {
		kind = v3.KindNetworkPolicy
	}
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,`, gv, kind)
}

// page is one answer of a list.
type page struct {
	items    []datastore.Change // without deletions
	revision string
	next     string // continues the list; empty: this was all
}

// decodePage reads an answer of a list, but of pods.
func (s *source) decodePage(data []byte) (*page, error) {
	var l struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("read a list of %s: %w", s.resource, err)
	}
	if l.Metadata.ResourceVersion == "" {
		return nil, errors.New("the answer to a list has no resourceVersion: this is no API server")
	}
	p := &page{revision: l.Metadata.ResourceVersion, next: l.Metadata.Continue, items: make([]datastore.Change, 0, len(l.Items))}
	for _, item := range l.Items {
		key, o, revision, err := s.decode(item)
		if key.Name == "" {
			return nil, err
		}
		p.items = append(p.items, datastore.Change{Key: key, Object: o, Err: err, Revision: revision})
	}
	return p, nil
}
