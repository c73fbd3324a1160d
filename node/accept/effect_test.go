package accept

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	v3 "weft/api/v3"
)

// What a warning leaves out is what the table of fields says is in effect.
func TestFelixInEffectIsWhatTheDocumentSays(t *testing.T) {
	doc, err := os.ReadFile("../../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| in effect \\|").FindAllStringSubmatch(string(doc), -1) {
		want = append(want, row[1])
	}
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Sorted(slices.Values(felixInEffect()))); d != "" {
		t.Errorf("fields in effect (-document +warnings):\n%s", d)
	}
}

// The same for the fields of BGP, which the table names with their kinds.
func TestBGPInEffectIsWhatTheDocumentSays(t *testing.T) {
	doc, err := os.ReadFile("../../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	rows := regexp.MustCompile("(?m)^\\| `(\\w+\\.[\\w.]+)` \\| ([a-z ]+) \\|").FindAllStringSubmatch(string(doc), -1)
	for _, row := range rows {
		if row[2] == "in effect" {
			want = append(want, row[1])
		}
	}
	if len(rows) < 40 {
		t.Fatalf("the table of the fields of BGP has %d rows", len(rows))
	}
	slices.Sort(want)
	have := slices.Sorted(slices.Values(bgpInEffect()))
	if d := cmp.Diff(want, have, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("fields in effect (-document +warnings):\n%s", d)
	}
}

// And of the controllers.
func TestControllersInEffectIsWhatTheDocumentSays(t *testing.T) {
	doc, err := os.ReadFile("../../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(controllers[\\w.]+)` \\| acted on \\|").FindAllStringSubmatch(string(doc), -1) {
		want = append(want, row[1])
	}
	if d := cmp.Diff(want, controllersInEffect()); d != "" {
		t.Errorf("fields in effect (-document +warnings):\n%s", d)
	}
}

func TestWithoutEffect(t *testing.T) {
	const divided = "the node service makes all routes to other nodes' pods, from the store, and BGP none"
	pool := &v3.IPPool{}
	pool.Spec.CIDR = "10.1.0.0/16"
	pool.Spec.VXLANMode = v3.EncapAlways
	pool.Spec.NATOutgoing = true
	ipip := pool.DeepCopy()
	ipip.Spec.VXLANMode, ipip.Spec.IPIPMode = v3.EncapNever, v3.EncapCrossSubnet
	bgp := func(kind, spec string) v3.Object {
		docs, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: {name: default}\nspec: " + spec))
		if err != nil {
			t.Fatal(err)
		}
		v3.Default(docs[0])
		return docs[0]
	}
	felix := func(spec string) v3.Object {
		docs, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: " + spec))
		if err != nil {
			t.Fatal(err)
		}
		return docs[0]
	}
	docs, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {ingress: [{action: Allow}, {action: Allow, http: {}}]}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    v3.Object
		want []string
	}{
		{"a policy that looks into HTTP", docs[0], []string{"spec.ingress[1].http"}},
		{"controllers", bgp(v3.KindKubeControllersConfiguration, "{prometheusMetricsPort: 9094, controllers: {node: {leakGracePeriod: 1h, syncLabels: Enabled, hostEndpoint: {autoCreate: Enabled, templates: [{generateName: x}]}}, policy: {reconcilerPeriod: 5m}}}"),
			[]string{"spec.controllers.policy.reconcilerPeriod=5m0s", "spec.prometheusMetricsPort=9094"}},
		{"controllers that do not take over labels", bgp(v3.KindKubeControllersConfiguration, "{controllers: {node: {syncLabels: Disabled, hostEndpoint: {templates: [{generateName: a}, {generateName: b, interfacePattern: eth.*}]}}}}"),
			[]string{"spec.controllers.node.syncLabels=Disabled (each node takes over the labels of its Node in Kubernetes)"}},
		{"a pool of what works", pool, nil},
		{"a pool", ipip, nil},
		{"felix, in effect", felix("{vxlanPort: 8472, vxlanVNI: 7, vxlanMTU: 1400, natPortRange: 20000:29999, natOutgoingExclusions: IPPoolsAndHostIPs}"), nil},
		{"felix, off", felix("{wireguardEnabled: false, floatingIPs: Disabled}"), nil},
		{"felix", felix("{wireguardEnabled: true, floatingIPs: Enabled, reportingInterval: 30s, bpfEnabled: true}"),
			[]string{"spec.bpfEnabled=true", "spec.floatingIPs=Enabled", "spec.reportingInterval=30s"}},
		{"a peer", bgp("BGPPeer", "{peerIP: 192.0.2.1, asNumber: 64513, password: {secretKeyRef: {name: a, key: b}}, keepOriginalNextHop: false}"), nil},
		{"a peer that is a pod", bgp("BGPPeer", "{localWorkloadSelector: all(), asNumber: 64513}"), []string{"spec.localWorkloadSelector=all() (nodes speak no BGP with pods: all of this BGPPeer has none)"}},
		{"a filter", bgp("BGPFilter", "{exportV4: [{action: Reject}]}"), nil},
		{"a configuration", bgp("BGPConfiguration", "{nodeToNodeMeshEnabled: false, ignoredInterfaces: [eth1], logSeverityScreen: Debug, programClusterRoutes: Disabled}"), nil},
		{"a configuration that divides routes", bgp("BGPConfiguration", "{programClusterRoutes: Enabled}"), []string{"spec.programClusterRoutes=Enabled (" + divided + ")"}},
		{"felix, all routes", felix("{programClusterRoutes: Enabled}"), nil},
		{"felix, no routes", felix("{programClusterRoutes: Disabled}"), []string{"spec.programClusterRoutes=Disabled (" + divided + ")"}},
		{"a node", bgp("Node", "{bgp: {asNumber: 64513, ipv4Address: 192.0.2.1}}"), nil},
	} {
		got, err := WithoutEffect(c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
