package v3

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// customResource is what the tests read of a CustomResourceDefinition.
type customResource struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Group string
		Scope string
		Names struct {
			Kind, ListKind, Plural, Singular string
			ShortNames, Categories           []string
		}
		Versions []struct {
			Name   string
			Schema struct{ OpenAPIV3Schema schemaNode }
		}
	}
}

// schemaNode is what the tests read of a schema.
type schemaNode struct {
	Type        string
	Format      string
	Enum        []string
	Minimum     *float64
	Maximum     *float64
	Pattern     string
	Description string
	Properties  map[string]schemaNode
}

func customResources(t *testing.T) map[string]customResource {
	t.Helper()
	paths, err := filepath.Glob("../../manifests/crds/projectcalico.org_*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found %d CRDs: %v", len(paths), err)
	}
	out := map[string]customResource{}
	for _, path := range paths {
		var c customResource
		if err := yaml.Unmarshal(readFile(t, path), &c); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out[c.Spec.Names.Kind] = c
	}
	return out
}

// TestKindsAgreeWithCRDs holds the registry and the generated CRDs together.
func TestKindsAgreeWithCRDs(t *testing.T) {
	crds := customResources(t)
	for _, k := range Kinds() {
		if k.GroupVersion.Group != Group {
			continue
		}
		c, ok := crds[k.Kind]
		if !ok {
			t.Errorf("%s has no CRD", k.Kind)
			continue
		}
		delete(crds, k.Kind)
		scope := "Cluster"
		if k.Namespaced {
			scope = "Namespaced"
		}
		want := []string{"CustomResourceDefinition", k.Plural + "." + Group, Group, scope, k.Plural, k.Singular, k.Kind + "List", strings.Join(k.Short, " ")}
		n := c.Spec.Names
		got := []string{c.Kind, c.Metadata.Name, c.Spec.Group, c.Spec.Scope, n.Plural, n.Singular, n.ListKind, strings.Join(n.ShortNames, " ")}
		if k.Kind == KindNode || k.Kind == KindWorkloadEndpoint {
			// The cluster's own short names of nodes and the plural of wep are kept out of Kubernetes.
			want[7], got[7] = "", ""
		}
		// kubectl get calico lists what people write.
		if !k.Internal && k.Kind != KindWorkloadEndpoint {
			want = append(want, "calico", "weft")
		}
		got = append(got, n.Categories...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: registry and CRD differ (-registry +CRD):\n%s", k.Kind, diff)
		}
		if len(c.Spec.Versions) != 1 || c.Spec.Versions[0].Name != k.GroupVersion.Version {
			t.Errorf("%s: CRD versions %+v, want only %s", k.Kind, c.Spec.Versions, k.GroupVersion.Version)
		}
	}
	for kind := range crds {
		t.Errorf("CRD of %s has no kind in the registry", kind)
	}
}

