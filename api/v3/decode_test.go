package v3

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const allKinds = "BGPConfiguration, BGPFilter, BGPPeer, BlockAffinity, CalicoNodeStatus, ClusterInformation, ClusterNetworkPolicy, EndpointSlice, FelixConfiguration, GlobalNetworkPolicy, GlobalNetworkSet, " +
	"HostEndpoint, IPAMBlock, IPAMConfiguration, IPAMHandle, IPPool, IPReservation, KubeControllersConfiguration, Namespace, NetworkPolicy, NetworkSet, Node, Profile, Secret, Service, " +
	"ServiceAccount, StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy, StagedNetworkPolicy, Tier, WorkloadEndpoint"

const poolHead = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: a\n"

// TestDecodeErrors shows each message whole: it is what a person sees.
func TestDecodeErrors(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"unknown field", poolHead + "spec: {cidr: 10.0.0.0/16, vxlanmode: Always}",
			`document 1 (line 1), IPPool a: spec.vxlanmode: Invalid value: "Always": unknown field, did you mean "vxlanMode"?`},
		{"unknown field, nothing near", poolHead + "spec: {cidr: 10.0.0.0/16, colour: red}",
			`document 1 (line 1), IPPool a: spec.colour: Invalid value: "red": unknown field, want one of allowedUses, assignmentMode, blockSize, cidr, disableBGPExport, disabled, ipipMode, namespaceSelector, natOutgoing, nodeSelector, vxlanMode`},
		{"unknown field of a large kind", "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {colour: red}",
			`document 1 (line 1), FelixConfiguration default: spec.colour: Invalid value: "red": unknown field`},
		{"unknown field in a list", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n1}\nspec: {addresses: [{address: 192.0.2.1}, {addr: 192.0.2.2}]}",
			`document 1 (line 1), Node n1: spec.addresses[1].addr: Invalid value: "192.0.2.2": unknown field, want one of address, type`},
		{"unknown field of metadata", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, lables: {}}\nspec: {cidr: 10.0.0.0/16}",
			`document 1 (line 1), IPPool a: metadata.lables: Invalid value: {}: unknown field, did you mean "labels"?`},
		{"duplicate field", poolHead + "spec:\n  cidr: 10.0.0.0/16\n  cidr: 10.1.0.0/16",
			`document 1 (line 1): line 7: key "cidr" is a duplicate field`},
		{"duplicate field, later document", poolHead + "spec: {cidr: 10.0.0.0/16}\n---\n" + poolHead + "spec:\n  cidr: 10.0.0.0/16\n  cidr: 10.1.0.0/16",
			`document 2 (line 7): line 13: key "cidr" is a duplicate field`},
		{"duplicate field in JSON", `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"a"},"spec":{"cidr":"10.0.0.0/16","cidr":"10.1.0.0/16"}}`,
			`document 1 (line 1): spec.cidr: duplicate field`},
		{"number for a string", poolHead + "spec: {cidr: 10}",
			`document 1 (line 1), IPPool a: spec.cidr: Invalid value: 10: want a string: put it in quotes`},
		{"boolean for a label", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, labels: {spare: yes}}\nspec: {cidr: 10.0.0.0/16}",
			`document 1 (line 1), IPPool a: metadata.labels[spare]: Invalid value: true: want a string: put it in quotes`},
		{"string for a boolean", poolHead + `spec: {cidr: 10.0.0.0/16, natOutgoing: "true"}`,
			`document 1 (line 1), IPPool a: spec.natOutgoing: Invalid value: "true": want true or false`},
		{"string for a number", poolHead + `spec: {cidr: 10.0.0.0/16, blockSize: "26"}`,
			`document 1 (line 1), IPPool a: spec.blockSize: Invalid value: "26": want a whole number of 64 bits`},
		{"fraction", poolHead + `spec: {cidr: 10.0.0.0/16, blockSize: 26.5}`,
			`document 1 (line 1), IPPool a: spec.blockSize: Invalid value: 26.5: want a whole number of 64 bits`},
		{"port too large", "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: w, namespace: ns}\nspec: {ports: [{protocol: TCP, port: 65536}]}",
			`document 1 (line 1), WorkloadEndpoint ns/w: spec.ports[0].port: Invalid value: 65536: want a whole number from 0 to 65535`},
		{"list for an object", poolHead + `spec: []`,
			`document 1 (line 1), IPPool a: spec: Invalid value: []: want an object`},
		{"string for a list", poolHead + `spec: {cidr: 10.0.0.0/16, allowedUses: Tunnel}`,
			`document 1 (line 1), IPPool a: spec.allowedUses: Invalid value: "Tunnel": want a list`},
		{"null in a list", poolHead + `spec: {cidr: 10.0.0.0/16, allowedUses: [Tunnel, null]}`,
			`document 1 (line 1), IPPool a: spec.allowedUses[1]: Invalid value: null: null: want a string`},
		{"not a duration", "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {netlinkTimeout: 10}",
			`document 1 (line 1), FelixConfiguration default: spec.netlinkTimeout: Invalid value: 10: want a duration such as "90s" or "1m30s"`},
		{"not a port range", "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {natPortRange: [1]}",
			`document 1 (line 1), FelixConfiguration default: spec.natPortRange: Invalid value: [1]: want a number or a string`},
		{"not an AS number", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n1}\nspec: {bgp: {asNumber: 4294967296}}",
			`document 1 (line 1), Node n1: spec.bgp.asNumber: Invalid value: 4294967296: AS number "4294967296": want a number from 0 to 4294967295, or two of 16 bits with a dot between them`},
		{"not a time", "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {name: b}\nspec: {affinityClaimTime: yesterday}",
			`document 1 (line 1), IPAMBlock b: spec.affinityClaimTime: Invalid value: "yesterday": want a time such as "2026-01-31T12:00:00Z"`},
		{"unknown kind", "apiVersion: projectcalico.org/v3\nkind: IPool\nmetadata: {name: a}",
			`document 1 (line 1), IPool a: kind: unknown kind "IPool", did you mean "IPPool"?`},
		{"a kind of two groups", "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a}",
			`document 1 (line 1), NetworkPolicy a: apiVersion: got "extensions/v1beta1", want "networking.k8s.io/v1" or "projectcalico.org/v3" for kind NetworkPolicy`},
		{"unknown kind, nothing near", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}",
			`document 1 (line 1), Pod a: kind: unknown kind "Pod", want one of ` + allKinds},
		{"other version", "apiVersion: projectcalico.org/v1\nkind: IPPool\nmetadata: {name: a}",
			`document 1 (line 1), IPPool a: apiVersion: got "projectcalico.org/v1", want "projectcalico.org/v3" for kind IPPool`},
		{"Kubernetes' own Node", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}",
			`document 1 (line 1), Node n1: apiVersion: got "v1", want "projectcalico.org/v3" for kind Node`},
		{"kind of another shape", "apiVersion: crd.projectcalico.org/v1\nkind: IPAMConfig\nmetadata: {name: default}",
			`document 1 (line 1), IPAMConfig default: kind: crd.projectcalico.org/v1 IPAMConfig has another shape here: write kind IPAMConfiguration, apiVersion projectcalico.org/v3, name default`},
		{"neither kind nor version", "metadata: {name: a}",
			"document 1 (line 1), a: apiVersion: missing, for example projectcalico.org/v3\ndocument 1 (line 1), a: kind: missing, for example IPPool"},
		{"kind of a wrong type", "apiVersion: projectcalico.org/v3\nkind: 3",
			`document 1 (line 1): kind: got 3, want a string`},
		{"not an object", "- a\n- b", `document 1 (line 1): got ["a","b"], want an object with apiVersion, kind and metadata`},
		{"not YAML", "a: b: c", `document 1 (line 1): mapping values are not allowed in this context`},
		{"not YAML, later line", poolHead + "spec: {}\n---\nkind: IPPool\n  name: x", `document 2 (line 7): line 8: mapping values are not allowed in this context`},
		{"cut off JSON", `{"apiVersion":"projectcalico.org/v3","kind":`, `document 1 (line 1): unexpected EOF`},
		{"items not a list", "apiVersion: v1\nkind: List\nitems: {}", `document 1 (line 1): items: got {}, want a list`},
		{"unknown field of a list", "apiVersion: v1\nkind: List\nitem: []\nitems: []", `document 1 (line 1): item: unknown field of a list`},
		{"item of a list", "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(poolHead, "\n", "\n  ") + "spec: {cidr: 1}",
			`document 1 (line 1), items[0], IPPool a: spec.cidr: Invalid value: 1: want a string: put it in quotes`},
		{"several mistakes", poolHead + "spec: {cidr: 1, blocksize: 2}\n---\n" + poolHead + "spec: {natOutgoing: 3}",
			"document 1 (line 1), IPPool a: spec.blocksize: Invalid value: 2: unknown field, did you mean \"blockSize\"?\n" +
				"document 1 (line 1), IPPool a: spec.cidr: Invalid value: 1: want a string: put it in quotes\n" +
				"document 2 (line 7), IPPool a: spec.natOutgoing: Invalid value: 3: want true or false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode([]byte(c.in))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if got != nil {
				t.Errorf("got %d objects beside the error", len(got))
			}
		})
	}
}

