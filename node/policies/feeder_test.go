package policies

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/policy"
)

// view is a Compiler that keeps what it is told, as a snapshot to print.
type view struct{ *model.Snapshot }

func newView() view {
	s, _ := convert("n1", nil, nil)
	return view{s}
}

func (v view) SetConfig(c model.PolicyConfig)        { v.Policy.Config = c }
func (v view) SetTier(t *model.Tier)                 { v.Policy.Tiers[t.Name] = t }
func (v view) DeleteTier(n string)                   { delete(v.Policy.Tiers, n) }
func (v view) SetPolicy(p *model.Policy) error       { v.Policy.Policies[p.ID] = p; return nil }
func (v view) DeletePolicy(id model.PolicyID)        { delete(v.Policy.Policies, id) }
func (v view) SetProfile(p *model.Profile) error     { v.Policy.Profiles[p.Name] = p; return nil }
func (v view) DeleteProfile(n string)                { delete(v.Policy.Profiles, n) }
func (v view) SetEndpoint(e *model.Endpoint) error   { v.Endpoints[e.ID] = *e; return nil }
func (v view) DeleteEndpoint(id model.EndpointID)    { delete(v.Endpoints, id) }
func (v view) DeleteRemote(id model.RemoteID)        { delete(v.Policy.Remote, id) }
func (v view) DeleteHostEndpoint(n string)           { delete(v.Policy.HostEndpoints, n) }
func (v view) DeleteService(id model.ServiceID)      { delete(v.Policy.Services, id) }
func (v view) DeleteNetworkSet(k model.NetworkSetID) { delete(v.Policy.NetworkSets, k) }
func (v view) SetRemote(e *model.RemoteEndpoint) error {
	v.Policy.Remote[e.ID] = e
	return nil
}
func (v view) SetNetworkSet(n *model.NetworkSet) error {
	v.Policy.NetworkSets[n.ID] = n
	return nil
}
func (v view) SetHostEndpoint(h *model.HostEndpoint) error {
	v.Policy.HostEndpoints[h.Name] = h
	return nil
}
func (v view) SetService(id model.ServiceID, e []model.ServiceEndpoint) error {
	v.Policy.Services[id] = e
	return nil
}

// world makes random resources of few names, so that they meet.
type world struct {
	*rand.Rand
	t       *testing.T
	objects map[datastore.Key]v3.Object
	labels  map[string]string // of node n1
}

func (w *world) one(of ...string) string { return of[w.IntN(len(of))] }

func (w *world) selector() string {
	return `"` + w.one("all()", "app == 'a'", "app in {'a', 'b'}", "has(app)", "app != 'b'", "role == 'x' || app == 'a'", "!has(role)") + `"`
}

func (w *world) labelMap() string {
	return fmt.Sprintf("{app: %s, role: %s}", w.one("a", "b", "c"), w.one("x", "z"))
}

func (w *world) labelSelector() string {
	return w.one("{}", "{matchLabels: {app: a}}", "{matchExpressions: [{key: role, operator: NotIn, values: [x]}]}", "{matchExpressions: [{key: app, operator: Exists}]}")
}

func (w *world) entity() string {
	return w.one("{}", "{selector: "+w.selector()+"}", "{namespaceSelector: app == 'a'}", "{namespaceSelector: global()}", "{nets: [10.0.0.0/8]}",
		"{serviceAccounts: {names: [ci], selector: app == 'a'}}", "{notSelector: app == 'b'}", "{selector: has(role), namespaceSelector: all()}")
}

