// Package install puts the node service onto the nodes of a Kubernetes cluster, from the manifests that the binary carries.
package install

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"weft/manifests/crds"
	"weft/manifests/rendered"
)

// Object is a resource of Kubernetes, of any kind.
type Object map[string]any

// Options say what is installed.
type Options struct {
	Overlay string // a name of Overlays
	Pool    string // the CIDR of pods' addresses; empty: as the overlay has it
	Image   string // empty: as the overlay has it
	// Release is what ReleaseAnnotation says; empty: nothing.
	Release string
}

// ReleaseAnnotation of a pod names the weft that installed it. Another one replaces pods that a DaemonSet or Deployment
// rolls out, even where the name of the image is the same as before.
const ReleaseAnnotation = "weft.io/release"

// Overlays are the names of what can be installed, sorted.
func Overlays() []string {
	files, _ := fs.Glob(rendered.Files, "weft-*.yaml") // the pattern is well formed
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(f, "weft-"), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Manifests returns the CustomResourceDefinitions, and everything else in an order that works.
func Manifests(o Options) (kinds, rest []Object, err error) {
	if !slices.Contains(Overlays(), o.Overlay) {
		return nil, nil, fmt.Errorf("overlay %q: want one of %s", o.Overlay, strings.Join(Overlays(), ", "))
	}
	files, err := fs.Glob(crds.Files, "*.yaml")
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		more, err := read(crds.Files, f)
		if err != nil {
			return nil, nil, err
		}
		kinds = append(kinds, more...)
	}
	if rest, err = read(rendered.Files, "weft-"+o.Overlay+".yaml"); err != nil {
		return nil, nil, err
	}
	return kinds, rest, change(rest, o)
}

func read(files fs.FS, name string) ([]Object, error) {
	b, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		var o Object
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", name, err)
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all, nil
}

// change puts the image, the release and the addresses of pods into the manifests.
func change(objects []Object, o Options) error {
	images, pools := 0, 0
	for _, x := range objects {
		switch x.Kind() {
		case "DaemonSet", "Deployment":
			meta, ok := x.at("spec", "template", "metadata").(map[string]any)
			if ok && o.Release != "" && x.at("spec", "updateStrategy", "type") != "OnDelete" {
				annotations, _ := meta["annotations"].(map[string]any)
				if annotations == nil {
					annotations = map[string]any{}
				}
				annotations[ReleaseAnnotation] = o.Release
				meta["annotations"] = annotations
			}
			containers, _ := x.at("spec", "template", "spec", "containers").([]any)
			for _, c := range containers {
				if c, ok := c.(map[string]any); ok && o.Image != "" {
					c["image"] = o.Image
					images++
				}
			}
		case "IPPool":
			if spec, ok := x["spec"].(map[string]any); ok && o.Pool != "" {
				p, err := netip.ParsePrefix(o.Pool)
				if err != nil || p != p.Masked() {
					return fmt.Errorf("pool %q: want a CIDR without host bits, such as 10.244.0.0/16", o.Pool)
				}
				if mode, _ := spec["ipipMode"].(string); p.Addr().Is6() && mode != "" && mode != "Never" {
					return fmt.Errorf("pool %s: IPIP carries IPv4 only: take another overlay", o.Pool)
				}
				spec["cidr"] = o.Pool
				pools++
			}
		}
	}
	if o.Image != "" && images == 0 || o.Pool != "" && pools == 0 {
		return fmt.Errorf("overlay %s has no image or no pool to change", o.Overlay)
	}
	return nil
}

// Kind of the resource.
func (o Object) Kind() string { s, _ := o["kind"].(string); return s }

// Name of the resource.
func (o Object) Name() string { s, _ := o.at("metadata", "name").(string); return s }

// at returns what is at a path of fields, or nil.
func (o Object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// YAML is the text of resources, for kubectl apply -f.
func YAML(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	for i, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}
