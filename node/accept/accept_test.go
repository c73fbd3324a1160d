package accept

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/policies"
	"weft/policy"
)

func decoded(t *testing.T, kind, name, spec string) v3.Object {
	t.Helper()
	version := "projectcalico.org/v3"
	if kind == v3.KindKubernetesNetworkPolicy {
		kind, version = "NetworkPolicy", "networking.k8s.io/v1"
	}
	docs, err := v3.Decode([]byte(fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec: %s", version, kind, name, spec)))
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := v3.LookupKind(docs[0].GetObjectKind().GroupVersionKind().GroupKind().String()); info.Namespaced {
		docs[0].SetNamespace("default")
	}
	v3.Default(docs[0])
	if err := v3.Validate(docs[0]); err != nil {
		t.Fatalf("%s %s: %v", kind, spec, err)
	}
	return docs[0]
}

// What is said of a resource that every rule accepts. The kinds of which nothing is wrong are the control: a function that
// found fault with all would fail there.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		kind, name, spec string
		reason, message  string // of the worst; empty: accepted
	}{
		{"NetworkPolicy", "a", "{selector: all(), ingress: [{action: Allow}]}", "", ""},
		{"NetworkPolicy", "a", "{ingress: [{action: Allow}, {action: Allow, http: {methods: [GET]}}]}", v3.ReasonUnsupported, "spec.ingress[1].http: nobody looks into HTTP here: the rule is about every request"},
		{"NetworkPolicy", "a", "{tier: front}", v3.ReasonNotFound, "there is no Tier front"},
		{"NetworkPolicy", "a", "{tier: there}", "", ""},
		{"NetworkPolicy", "a", "{tier: kube-admin}", "", ""},
		{"NetworkPolicy", "a", "{tier: front, ingress: [{action: Allow, http: {}}]}", v3.ReasonNotFound, "nobody looks into HTTP"},
		{"GlobalNetworkPolicy", "a", "{namespaceSelector: all(), doNotTrack: true, applyOnForward: true}", "", ""},
		{"GlobalNetworkPolicy", "a", "{ingress: [{action: Allow, http: {}}]}", v3.ReasonUnsupported, "take these out"},
		{"StagedNetworkPolicy", "a", "{ingress: [{action: Allow, http: {}}]}", v3.ReasonUnsupported, "spec.ingress[0].http"},
		{"StagedNetworkPolicy", "a", "{stagedAction: Delete}", "", ""},
		{"StagedGlobalNetworkPolicy", "a", "{tier: front}", v3.ReasonNotFound, "spec.tier"},
		{"StagedKubernetesNetworkPolicy", "a", "{podSelector: {}, ingress: [{}]}", "", ""},
		{v3.KindKubernetesNetworkPolicy, "a", "{podSelector: {}, ingress: [{}]}", "", ""},
		{"Profile", "a", "{ingress: [{action: Allow}]}", "", ""},
		{"Tier", "a", "{order: 1}", "", ""},
		{"Tier", "weft-rejected", "{order: 1}", v3.ReasonInvalid, "give it another name"},
		{"BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513}", "", ""},
		{"BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513, filters: [there]}", "", ""},
		{"BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513, filters: [there, gone]}", v3.ReasonNotFound, "spec.filters[1]: there is no BGPFilter gone"},
		{"BGPPeer", "a", "{localWorkloadSelector: all(), asNumber: 64513}", v3.ReasonUnsupported, "nodes speak no BGP with pods"},
		{"BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513, password: {secretKeyRef: {name: bgp-secrets, key: k}}}", "", ""},
		{"BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513, password: {secretKeyRef: {name: mine, key: k}}}", v3.ReasonNotFound, "Secret bgp-secrets in namespace kube-system alone, not mine"},
		{"BGPConfiguration", "default", "{nodeToNodeMeshEnabled: false}", "", ""},
		{"BGPConfiguration", "default", "{programClusterRoutes: Enabled}", v3.ReasonUnsupported, "spec.programClusterRoutes=Enabled"},
		{"FelixConfiguration", "default", "{wireguardEnabled: true}", "", ""},
		{"FelixConfiguration", "default", "{bpfEnabled: true}", v3.ReasonUnsupported, "kept and without effect in this release: spec.bpfEnabled=true"},
		{"KubeControllersConfiguration", "default", "{controllers: {node: {leakGracePeriod: 1h}}}", "", ""},
		{"KubeControllersConfiguration", "default", "{controllers: {loadBalancer: {assignIPs: AllServices}}}", v3.ReasonUnsupported, "spec.controllers.loadBalancer.assignIPs"},
		{"IPPool", "a", "{cidr: 10.1.0.0/16}", "", ""},
		{"IPPool", "a", "{cidr: 10.0.0.0/16}", v3.PoolReasonCIDROverlap, "older"},
	} {
		b := NewBook(true)
		b.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: v3.KindTier, Name: "there"}, Object: decoded(t, "Tier", "there", "{}")},
			{Key: datastore.Key{Kind: v3.KindBGPFilter, Name: "there"}, Object: decoded(t, "BGPFilter", "there", "{}")},
			{Key: datastore.Key{Kind: v3.KindIPPool, Name: "older"}, Object: decoded(t, "IPPool", "older", "{cidr: 10.0.0.0/24}")}})
		o := decoded(t, c.kind, c.name, c.spec)
		if c.kind == v3.KindIPPool {
			o.SetCreationTimestamp(metav1.Now())
		}
		key := datastore.KeyOf(o)
		b.OnChanges([]datastore.Change{{Key: key, Object: o}})
		got := Condition(b.Problems(key), 3)
		want := metav1.ConditionTrue
		if c.reason != "" {
			want = metav1.ConditionFalse
		} else {
			c.reason = v3.ReasonAccepted
		}
		if got.Status != want || got.Reason != c.reason || !strings.Contains(got.Message, c.message) || got.ObservedGeneration != 3 {
			t.Errorf("%s %s: %+v, want %s, %s, %q", c.kind, c.spec, got, want, c.reason, c.message)
		}
		if n := len(b.Entries()); (n > 0) != (want == metav1.ConditionFalse) {
			t.Errorf("%s %s: %d entries", c.kind, c.spec, n)
		}
		b.OnChanges([]datastore.Change{{Key: key}})
		if e := b.Entries(); len(e) > 0 {
			t.Errorf("%s %s: it is gone, and %v is said", c.kind, c.spec, e)
		}
	}
}

