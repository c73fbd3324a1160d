package policies

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/policy"
	"weft/policy/eval"
)

const twoPods = `
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: c, interfaceName: weft1, ipNetworks: [10.244.0.1/32], profiles: [kns.shop]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n1-k8s-ci-eth0, namespace: ops, labels: {app: ci}}
spec: {orchestrator: k8s, node: n1, pod: ci, endpoint: eth0, containerID: c, interfaceName: weft2, ipNetworks: [10.244.0.2/32], profiles: [kns.ops]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 1}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: first.open}
spec: {tier: first, order: 1, selector: app == 'web', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Pass}], egress: [{action: Pass}]}
`

// A policy that cannot be understood, and of which no earlier form is known, denies all that it could: by
// its kind and namespace, before anything else, until it is understood or gone.
func TestStandIn(t *testing.T) {
	for _, tc := range []struct {
		kind, namespace string
		web, ops        bool // what reaches port 81 of each pod
		always          bool // what an earlier tier allows reaches web
		says            string
		good            string
	}{
		{v3.KindNetworkPolicy, "shop", false, true, false, "nothing passes to or from the pods of namespace shop",
			`{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {selector: app == 'none'}}`},
		{v3.KindKubernetesNetworkPolicy, "shop", false, true, true, "to and from the pods of namespace shop passes only what other policies allow",
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {podSelector: {matchLabels: {app: none}}}}`},
		{v3.KindGlobalNetworkPolicy, "", false, false, false, "nothing passes to or from all pods and host endpoints",
			`{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {selector: app == 'none'}}`},
		{v3.KindClusterNetworkPolicy, "", false, false, false, "nothing passes to or from all pods",
			`{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {app: none}}}}}`},
		{v3.KindStagedNetworkPolicy, "shop", true, true, true, "it is without effect", ""},
		{v3.KindNetworkSet, "shop", true, true, true, "it is without effect", ""},
	} {
		all := objects(t, twoPods)
		c := policy.NewCompiler("n1")
		f := NewFeeder("n1", c, false)
		for _, o := range all {
			if err := f.Change(datastore.Change{Key: datastore.KeyOf(o), Object: o}); err != nil {
				t.Fatal(err)
			}
		}
		before := c.Flush().Program.Format()
		k := datastore.Key{Kind: tc.kind, Namespace: tc.namespace, Name: "p"}
		no := errors.New("no JSON")
		for range 2 {
			err := f.Change(datastore.Change{Key: k, Err: no})
			if !errors.Is(err, no) || !strings.HasSuffix(err.Error(), tc.says) {
				t.Errorf("%s: the error is %v", k, err)
			}
		}
		p := c.Flush().Program
		to := func(device, address string, port uint16) bool {
			return eval.Allowed(p, &model.Packet{In: "eth0", Out: device, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr(address), Protocol: model.TCP, SrcPort: 9, DstPort: port})
		}
		if web, ops, always := to("weft1", "10.244.0.1", 81), to("weft2", "10.244.0.2", 81), to("weft1", "10.244.0.1", 80); web != tc.web || ops != tc.ops || always != tc.always {
			t.Errorf("%s: web is reached: %v, ops: %v, what is allowed first: %v, want %v, %v, %v", k, web, ops, always, tc.web, tc.ops, tc.always)
		}
		loaded, problems := convert("n1", nil, all, datastore.Rejection{Key: k, Err: no})
		want, err := policy.Compile(loaded)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Format(), p.Format()); diff != "" {
			t.Errorf("%s: -loaded +fed:\n%s", k, diff)
		}
		if diff := cmp.Diff(problems[0].Error(), f.Problems()[0].Error()); diff != "" {
			t.Errorf("%s: problems, -loaded +fed:\n%s", k, diff)
		}
		if tc.good != "" {
			good := objects(t, tc.good)[0]
			for _, ch := range []datastore.Change{{Key: k, Object: good}, {Key: k, Err: no}} {
				err := f.Change(ch)
				if ch.Err != nil && (err == nil || !strings.HasSuffix(err.Error(), untilRestart)) {
					t.Errorf("%s: with a form before, the error is %v", k, err)
				}
				if diff := cmp.Diff(before, c.Flush().Program.Format()); diff != "" {
					t.Errorf("%s: with a good form that selects nothing, -before +now:\n%s", k, diff)
				}
			}
		}
		_ = f.Change(datastore.Change{Key: k})
		if diff := cmp.Diff(before, c.Flush().Program.Format()); diff != "" || len(f.Problems()) > 0 {
			t.Errorf("%s: after the deletion, -before +now:\n%s", k, diff)
		}
		if len(f.standIns) > 0 || f.good[k] {
			t.Errorf("%s: something is left of it", k)
		}
	}
}

// Names of profiles that nobody has any more are forgotten.
func TestListsOfNamesAreForgotten(t *testing.T) {
	f := NewFeeder("n1", newView(), false)
	for _, o := range objects(t, twoPods) {
		if err := f.Change(datastore.Change{Key: datastore.KeyOf(o), Object: o}); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.lists) != 2 {
		t.Errorf("%d lists of names, want 2", len(f.lists))
	}
	for _, o := range objects(t, twoPods) {
		if err := f.Change(datastore.Change{Key: datastore.KeyOf(o)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.lists)+len(f.good) > 0 {
		t.Errorf("%d lists of names and %d resources are kept when all is gone", len(f.lists), len(f.good))
	}
}

// What a pod may send from beside its own addresses is what its record says, where the configuration
// lets it.
func TestSourcesNeedTheSetting(t *testing.T) {
	to := newView()
	f := NewFeeder("n1", to, false)
	tell := func(manifest string) {
		t.Helper()
		o := objects(t, manifest)[0]
		if err := f.Change(datastore.Change{Key: datastore.KeyOf(o), Object: o}); err != nil {
			t.Fatal(err)
		}
	}
	felix := func(mode string) string {
		return `{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {workloadSourceSpoofing: ` + mode + `}}`
	}
	pod := `{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n1-k8s-web-eth0, namespace: shop},
		spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: c, interfaceName: weft1, ipNetworks: [10.244.0.1/32], allowSpoofedSourcePrefixes: [192.0.2.0/24]}}`
	want := func(what string, n int) {
		t.Helper()
		if e := to.Endpoints[model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}]; len(e.Sources) != n {
			t.Errorf("%s: the pod may send from %v besides, want %d", what, e.Sources, n)
		}
	}
	tell(pod)
	want("unset", 0)
	tell(felix("Any"))
	want("Any", 1)
	tell(pod)
	want("Any, and the record again", 1)
	tell(felix("disabled"))
	want("Disabled", 0)
}

// A rule that asks for HTTP is enforced for connections, and told of.
func TestHTTPIsTold(t *testing.T) {
	to := newView()
	f := NewFeeder("n1", to, false)
	o := objects(t, `{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: shop},
		spec: {ingress: [{action: Allow}, {action: Allow, protocol: TCP, http: {methods: [GET]}}]}}`)[0]
	err := f.Change(datastore.Change{Key: datastore.KeyOf(o), Object: o})
	if err == nil || err.Error() != "NetworkPolicy shop/p: spec.ingress[1].http: nobody looks into HTTP here: the rule is about every request" {
		t.Errorf("the error is %v", err)
	}
	if len(to.Policy.Policies) != 1 || len(f.Problems()) != 1 || !f.good[datastore.KeyOf(o)] {
		t.Errorf("%d policies, problems %v", len(to.Policy.Policies), f.Problems())
	}
}
