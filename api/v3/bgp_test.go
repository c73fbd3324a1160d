package v3

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestBGPAgreesWithCRD takes every bound that the CRDs state of a field and asks the code for the same
// one, as TestFelixAgreesWithCRD does.
func TestBGPAgreesWithCRD(t *testing.T) {
	crds := customResources(t)
	enums, patterns, bounds := 0, 0, 0
	for kind, base := range map[string]map[string]any{
		KindBGPConfiguration: {},
		KindBGPPeer:          {"peerIP": "192.0.2.1"},
		KindCalicoNodeStatus: {"node": "n1", "classes": []string{"BGP"}},
	} {
		valid := func(field string, v any) bool {
			spec := maps.Clone(base)
			spec[field] = v
			b, err := json.Marshal(map[string]any{"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": map[string]any{"name": "default"}, "spec": spec})
			if err != nil {
				t.Fatal(err)
			}
			objects, err := Decode(b)
			return err == nil && Validate(objects[0]) == nil
		}
		spec := crds[kind].Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		for name, s := range spec.Properties {
			for _, v := range s.Enum {
				enums++
				if !valid(name, v) {
					t.Errorf("%s.%s: the CRD takes %q, the code does not", kind, name, v)
				}
			}
			if len(s.Enum) > 0 && valid(name, "bogus") || s.Pattern != "" && valid(name, "; bogus") {
				t.Errorf("%s.%s: the code takes what the CRD does not", kind, name)
			}
			if s.Pattern != "" {
				patterns++
			}
			// The API server refuses every object then.
			if s.Format == "int32" && s.Maximum != nil && *s.Maximum > math.MaxInt32 {
				t.Errorf("%s.%s: a bound of %v with 32 bits", kind, name, *s.Maximum)
			}
			for _, b := range []struct {
				at   *float64
				step float64
			}{{s.Minimum, -1}, {s.Maximum, 1}} {
				if b.at == nil {
					continue
				}
				bounds++
				// 0 is the same as absent there.
				if beyond := int64(*b.at + b.step); valid(name, beyond) && (name != "listenPort" || beyond != 0) {
					t.Errorf("%s.%s: the code takes %d, beyond the CRD's bound", kind, name, beyond)
				}
				if !valid(name, int64(*b.at)) {
					t.Errorf("%s.%s: the CRD takes %v, the code does not", kind, name, *b.at)
				}
			}
		}
	}
	if enums < 14 || patterns < 1 || bounds < 14 {
		t.Errorf("only %d values of enums, %d patterns and %d bounds were compared", enums, patterns, bounds)
	}
	t.Logf("%d values of enums, %d patterns, %d bounds agree", enums, patterns, bounds)
}

func TestParsePeerIP(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1 0", "192.0.2.1:1179": "192.0.2.1 1179", "2001:db8::1": "2001:db8::1 0",
		"[2001:db8::1]:65535": "2001:db8::1 65535", "fe80::1%eth0": "fe80::1%eth0 0", "[fe80::1%eth0.100]:1": "fe80::1%eth0.100 1",
		"127.0.0.1:1179": "127.0.0.1 1179", "169.254.1.1": "169.254.1.1 0",
	} {
		a, port, err := ParsePeerIP(in)
		if got := fmt.Sprint(a, " ", port); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:-1", ":179", "192.0.2", "2001:db8::1:65536:", "[2001:db8::1]", "2001:db8::1%eth0",
		"::", "ff02::1", "[ff02::1%eth0]:179", "fe80::1", "fe80::1%", "fe80::1%a/b", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:179", "host:179"} {
		if a, port, err := ParsePeerIP(in); err == nil {
			t.Errorf("%q is taken for %v, %d", in, a, port)
		}
	}
}