func TestDecodeForms(t *testing.T) {
	const pool = `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"%"},"spec":{"cidr":"10.0.0.0/16"}}`
	named := func(n string) string { return strings.Replace(pool, "%", n, 1) }
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"comments only", "# nothing\n---\n# here\n", ""},
		{"JSON", named("a"), "IPPool/a"},
		{"JSON values one after the other", named("a") + "\n\n" + named("b"), "IPPool/a IPPool/b"},
		{"JSON within YAML documents", "---\n" + named("a") + "\n---\n" + named("b"), "IPPool/a IPPool/b"},
		{"YAML that begins like JSON", `{"apiVersion": projectcalico.org/v3, "kind": IPPool, "metadata": {name: a}, spec: {cidr: 10.0.0.0/16}}`, "IPPool/a"},
		{"text behind the separator", "--- # first\n" + poolHead + "\n--- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n", "IPPool/a Namespace/b"},
		{"empty documents", "---\n---\n" + poolHead + "---\n\n---\n", "IPPool/a"},
		{"Windows line ends", strings.ReplaceAll("---\n"+poolHead+"---\n"+poolHead, "\n", "\r\n"), "IPPool/a IPPool/a"},
		{"List", `{"apiVersion":"v1","kind":"List","metadata":{},"items":[` + named("a") + "," + named("b") + "]}", "IPPool/a IPPool/b"},
		{"list of a kind", "apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n", "IPPool/a IPPool/b"},
		{"empty list", "apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems: []\n", ""},
		{"older group", strings.Replace(named("a"), "projectcalico.org/v3", "crd.projectcalico.org/v1", 1), "IPPool/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := Decode([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				gvk := o.GetObjectKind().GroupVersionKind()
				if want, _ := GroupVersionKindOf(o); gvk != want {
					t.Errorf("TypeMeta %v, want %v", gvk, want)
				}
				got = append(got, gvk.Kind+"/"+o.GetName())
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func TestDecodeStored(t *testing.T) {
	const good = `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a"},"spec":{"cidr":"10.0.0.0/16"}}`
	for _, c := range []struct{ name, kind, in, want string }{
		{"good", "IPPool", good, ""},
		{"fields of a newer release", "IPPool", `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","new":1},"spec":{"cidr":"10.0.0.0/16","new":{"x":[1]}},"new":true}`, ""},
		{"a newer version", "IPPool", strings.Replace(good, "/v3", "/v4", 1), ""},
		{"wrong type", "IPPool", `{"kind":"IPPool","metadata":{"name":"a"},"spec":{"cidr":10,"new":1,"natOutgoing":"x"}}`,
			`decode stored IPPool: [spec.cidr: Invalid value: 10: want a string: put it in quotes, spec.natOutgoing: Invalid value: "x": want true or false]`},
		{"bad value", "IPPool", strings.Replace(good, "10.0.0.0/16", "10.0.0.1/16", 1),
			`decode stored IPPool a: spec.cidr: Invalid value: "10.0.0.1/16": has bits set after its prefix length, want 10.0.0.0/16`},
		{"another kind", "Node", good, `decode stored Node a: holds apiVersion "projectcalico.org/v3", kind "IPPool", want "projectcalico.org/v3", "Node"`},
		{"another group", "IPPool", strings.Replace(good, "projectcalico.org", "example.com", 1),
			`decode stored IPPool a: holds apiVersion "example.com/v3", kind "IPPool", want "projectcalico.org/v3", "IPPool"`},
		{"unknown kind", "Pod", good, `decode stored Pod: unknown kind`},
		{"not JSON", "IPPool", `{"kind":`, `decode stored IPPool: not JSON: unexpected EOF`},
		{"text behind", "IPPool", good + "}", `decode stored IPPool: not JSON: more text after the value, at byte 107`},
		{"not an object", "IPPool", `[1]`, `decode stored IPPool: got [1], want an object`},
		{"null", "IPPool", `null`, `decode stored IPPool : holds apiVersion "", kind "", want "projectcalico.org/v3", "IPPool"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := DecodeStored(c.kind, []byte(c.in))
			if got := errText(err); got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
			if (o == nil) != (c.want != "") {
				t.Errorf("object %v beside error %v", o, err)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEncode(t *testing.T) {
	pool := &IPPool{Spec: IPPoolSpec{CIDR: "10.0.0.0/16"}}
	pool.Name = "a"
	pool.Labels = map[string]string{"z": "1", "a": "2", "m": "3"}
	const want = `{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a","labels":{"a":"2","m":"3","z":"1"}},"spec":{"cidr":"10.0.0.0/16"}}`
	if diff := cmp.Diff(want, string(encode(t, pool))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if pool.Kind != "" {
		t.Errorf("Encode changed the object: kind %q", pool.Kind)
	}
	for _, o := range []Object{nil, (*IPPool)(nil)} {
		if b, err := Encode(o); err == nil {
			t.Errorf("Encode(%#v) is %s", o, b)
		}
		if err := Validate(o); err == nil {
			t.Errorf("Validate(%#v) is fine", o)
		}
		Default(o)
	}
}