func TestKinds(t *testing.T) {
	kinds := Kinds()
	if !slices.IsSortedFunc(kinds, func(a, b KindInfo) int { return strings.Compare(a.Kind, b.Kind) }) {
		t.Errorf("not sorted by kind")
	}
	seen := map[string]string{}
	for _, k := range kinds {
		o := k.New()
		if got := o.GetObjectKind().GroupVersionKind(); got != k.GroupVersionKind() || got.GroupVersion() != k.GroupVersion {
			t.Errorf("%s: New has TypeMeta %v", k.Kind, got)
		}
		if kind, ok := KindOf(o); !ok || kind != k.Kind {
			t.Errorf("%s: KindOf is %v, %v", k.Kind, kind, ok)
		}
		if gvk, ok := GroupVersionKindOf(o); !ok || gvk != k.GroupVersionKind() {
			t.Errorf("%s: GroupVersionKindOf is %v, %v", k.Kind, gvk, ok)
		}
		if direct, ok := newOfKind(k.Kind); !ok || reflect.TypeOf(direct) != reflect.TypeOf(o) {
			t.Errorf("%s: newOfKind gives a %T", k.Kind, direct)
		}
		if namespaced := validateNamespace(nil, "", k.Kind) != nil; namespaced != k.Namespaced {
			t.Errorf("%s: validation says namespaced %v, the registry %v", k.Kind, namespaced, k.Namespaced)
		}
		for _, c := range k.Columns {
			c.Value(o) // an empty object shows
			if got := c.Value(nil); got != "" {
				t.Errorf("%s %s of nothing is %q", k.Kind, c.Name, got)
			}
			if c.Name != strings.ToUpper(c.Name) {
				t.Errorf("%s: column %s is not upper case", k.Kind, c.Name)
			}
		}
		for _, name := range append([]string{strings.ToLower(k.Kind), k.Plural}, k.Short...) {
			if other, dup := seen[name]; dup {
				t.Errorf("%q names both %s and %s", name, other, k.Kind)
			}
			seen[name] = k.Kind
		}
	}
	kinds[0].Kind = "changed"
	if Kinds()[0].Kind == "changed" {
		t.Errorf("Kinds returns a slice that others see")
	}
}

func TestLookupKind(t *testing.T) {
	for name, want := range map[string]string{
		"IPPool": "IPPool", "ippool": "IPPool", "IPPOOLS": "IPPool", "ipp": "IPPool", "pool": "IPPool",
		"wep": "WorkloadEndpoint", "felixconfig": "FelixConfiguration", "FelixConfigurations": "FelixConfiguration",
		"ns": "Namespace", "namespaces": "Namespace", "no": "Node", "affinities": "BlockAffinity",
		"ippools.projectcalico.org": "IPPool", "IPPool.projectcalico.org": "IPPool", " nodes ": "Node",
		"networkpolicies": "NetworkPolicy", "NetworkPolicy": "NetworkPolicy", "cnp": "NetworkPolicy", "networkpolicy.projectcalico.org": "NetworkPolicy",
		"networkpolicies.networking.k8s.io": "KubernetesNetworkPolicy", "networkpolicy.networking.k8s.io": "KubernetesNetworkPolicy",
		"netpol": "KubernetesNetworkPolicy", "KubernetesNetworkPolicy": "KubernetesNetworkPolicy", "networkpolicies.policy.networking.k8s.io": "",
		"clusternetworkpolicies.policy.networking.k8s.io": "ClusterNetworkPolicy", "clusternetpol": "ClusterNetworkPolicy",
		"svc": "Service", "sa": "ServiceAccount", "endpointslices.discovery.k8s.io": "EndpointSlice", "gnp": "GlobalNetworkPolicy",
		"bgpconfig": "BGPConfiguration", "BGPConfigurations": "BGPConfiguration", "bgppeer": "BGPPeer", "bgpfilter": "BGPFilter", "caliconodestatus": "CalicoNodeStatus", "bgpp": "BGPPeer", "nodestatus": "CalicoNodeStatus",
		"secrets": "Secret", "nodes.v1": "", "ippools.crd.projectcalico.org": "", "ippool.": "", "": "", "pods": "", "namespace.": "Namespace",
	} {
		got, ok := LookupKind(name)
		if got.Kind != want || ok != (want != "") {
			t.Errorf("LookupKind(%q) is %q, %v, want %q", name, got.Kind, ok, want)
		}
	}
}

func TestColumns(t *testing.T) {
	o := decodeOne(t, `{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.0.0.0/16, vxlanMode: CrossSubnet}}`)
	Default(o)
	k, _ := LookupKind("pool")
	var got []string
	for _, c := range k.Columns {
		got = append(got, c.Name+"="+c.Value(o))
	}
	want := "CIDR=10.0.0.0/16 VXLAN=CrossSubnet IPIP=Never NAT=false DISABLED=false SELECTOR=all() NAMESPACES= BLOCKSIZE=26 USES=Workload,Tunnel ASSIGNMENT=Automatic ACCEPTED="
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}