func (w *world) rules() string {
	var list []string
	for range w.IntN(3) {
		list = append(list, fmt.Sprintf("{action: %s, source: %s, destination: %s}", w.one("Allow", "Deny", "Pass", "Log"), w.entity(), w.entity()))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (w *world) address() string { return fmt.Sprintf("10.244.%d.%d", w.IntN(2), w.IntN(4)) }

// manifest makes one resource of any kind.
func (w *world) manifest() string {
	ns := w.one("shop", "ops")
	meta := func(kind, name string) string {
		return "apiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: {name: " + name + ", labels: " + w.labelMap() + "}\n"
	}
	namespaced := func(kind, name string) string {
		return strings.Replace(meta(kind, name), "metadata: {", "metadata: {namespace: "+ns+", ", 1)
	}
	core := func(version, text string) string { return strings.Replace(text, "projectcalico.org/v3", version, 1) }
	policy := "selector: " + w.selector() + ", ingress: " + w.rules() + ", egress: " + w.rules() +
		w.one("", ", order: 1", ", order: 2.5", ", tier: t1", ", serviceAccountSelector: app == 'a'")
	switch w.IntN(26) {
	case 0:
		return namespaced("NetworkPolicy", w.one("p1", "p2")) + "spec: {" + policy + "}"
	case 1:
		return meta("GlobalNetworkPolicy", w.one("g1", "g2")) + "spec: {" + policy + w.one("", ", namespaceSelector: app != 'a'", ", applyOnForward: true") + "}"
	case 2:
		return namespaced("StagedNetworkPolicy", "p1") + "spec: {" + policy + w.one("", ", stagedAction: Ignore") + "}"
	case 3:
		return meta("StagedGlobalNetworkPolicy", "g1") + w.one("spec: {"+policy+"}", "spec: {stagedAction: Delete}")
	case 4:
		return core("networking.k8s.io/v1", namespaced("NetworkPolicy", w.one("p1", "k1"))) + "spec: {podSelector: " + w.labelSelector() +
			", ingress: [{from: [{podSelector: " + w.labelSelector() + "}, {namespaceSelector: " + w.labelSelector() + "}], ports: [{port: 80}, {port: http}]}]}"
	case 5:
		return namespaced("StagedKubernetesNetworkPolicy", "k1") + "spec: {podSelector: " + w.labelSelector() + "}"
	case 6:
		return core("policy.networking.k8s.io/v1alpha2", meta("ClusterNetworkPolicy", w.one("c1", "c2"))) + "spec: {tier: " + w.one("Admin", "Baseline") +
			", priority: 3, subject: {namespaces: " + w.labelSelector() + "}, ingress: [{action: " + w.one("Accept", "Deny", "Pass") + ", from: [{namespaces: " + w.labelSelector() + "}]}], egress: [{action: " +
			w.one("Accept", "Deny", "Pass") + ", to: [{nodes: " + w.one("{}", "{matchLabels: {zone: a}}", "{matchExpressions: [{key: zone, operator: NotIn, values: [a]}]}") +
			"}, {namespaces: " + w.labelSelector() + "}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}"
	case 7:
		return meta("Tier", w.one("t1", "default")) + w.one("spec: {}", "spec: {defaultAction: Deny}")
	case 8:
		return meta("Profile", w.one("kns.shop", "ksa.shop.ci", "mine", defaultAllow)) + "spec: {ingress: " + w.rules() + w.one("", ", labelsToApply: {pcns.team: red, role: x}") + "}"
	case 9:
		return core("v1", meta("Namespace", ns)) + ""
	case 10:
		return core("v1", namespaced("ServiceAccount", w.one("ci", "web")))
	case 11:
		return namespaced("NetworkSet", "s1") + "spec: {nets: [" + w.address() + "/31]}"
	case 12:
		return meta("GlobalNetworkSet", w.one("s1", "s2")) + "spec: {nets: [" + w.address() + "/30]}"
	case 13:
		return meta("HostEndpoint", w.one("h1", "h2")) + "spec: {node: " + w.one("n1", "n2") + ", interfaceName: eth0, profiles: [" + w.one("mine", defaultAllow, "kns.shop") + "]}"
	case 14:
		text := core("discovery.k8s.io/v1", namespaced("EndpointSlice", w.one("e1", "e2")))
		text = strings.Replace(text, "labels: {", "labels: {kubernetes.io/service-name: "+w.one("db", "web")+", ", 1)
		return text + "addressType: IPv4\nendpoints: [{addresses: [" + w.address() + "]}]\nports: [{port: 80}]"
	case 15:
		return meta("FelixConfiguration", w.one("default", "node.n1", "sel")) + "spec: {defaultEndpointToHostAction: " + w.one("Drop", "Accept") + w.one("", ", failsafeInboundHostPorts: []") + w.one("", ", workloadSourceSpoofing: Any", ", workloadSourceSpoofing: Disabled") +
			", nodeSelector: \"" + w.one("zone == 'a'", "zone == 'b'") + "\"}"
	}
	node, pod := w.one("n1", "n2"), w.one("p", "q")
	name := node + "-k8s-" + pod + "-eth0"
	if w.IntN(6) == 0 {
		name = "foreign"
	}
	account := w.one("", "ci")
	profiles := "kns." + ns
	if account != "" {
		profiles += ", ksa." + ns + "." + account
	}
	return namespaced("WorkloadEndpoint", name) + fmt.Sprintf("spec: {orchestrator: k8s, node: %s, pod: %s, endpoint: eth0, interfaceName: weft%s, containerID: c, ipNetworks: [%s/32], profiles: [%s], serviceAccountName: %q, ports: [{name: http, protocol: TCP, port: 80}]%s}",
		node, pod, pod, w.address(), profiles, account, w.one("", ", allowSpoofedSourcePrefixes: [192.0.2.0/24]"))
}

// step changes one resource and returns the change.
func (w *world) step() datastore.Change {
	for {
		switch w.IntN(12) {
		case 0, 1, 2:
			keys := slices.SortedFunc(maps.Keys(w.objects), func(a, b datastore.Key) int { return strings.Compare(a.String(), b.String()) })
			if len(keys) == 0 {
				continue
			}
			k := keys[w.IntN(len(keys))]
			delete(w.objects, k)
			return datastore.Change{Key: k}
		case 3:
			n := &v3.Node{}
			n.Name, n.Labels = w.one("n1", "n2", "n3"), map[string]string{"zone": w.one("a", "b")}
			if w.IntN(4) > 0 {
				n.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: "10.0.0." + w.one("1", "2", "3") + "/24"}
			}
			if n.Name == "n1" {
				w.labels = n.Labels
			}
			k := datastore.Key{Kind: v3.KindNode, Name: n.Name}
			w.objects[k] = n
			return datastore.Change{Key: k, Object: n}
		}
		text := w.manifest()
		if strings.Contains(text, "nodeSelector") && !strings.Contains(text, "name: sel") {
			text = text[:strings.LastIndex(text, ", nodeSelector")] + "}"
		}
		o := objects(w.t, text)[0]
		k := datastore.KeyOf(o)
		w.objects[k] = o
		return datastore.Change{Key: k, Object: o}
	}
}

// However changes come one after the other, it is as if the end were read at once; and so is the
// Program that they lead to.
func TestFeederEqualsLoad(t *testing.T) {
	seeds, steps := 30, 120
	if testing.Short() {
		seeds = 10
	}
	pods, compared := 0, 0
	for seed := range seeds {
		w := &world{Rand: rand.New(rand.NewPCG(uint64(seed), 7)), t: t, objects: map[datastore.Key]v3.Object{}}
		to, compiler := newView(), policy.NewCompiler("n1")
		told, fed := NewFeeder("n1", to, false), NewFeeder("n1", compiler, false)
		var log []string
		for range steps {
			ch := w.step()
			log = append(log, fmt.Sprintf("%s: %v", ch.Key, ch.Object != nil))
			for _, f := range []*Feeder{told, fed} {
				if err := f.Change(ch); err != nil {
					t.Fatalf("seed %d: %s is refused: %v", seed, ch.Key, err)
				}
			}
			if w.IntN(4) > 0 {
				continue
			}
			compared++
			want, problems := convert("n1", w.labels, slices.Collect(maps.Values(w.objects)))
			if len(problems) > 0 {
				t.Fatalf("seed %d: %v", seed, problems)
			}
			pods += len(want.Endpoints)
			if diff := cmp.Diff(printSnapshot(want), printSnapshot(to.Snapshot)); diff != "" {
				t.Fatalf("seed %d after\n%s\n-loaded +fed:\n%s", seed, strings.Join(log, "\n"), diff)
			}
			program, err := policy.Compile(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(program.Format(), fed.to.(*policy.Compiler).Flush().Program.Format()); diff != "" {
				t.Fatalf("seed %d: the programs differ, -loaded +fed:\n%s", seed, diff)
			}
		}
		for k := range w.objects {
			if err := told.Change(datastore.Change{Key: k}); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(printSnapshot(newView().Snapshot), printSnapshot(to.Snapshot)); diff != "" {
			t.Fatalf("seed %d: left when all is gone:\n%s", seed, diff)
		}
		if n := len(told.names) + len(told.uses) + len(told.pods) + len(told.byID) + len(told.services) + len(told.slices) + len(told.given) + len(told.generated) + len(told.nodes) + len(told.peers) + len(told.peerUses); n > 0 {
			t.Errorf("seed %d: %d entries are kept when all is gone", seed, n)
		}
	}
	if compared < 25*seeds || pods < compared {
		t.Errorf("compared %d times, %d pods in all: too few", compared, pods)
	}
	t.Logf("%d worlds of %d changes: the same %d of %d times, %d pods in all", seeds, steps, compared, compared, pods)
}

// What cannot be understood leaves the last good one in force, and is known until it changes again.
func TestLastGoodStays(t *testing.T) {
	to := newView()
	f := NewFeeder("n1", to, false)
	good := objects(t, `{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: g}, spec: {selector: app == 'a'}}`)[0].(*v3.GlobalNetworkPolicy)
	k := datastore.KeyOf(good)
	if err := f.Change(datastore.Change{Key: k, Object: good}); err != nil {
		t.Fatal(err)
	}
	before := printSnapshot(to.Snapshot)
	bad := good.DeepCopy()
	bad.Spec.Selector = "app =="
	for _, ch := range []datastore.Change{{Key: k, Object: bad}, {Key: k, Err: fmt.Errorf("no JSON")}} {
		if err := f.Change(ch); err == nil {
			t.Fatal("it was understood")
		}
		if got := printSnapshot(to.Snapshot); got != before {
			t.Errorf("it changed what is in force:\n%s", cmp.Diff(before, got))
		}
		if p := f.Problems(); len(p) != 1 || p[0].Key != k {
			t.Errorf("problems are %v", p)
		}
	}
	if err := f.Change(datastore.Change{Key: k}); err != nil {
		t.Fatal(err)
	}
	if len(f.Problems()) > 0 || len(to.Policy.Policies) > 0 {
		t.Errorf("after the deletion there are problems %v and %d policies", f.Problems(), len(to.Policy.Policies))
	}
}

// In Kubernetes pods reach their own node, unless a configuration says otherwise.
func TestAcceptToHost(t *testing.T) {
	to := newView()
	f := NewFeeder("n1", to, false)
	want := func(accept bool, when string) {
		t.Helper()
		if to.Policy.Config.PodsToHost != accept || f.Settings().Config.PodsToHost != accept {
			t.Errorf("%s: pods reach the host: %v, want %v", when, to.Policy.Config.PodsToHost, accept)
		}
	}
	want(false, "by default")
	if err := f.AcceptToHost(); err != nil {
		t.Fatal(err)
	}
	want(true, "in Kubernetes")
	for _, step := range []struct {
		spec string
		want bool
	}{{"{}", true}, {"{defaultEndpointToHostAction: Drop}", false}, {"{defaultEndpointToHostAction: Return}", true}} {
		o := objects(t, "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: "+step.spec+"}")[0]
		if err := f.Change(datastore.Change{Key: datastore.KeyOf(o), Object: o}); err != nil {
			t.Fatal(err)
		}
		want(step.want, step.spec)
	}
}

// This node's pods are those that it attached; a record says what they are when it is of the same
// container.
func TestAttachments(t *testing.T) {
	to := newView()
	f := NewFeeder("n1", to, true)
	record := func(container, app string) *v3.WorkloadEndpoint {
		return objects(t, fmt.Sprintf(`{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n1-k8s-web-eth0, namespace: shop, labels: {app: %s}},
			spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: %s, interfaceName: wrong, ipNetworks: [10.9.9.9/32], profiles: [kns.shop]}}`, app, container))[0].(*v3.WorkloadEndpoint)
	}
	id := model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}
	attachment := func(container string) Attachment {
		return Attachment{ID: id, Container: container, Device: "weft1", Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.1")}, MAC: model.MAC{2}}
	}
	stored := func(w *v3.WorkloadEndpoint) {
		t.Helper()
		if err := f.Change(datastore.Change{Key: datastore.KeyOf(w), Object: w}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(app string) {
		t.Helper()
		e, there := to.Endpoints[id]
		if app == "" {
			if there {
				t.Fatalf("the compiler has %+v", e)
			}
			return
		}
		if !there || e.Labels["app"] != app || e.Device != "weft1" || e.Addresses[0].String() != "10.244.0.1" {
			t.Fatalf("the compiler has %+v (%v), want app %s on weft1", e, there, app)
		}
	}
	attach := func(container string, w *v3.WorkloadEndpoint) {
		t.Helper()
		if err := f.Attach(attachment(container), w); err != nil {
			t.Fatal(err)
		}
	}
	gone := datastore.Change{Key: datastore.KeyOf(record("c1", "a"))}

	stored(record("c1", "a"))
	want("")
	attach("c1", nil)
	want("a")
	stored(record("c1", "b"))
	want("b")
	f.Detach(id)
	want("")
	attach("c2", nil) // the store still has the record of the earlier sandbox
	want("")
	if got := f.Unrecorded(); len(got) != 1 || got[0] != id {
		t.Errorf("unrecorded: %v, want %v", got, id)
	}
	attach("c2", record("c2", "c"))
	want("c")
	stored(record("c1", "late"))
	want("c")
	if err := f.Change(gone); err != nil { // late, too
		t.Fatal(err)
	}
	want("c")
	stored(record("c2", "d"))
	want("d")
	if err := f.Change(gone); err != nil {
		t.Fatal(err)
	}
	want("d")
	f.Detach(id)
	want("")
	if n := len(f.names) + len(f.uses) + len(f.pods) + len(f.byID) + len(f.given); n > 0 || len(to.Policy.Profiles) > 0 {
		t.Errorf("%d entries and %d profiles are kept when all is gone", n, len(to.Policy.Profiles))
	}
}
