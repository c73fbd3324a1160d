package v3

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weft/internal/examples"
)

// TestRefused holds every rule to the message that a person sees. Package examples says what the files hold.
func TestRefused(t *testing.T) {
	files, err := examples.Files("testdata/refused")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		lines, err := examples.Lines(file)
		if err != nil {
			t.Fatal(err)
		}
		cases, refused := 0, 0
		var out bytes.Buffer
		for _, line := range lines {
			fmt.Fprintln(&out, line)
			example, err := examples.Parse(line, lookupExample)
			if err != nil {
				t.Fatal(err)
			}
			if example == nil {
				continue
			}
			cases++
			for _, m := range refusals(t, example) {
				fmt.Fprintln(&out, "  -> "+m)
				if m != "ok" {
					refused++
				}
			}
		}
		if *update {
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(readFile(t, file)), out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
		t.Logf("%s: %d manifests, %d reasons", file, cases, refused)
	}
}

func lookupExample(name string) (schema.GroupVersionKind, bool, bool) {
	k, ok := LookupKind(name)
	if !ok {
		return schema.GroupVersionKind{}, false, false
	}
	return k.GroupVersionKind(), k.Namespaced, true
}

// refusals decodes, defaults and validates an example.
func refusals(t *testing.T, e *examples.Example) []string {
	t.Helper()
	objects, err := Decode([]byte(e.Manifest))
	if err != nil {
		return reasons(err)
	}
	before := Validate(objects[0])
	Default(objects[0])
	err = Validate(objects[0])
	if (before == nil) != (err == nil) {
		t.Errorf("%s: before defaults: %v; after: %v", e.Line, before, err)
	}
	return reasons(err)
}

func reasons(err error) []string {
	if err == nil {
		return []string{"ok"}
	}
	if many, ok := err.(interface{ Errors() []error }); ok {
		var out []string
		for _, e := range many.Errors() {
			out = append(out, e.Error())
		}
		return out
	}
	return strings.Split(err.Error(), "\n")
}

// TestEmptyIsNotAbsent takes match fields through YAML, JSON, defaults, copies and the stored form: an
// empty list stays one, an absent one stays absent.
func TestEmptyIsNotAbsent(t *testing.T) {
	const rule = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: a}, spec: {ingress: [{action: Allow, protocol: TCP, source: %s, destination: {%s}}]}}"
	type shape struct{ nets, notNets, ports, notPorts, names string }
	of := func(isNil bool, n int) string {
		if isNil {
			return "absent"
		}
		return strconv.Itoa(n)
	}
	look := func(o Object) shape {
		r := o.(*GlobalNetworkPolicy).Spec.Ingress[0]
		s := shape{nets: of(r.Source.Nets == nil, len(r.Source.Nets)), notNets: of(r.Source.NotNets == nil, len(r.Source.NotNets)),
			ports: of(r.Destination.Ports == nil, len(r.Destination.Ports)), notPorts: of(r.Destination.NotPorts == nil, len(r.Destination.NotPorts))}
		if a := r.Source.ServiceAccounts; a != nil {
			s.names = of(a.Names == nil, len(a.Names))
		}
		return s
	}
	absent := shape{"absent", "absent", "absent", "absent", ""}
	for _, c := range []struct {
		source, destination string
		want                shape
	}{
		{"{}", "", absent},
		{"null", "", absent},
		{"{nets: []}", "ports: []", shape{"0", "absent", "0", "absent", ""}},
		{"{nets: null}", "ports: null", absent},
		{"{notNets: []}", "notPorts: []", shape{"absent", "0", "absent", "0", ""}},
		{"{nets: [10.0.0.0/8]}", "ports: [80]", shape{"1", "absent", "1", "absent", ""}},
		{"{serviceAccounts: {}}", "", shape{"absent", "absent", "absent", "absent", "absent"}},
		{"{serviceAccounts: {names: []}}", "", shape{"absent", "absent", "absent", "absent", "0"}},
		{"{serviceAccounts: {names: [a]}}", "", shape{"absent", "absent", "absent", "absent", "1"}},
	} {
		o := decodeOne(t, fmt.Sprintf(rule, c.source, c.destination))
		stages := map[string]Object{"decoded": o}
		Default(o)
		stages["copied"] = o.DeepCopyObject().(Object)
		stored, err := DecodeStored(KindGlobalNetworkPolicy, encode(t, o))
		if err != nil {
			t.Fatal(err)
		}
		stages["stored"], stages["applied again"] = stored, decodeOne(t, string(encode(t, o)))
		for stage, o := range stages {
			if got := look(o); got != c.want {
				t.Errorf("source %s, destination {%s}, %s: got %+v, want %+v", c.source, c.destination, stage, got, c.want)
			}
		}
	}
}