func TestParseCommunity(t *testing.T) {
	for in, want := range map[string]string{"0:0": "0:0", "65535:065535": "65535:65535", "4294967295:00:1": "4294967295:0:1"} {
		if got, err := ParseCommunity(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":", "1", "1:", ":1", "65536:0", "0:65536", "1:2:4294967296", "1:2:3:4", "+1:1", "0x1:1", "1: 1", "1:1\n", "-0:1"} {
		if got, err := ParseCommunity(in); err == nil {
			t.Errorf("%q is taken for %s", in, got)
		}
	}
}

func TestBGPDefaults(t *testing.T) {
	peer := &BGPPeer{Spec: BGPPeerSpec{KeepOriginalNextHop: true}}
	Default(peer)
	if s := peer.Spec; s.SourceAddress != SourceAddressUseNodeIP || s.ReversePeering != ReversePeeringAuto || s.NextHopMode != "" {
		t.Errorf("got %+v", s)
	}
	// What a wider configuration says shines through.
	c := &BGPConfiguration{}
	Default(c)
	if b, _ := json.Marshal(c.Spec); string(b) != "{}" {
		t.Errorf("BGPConfiguration has the defaults %s", b)
	}
}

func TestBGPColumns(t *testing.T) {
	objects, err := Decode(readFile(t, "testdata/manifests/bgp.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		Default(o)
		kind, _ := KindOf(o)
		k, _ := LookupKind(kind)
		row := []string{strings.ToLower(kind), o.GetName()}
		for _, c := range k.Columns {
			row = append(row, c.Name+"="+c.Value(o))
		}
		got = append(got, strings.Join(row, " "))
	}
	for _, want := range []string{
		"bgpconfiguration default MESH=true ASN=65546 PORT=1179 REFLECTORS-ABOVE=0 SERVICES=10.96.0.0/12,fd00:96::/108,198.51.100.7 + 1 more ACCEPTED=",
		"bgpconfiguration node.n1 MESH= ASN= PORT=179 REFLECTORS-ABOVE= SERVICES= ACCEPTED=",
		"bgppeer rack1-tor PEER=192.0.2.1:1179 NODE=rack == 'rack-1' ASN=64513 FILTERS=no-default,only-pods BFD=true PASSWORD=secret/bgp ACCEPTED=",
		"bgppeer to-reflectors PEER=nodes has(route-reflector) NODE=!has(route-reflector) ASN= FILTERS= BFD=false PASSWORD= ACCEPTED=",
		"bgppeer pods PEER=pods app == 'router' NODE=n1 ASN=65001 FILTERS= BFD=true PASSWORD= ACCEPTED=",
		"bgppeer link-local PEER=[fe80::1%eth0]:179 NODE=all() ASN=4294967294 FILTERS= BFD=false PASSWORD= ACCEPTED=",
		"bgpfilter only-pods IPV4=1 in, 3 out IPV6=1 in, 1 out",
		"caliconodestatus n1 NODE=n1 CLASSES=Agent,BGP,Routes EVERY=10s ESTABLISHED=2/3",
		"secret bgp TYPE=Opaque DATA=2",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no row %s in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// TestSecretShowsNoValue plants a value everywhere in a Secret and looks for it in what may be printed.
func TestSecretShowsNoValue(t *testing.T) {
	const canary, encoded = "canary-7f3a", "Y2FuYXJ5LTdmM2E="
	s := &corev1.Secret{Data: map[string][]byte{"a": []byte(canary)}, StringData: map[string]string{"b": canary}}
	s.Name, s.Namespace = "a", "b"
	s.Annotations = map[string]string{lastApplied: canary, "mine": "kept"}
	b, err := json.Marshal(Redacted(s))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b); strings.Contains(text, canary) || strings.Contains(text, encoded) || !strings.Contains(text, `"a":"[redacted]","b":"[redacted]"`) || !strings.Contains(text, `"mine":"kept"`) {
		t.Errorf("shown as %s", text)
	}
	if string(s.Data["a"]) != canary || s.Annotations[lastApplied] != canary {
		t.Errorf("the Secret itself was changed: %v", s)
	}
	if o := Object(&Node{}); Redacted(o) != any(o) {
		t.Errorf("a Node is shown as something else")
	}
	head := "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\n"
	refused := 0
	for _, body := range []string{
		"data: {x: %s}", "data: %s", "data: [%s]", "data: {x: [%s]}", "data: {x: {y: %s}}", "stringData: {x: [%s]}", "stringData: {x: {y: %s}}", "stringData: %s",
		"type: [%s]", "immutable: %s", "spec: %s", "spec: {x: %s}", "x: *%s", "x: !!int %s", "metadata: %s", "data: {a: 1, a: %s}", "x: [%s", "{%s: ", "stringData: {x: \"%s\\q\"}", "\t%s",
		"stringData: {x: %s: }", "data: {x: | %s}",
	} {
		for _, v := range []string{canary, encoded + "!", "7" + strings.Repeat("3", 20)} {
			_, err := Decode([]byte(head + fmt.Sprintf(body, v)))
			if err == nil {
				continue
			}
			if refused++; strings.Contains(err.Error(), v) {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
	if refused < 50 {
		t.Errorf("only %d were refused", refused)
	}
	for _, stored := range []string{`{"data":{"a":%q}}`, `{"data":%q}`, `{"stringData":{"a":[%q]}}`, `{"immutable":%q}`, `{"type":{"a":%q}}`} {
		_, err := DecodeStored(KindSecret, fmt.Appendf(nil, stored, canary))
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", stored, err)
		}
	}
}

func TestSecretUpdate(t *testing.T) {
	secret := func(body string) Object {
		o := decodeOne(t, "{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: b}, "+body+"}")
		Default(o)
		return o
	}
	for _, c := range []struct{ old, updated, want string }{
		{"data: {a: YQ==}", "stringData: {a: b}", ""},
		{"data: {a: YQ==}, immutable: true", "stringData: {a: a}, immutable: true", ""},
		{"data: {a: YQ==}, immutable: true", "stringData: {a: b}", `[immutable: Forbidden: the Secret is immutable: delete it and create it anew, data: Forbidden: the Secret is immutable: delete it and create it anew]`},
		{"type: x", "type: z", `type: Invalid value: "z": cannot change from x: create another Secret instead`},
	} {
		if got := errText(ValidateUpdate(secret(c.updated), secret(c.old))); got != c.want {
			t.Errorf("%s -> %s: got %s, want %s", c.old, c.updated, got, c.want)
		}
	}
	big := &corev1.Secret{Data: map[string][]byte{"a": make([]byte, corev1.MaxSecretSize)}, StringData: map[string]string{"a": "replaced"}}
	big.Name, big.Namespace = "a", "b"
	if err := Validate(big); err != nil {
		t.Error(err)
	}
	big.StringData = map[string]string{"b": "x"}
	if got := errText(Validate(big)); got != "data: Too long: may not be more than 1048576 bytes" {
		t.Error(got)
	}
}