// On etcd nodes may read any Secret of the namespace.
func TestSecretsOfEtcd(t *testing.T) {
	o := decoded(t, "BGPPeer", "a", "{peerIP: 192.0.2.1, asNumber: 64513, password: {secretKeyRef: {name: mine, key: k}}}")
	for kubernetes, want := range map[bool]int{true: 1, false: 0} {
		if b := Read(&datastore.List{Items: []v3.Object{o}}, kubernetes); len(b.Entries()) != want {
			t.Errorf("on Kubernetes %v: %v", kubernetes, b.Entries())
		}
	}
}

// What only rules in Go refuse is invalid, until it is right; what names a tier is found by it.
func TestBook(t *testing.T) {
	b := NewBook(false)
	p := decoded(t, "NetworkPolicy", "a", "{tier: front}")
	key, tier := datastore.KeyOf(p), datastore.Key{Kind: v3.KindTier, Name: "front"}
	reason := func() string { return Condition(b.Problems(key), 1).Reason }
	b.OnChanges([]datastore.Change{{Key: key, Err: errors.New("spec.selector: a\nb")}})
	if reason() != v3.ReasonInvalid || strings.Contains(b.Problems(key)[0].Message, "\n") {
		t.Errorf("refused: %v", b.Problems(key))
	}
	b.OnChanges([]datastore.Change{{Key: key, Object: p}})
	if reason() != v3.ReasonNotFound || !slices.Equal(b.Naming(tier), []datastore.Key{key}) {
		t.Errorf("without its tier: %v, named by %v", b.Problems(key), b.Naming(tier))
	}
	b.OnChanges([]datastore.Change{{Key: tier, Object: decoded(t, "Tier", "front", "{}")}})
	if reason() != v3.ReasonAccepted {
		t.Errorf("with its tier: %v", b.Problems(key))
	}
	b.OnChanges([]datastore.Change{{Key: tier}})
	if reason() != v3.ReasonNotFound {
		t.Errorf("its tier is gone: %v", b.Problems(key))
	}
}

// Every kind with conditions is judged, and every kind that is judged is one of the lists; else a Book would pass it over.
func TestKindsAreJudged(t *testing.T) {
	kinds := slices.Concat(Kinds(), Foreign(), Needed())
	if len(Kinds()) < 12 {
		t.Fatalf("only %d kinds have conditions: %v", len(Kinds()), Kinds())
	}
	for _, k := range v3.Kinds() {
		if judges(k.Kind) != slices.Contains(kinds, k.Kind) {
			t.Errorf("%s is judged: %v", k.Kind, judges(k.Kind))
		}
	}
}

// A compiler refuses nothing that the conversion takes, so that Judge need not ask one.
func TestCompilerRefusesNoMore(t *testing.T) {
	n := 0
	for _, selector := range []string{"all()", "a == 'b'", "has(x) && !has(y)", "a in {'b', 'c'} || !has(d)", "a not in {'b'}", "a contains 'b'", "a starts with 'x'"} {
		for _, spec := range []string{"{selector: %[1]q}", "{serviceAccountSelector: %[1]q}", "{ingress: [{action: Allow, source: {selector: %[1]q, namespaceSelector: %[1]q}}]}",
			"{egress: [{action: Deny, destination: {notSelector: %[1]q}}]}", "{ingress: [{action: Pass, source: {serviceAccounts: {selector: %[1]q}}}]}"} {
			p, err := policies.PolicyOf(decoded(t, "NetworkPolicy", "a", fmt.Sprintf(spec, selector)))
			if err == nil {
				n++
				err = policy.NewCompiler("n1").SetPolicy(p)
			}
			if err != nil {
				t.Errorf(spec+": %v", selector, err)
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d were compiled", n)
	}
}
