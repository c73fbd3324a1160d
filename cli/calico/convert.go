// Package calico reads what Calico keeps as crd.projectcalico.org/v1, and turns each object into the one of
// projectcalico.org/v3 that it stands for. It writes nothing.
package calico

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	v3 "weft/api/v3"
)

const (
	oldVersion = "crd.projectcalico.org/v1"
	newVersion = v3.Group + "/" + v3.Version
	// stash is the annotation in which Calico keeps an object's own metadata: a policy's name, since it is stored by
	// another, and labels and annotations.
	stash = "projectcalico.org/metadata"
	// oldIPAMKind is what IPAMConfiguration was called.
	oldIPAMKind = "IPAMConfig"

	createdBy     = "projectcalico.org/created-by"
	byController  = "calico-kube-controllers"
	appliedBefore = "kubectl.kubernetes.io/last-applied-configuration"
)

// Stored is one object as Calico has it.
type Stored struct {
	Source string // a file, or the API server
	fields map[string]any
}

// Item is what is to become of one object.
type Item struct {
	Source string
	Ref    string // "networkpolicy/shop/default.web", as it was stored
	Kind   string // as it is called here; empty: none
	// Object is what to import, with defaults and valid; nil where one of the next says why not.
	Object  v3.Object
	LeftOut string
	Refused error
}

// Convert says what one object is here.
func Convert(s Stored) Item {
	kind, _ := s.fields["kind"].(string)
	version, _ := s.fields["apiVersion"].(string)
	meta, _ := s.fields["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	item := Item{Source: s.Source, Ref: strings.ToLower(kind) + "/" + strings.TrimPrefix(namespace+"/"+name, "/")}
	if version != oldVersion && version != newVersion {
		item.LeftOut = fmt.Sprintf("%s is none of Calico's groups", text(version))
		return item
	}
	item.Kind = kind
	if version == oldVersion && kind == oldIPAMKind {
		item.Kind = v3.KindIPAMConfiguration
	}
	info, known := v3.LookupKind(item.Kind)
	if !known || info.Kind != item.Kind {
		item.Refused, item.Kind = fmt.Errorf("kind %s is not known here", text(kind)), ""
		return item
	}
	if item.LeftOut = leftOut(item.Kind, name, meta); item.LeftOut != "" {
		return item
	}
	item.Object, item.Refused = convert(info, version, s.fields, meta)
	return item
}

// leftOut says why an object of Calico's own making has no place here, or nothing.
func leftOut(kind, name string, meta map[string]any) string {
	labels, _ := meta["labels"].(map[string]any)
	switch {
	case kind == v3.KindNode:
		return "each node service makes its own"
	case kind == v3.KindWorkloadEndpoint:
		return "each node service makes those of its pods"
	case kind == v3.KindClusterInformation:
		return "weft controllers keep it"
	case kind == v3.KindCalicoNodeStatus:
		return "a question to Calico's nodes"
	case kind == v3.KindProfile && (strings.HasPrefix(name, "kns.") || strings.HasPrefix(name, "ksa.") || name == "projectcalico-default-allow"):
		return "made from a namespace or service account, here too"
	case kind == v3.KindTier && (name == "adminnetworkpolicy" || name == "baselineadminnetworkpolicy"):
		return "Calico's own tier for Kubernetes' cluster policies; those here are built in"
	case kind == v3.KindHostEndpoint && labels[createdBy] == byController:
		return "weft controllers make it, where hostEndpoint.autoCreate asks for it"
	case slices.Contains(v3.TieredKinds(), kind) && (strings.HasPrefix(name, "knp.default.") || strings.HasPrefix(name, "ossg.default.")):
		return "made from Kubernetes' own NetworkPolicy, here too"
	}
	return ""
}

func convert(info v3.KindInfo, version string, fields, meta map[string]any) (v3.Object, error) {
	m, err := readMetadata(meta)
	if err != nil {
		return nil, err
	}
	if slices.Contains(v3.TieredKinds(), info.Kind) && version == oldVersion {
		m.Name = policyName(m, fields)
	} else {
		m.Name, _ = meta["name"].(string)
	}
	out := maps.Clone(fields)
	delete(out, "status")
	out["apiVersion"], out["kind"], out["metadata"] = newVersion, info.Kind, m
	data, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	objects, err := v3.Decode(data)
	if err != nil {
		return nil, withoutPlace(err)
	}
	if len(objects) != 1 {
		return nil, fmt.Errorf("it is %d objects", len(objects))
	}
	v3.Default(objects[0])
	return objects[0], v3.Validate(objects[0])
}

// metadata is what of an object's metadata is imported.
type metadata struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	stored string // the name as it was stored
}

// readMetadata takes labels and annotations from where Calico's releases keep them: in the object's metadata, or in its
// annotation, which goes before. The name is that of the annotation, if it has one.
func readMetadata(meta map[string]any) (m metadata, err error) {
	plain, err := reread[metadata](meta)
	if err != nil {
		return m, fmt.Errorf("metadata: %w", err)
	}
	m = metadata{Namespace: plain.Namespace, Labels: plain.Labels, Annotations: plain.Annotations, stored: plain.Name}
	if text, there := plain.Annotations[stash]; there {
		var inner metadata
		if err := json.Unmarshal([]byte(text), &inner); err != nil {
			return m, fmt.Errorf("metadata.annotations[%s]: %w", stash, err)
		}
		m.Name = inner.Name
		m.Labels, m.Annotations = over(m.Labels, inner.Labels), over(m.Annotations, inner.Annotations)
	}
	for _, a := range []string{stash, appliedBefore} {
		delete(m.Annotations, a)
	}
	return m, nil
}

func over(base, top map[string]string) map[string]string {
	if base == nil {
		base = map[string]string{}
	}
	maps.Copy(base, top)
	return base
}

// policyName is the name that people know a policy by. It is stored with its tier before it, the default one too; where
// the annotation does not tell the name, that of a policy in the default tier is without.
func policyName(m metadata, fields map[string]any) string {
	if m.Name != "" {
		return m.Name
	}
	spec, _ := fields["spec"].(map[string]any)
	if tier, _ := spec["tier"].(string); tier == "" || tier == v3.TierDefault {
		return strings.TrimPrefix(m.stored, v3.TierDefault+".")
	}
	return m.stored
}

// reread turns a tree of JSON into a T.
func reread[T any](tree any) (out T, err error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(data, &out)
}

var place = regexp.MustCompile(`^document 1 \(line 1\)(, [^:]*)?: `)

// withoutPlace takes out of errors which document of one they are about.
func withoutPlace(err error) error {
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		lines = append(lines, place.ReplaceAllString(line, ""))
	}
	return errors.New(strings.Join(lines, "; "))
}

func text(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