// TestEmptyPeersOfKubernetes holds what empty and absent mean in Kubernetes' own policy: an empty list
// of peers or ports asks for nothing, as an absent one does; a selector that is there and empty
// selects everything, one that is absent nothing more; a policy without rules still isolates.
func TestEmptyPeersOfKubernetes(t *testing.T) {
	for in, want := range map[string]string{
		"{podSelector: {}}":                                               `{"podSelector":{},"policyTypes":["Ingress"]}`,
		"{ingress: []}":                                                   `{"podSelector":{},"policyTypes":["Ingress"]}`,
		"{egress: []}":                                                    `{"podSelector":{},"policyTypes":["Ingress"]}`,
		"{egress: [], policyTypes: [Egress]}":                             `{"podSelector":{},"policyTypes":["Egress"]}`,
		"{egress: [{}]}":                                                  `{"podSelector":{},"egress":[{}],"policyTypes":["Ingress","Egress"]}`,
		"{ingress: [{from: [], ports: []}]}":                              `{"podSelector":{},"ingress":[{}],"policyTypes":["Ingress"]}`,
		"{ingress: [{from: [{podSelector: {}}]}]}":                        `{"podSelector":{},"ingress":[{"from":[{"podSelector":{}}]}],"policyTypes":["Ingress"]}`,
		"{ingress: [{from: [{podSelector: {matchLabels: {}}}]}]}":         `{"podSelector":{},"ingress":[{"from":[{"podSelector":{}}]}],"policyTypes":["Ingress"]}`,
		"{ingress: [{from: [{namespaceSelector: {}}]}]}":                  `{"podSelector":{},"ingress":[{"from":[{"namespaceSelector":{}}]}],"policyTypes":["Ingress"]}`,
		"{ingress: [{from: [{namespaceSelector: {}, podSelector: {}}]}]}": `{"podSelector":{},"ingress":[{"from":[{"podSelector":{},"namespaceSelector":{}}]}],"policyTypes":["Ingress"]}`,
		"{ingress: [{ports: [{}]}]}":                                      `{"podSelector":{},"ingress":[{"ports":[{"protocol":"TCP"}]}],"policyTypes":["Ingress"]}`,
	} {
		o := decodeOne(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: b}, spec: "+in+"}")
		Default(o)
		_, spec, _ := strings.Cut(string(encode(t, o)), `"spec":`)
		if got := strings.TrimSuffix(spec, "}"); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
		stored, err := DecodeStored(KindKubernetesNetworkPolicy, encode(t, o))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, stored); diff != "" {
			t.Errorf("%s: (-was +stored)\n%s", in, diff)
		}
		if diff := cmp.Diff(o, o.DeepCopyObject().(Object)); diff != "" {
			t.Errorf("%s: (-was +copied)\n%s", in, diff)
		}
	}
}

// TestPolicyTypes holds what types mean when they are not given.
func TestPolicyTypes(t *testing.T) {
	for spec, want := range map[string]string{
		"{}":                                      "[Ingress]",
		"{types: []}":                             "[Ingress]",
		"{ingress: [{action: Allow}]}":            "[Ingress]",
		"{egress: []}":                            "[Ingress]",
		"{egress: [{action: Allow}]}":             "[Egress]",
		"{types: [Egress]}":                       "[Egress]",
		"{types: [Egress, Ingress]}":              "[Egress Ingress]",
		"{ingress: [], egress: [{action: Deny}]}": "[Egress]",
		"{ingress: [{action: Deny}], egress: [{action: Allow}]}": "[Ingress Egress]",
	} {
		o := decodeOne(t, "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: a, namespace: b}, spec: "+spec+"}")
		Default(o)
		if got := fmt.Sprint(PolicyOf(o).Types); got != want {
			t.Errorf("%s: got %s, want %s", spec, got, want)
		}
	}
}

// TestTierLabel holds that policies of a tier are found by its name.
func TestTierLabel(t *testing.T) {
	for in, want := range map[string]string{
		"metadata: {name: a, namespace: b}":                                                           "default",
		"metadata: {name: a, namespace: b}, spec: {tier: x}":                                          "x",
		"metadata: {name: a, namespace: b, labels: {projectcalico.org/tier: old}}, spec: {tier: x}":   "x",
		"metadata: {name: a, namespace: b, labels: {projectcalico.org/tier: old}}, spec: {tier: x.y}": "old",
		"metadata: {name: a, namespace: b, labels: {projectcalico.org/tier: '!'}}, spec: {tier: x}":   "!",
	} {
		o := decodeOne(t, "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, "+in+"}")
		Default(o)
		if got := o.GetLabels()[PolicyTierLabel]; got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestNamedPorts(t *testing.T) {
	for port, named := range map[string]bool{"80": false, `"80"`: false, `"1:2"`: false, "http": true, `"8080-tcp"`: true, `":"`: false, `""`: false, `"a:b"`: true} {
		o := decodeOne(t, "{apiVersion: projectcalico.org/v3, kind: Profile, metadata: {name: a}, spec: {ingress: [{action: Allow, protocol: TCP, destination: {ports: ["+port+"]}}]}}")
		if got := IsNamedPort(o.(*Profile).Spec.Ingress[0].Destination.Ports[0]); got != named {
			t.Errorf("port %s: named %v, want %v", port, got, named)
		}
	}
}

// FuzzPolicy takes any spec of the kinds of network policy: it never panics, and what it reads is kept
// as it is.
func FuzzPolicy(f *testing.F) {
	kinds := slices.Concat(policyKinds(), kubernetesKinds())
	lines := string(readFile(f, "testdata/refused/policy.txt")) + string(readFile(f, "testdata/refused/kubernetes.txt"))
	for _, line := range strings.Split(lines, "\n") {
		kind, body, _ := strings.Cut(line, " ")
		for i, k := range kinds {
			if k.Kind == kind && strings.HasPrefix(body, "{") {
				f.Add(uint8(i), examples.Expand(body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, spec string) {
		k := kinds[int(kind)%len(kinds)]
		namespace := ""
		if k.Namespaced {
			namespace = ", namespace: shop"
		}
		objects, err := Decode(fmt.Appendf(nil, "{apiVersion: %s, kind: %s, metadata: {name: a%s}, spec: %s}",
			k.GroupVersion, k.New().GetObjectKind().GroupVersionKind().Kind, namespace, spec))
		if err != nil {
			return
		}
		for _, o := range objects {
			stable(t, o)
			defaulted(t, o)
		}
	})
}
