package accept

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// felixInEffect are the fields of a FelixConfiguration that the node service acts on.
// docs/resources.md says the same, and a test holds the two to each other.
func felixInEffect() []string {
	return []string{"defaultEndpointToHostAction", "encryptionMode", "failsafeInboundHostPorts", "failsafeOutboundHostPorts", "ipipMTU", "iptablesBackend",
		"iptablesNATOutgoingInterfaceFilter", "mtuIfacePattern", "mtuMode", "mtuProfile", "natOutgoingAddress",
		"natOutgoingExclusions", "natPortRange", "nftablesFlowTableOffload", "nftablesMode", "nodeSelector", "prometheusWireGuardMetricsEnabled", "vxlanMTU", "vxlanMTUV6", "vxlanPort", "vxlanVNI",
		"wireguardEnabled", "wireguardEnabledV6", "wireguardHostEncryptionEnabled", "wireguardKeepAlive", "wireguardKeyEpoch", "wireguardKeyRotationPeriod", "wireguardListeningPort",
		"wireguardListeningPortV6", "wireguardMTU", "wireguardMTUV6", "wireguardRoutingRulePriority", "wireguardThreadingEnabled", "workloadSourceSpoofing"}
}

// bgpInEffect are the fields of the kinds of BGP, and those of Node about BGP, that the node service acts
// on. docs/resources.md says the same, and a test holds the two to each other.
func bgpInEffect() []string {
	return []string{
		"BGPConfiguration.asNumber", "BGPConfiguration.bindMode", "BGPConfiguration.communities", "BGPConfiguration.ignoredInterfaces", "BGPConfiguration.ipv4NormalRoutePriority",
		"BGPConfiguration.ipv6NormalRoutePriority", "BGPConfiguration.listenPort", "BGPConfiguration.logSeverityScreen", "BGPConfiguration.nodeMeshMaxRestartTime", "BGPConfiguration.nodeMeshPassword",
		"BGPConfiguration.nodeToNodeMeshEnabled", "BGPConfiguration.prefixAdvertisements", "BGPConfiguration.routeReflectorThreshold", "BGPConfiguration.serviceClusterIPs",
		"BGPConfiguration.serviceExternalIPs", "BGPConfiguration.serviceLoadBalancerAggregation", "BGPConfiguration.serviceLoadBalancerIPs", "BGPConfiguration.shareLearnedRoutes", "BGPPeer.asNumber",
		"BGPPeer.bfd", "BGPPeer.filters", "BGPPeer.keepOriginalNextHop", "BGPPeer.keepaliveTime",
		"BGPPeer.localASNumber", "BGPPeer.maxPrefixes", "BGPPeer.maxRestartTime", "BGPPeer.nextHopMode",
		"BGPPeer.node", "BGPPeer.nodeSelector", "BGPPeer.numAllowedLocalASNumbers", "BGPPeer.password",
		"BGPPeer.peerIP", "BGPPeer.peerSelector", "BGPPeer.reachableBy", "BGPPeer.reversePeering",
		"BGPPeer.sourceAddress", "BGPPeer.ttlSecurity", "BGPFilter.exportV4", "BGPFilter.exportV6",
		"BGPFilter.importV4", "BGPFilter.importV6", "CalicoNodeStatus.classes", "CalicoNodeStatus.node",
		"CalicoNodeStatus.updatePeriodSeconds", "Node.bgp.asNumber", "Node.bgp.routeReflectorClusterID",
	}
}

// WithoutEffect returns the fields of a resource that ask for something this release keeps and does not do, as
// "spec.floatingIPs=Enabled", sorted.
func WithoutEffect(o v3.Object) ([]string, error) {
	var fields []string
	switch o := o.(type) {
	case *v3.FelixConfiguration:
		m, err := toMap(o)
		if err != nil {
			return nil, err
		}
		spec, _ := m["spec"].(map[string]any)
		for name, value := range spec {
			if text, special := clusterRoutes(name, value, "Enabled", "EnabledIPIPOnly"); special {
				fields = append(fields, text...)
				continue
			}
			if slices.Contains(felixInEffect(), name) || asksNothing(value) {
				continue
			}
			data, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("write spec.%s as JSON: %w", name, err)
			}
			fields = append(fields, "spec."+name+"="+strings.Trim(string(data), `"`))
		}
	case *v3.KubeControllersConfiguration:
		m, err := toMap(o)
		if err != nil {
			return nil, err
		}
		spec, _ := m["spec"].(map[string]any)
		fields = controllersWithoutEffect("", spec)
	case *v3.BGPConfiguration, *v3.BGPPeer, *v3.BGPFilter, *v3.CalicoNodeStatus, *v3.Node:
		var err error
		if fields, err = bgpWithoutEffect(o); err != nil {
			return nil, err
		}
	default:
		if p := v3.PolicyOf(o); p != nil {
			fields = requests("spec.ingress", p.Ingress)
		}
	}
	slices.Sort(fields)
	return fields, nil
}

// controllersInEffect are the fields of a KubeControllersConfiguration that the controllers act on. docs/resources.md says
// the same.
func controllersInEffect() []string {
	return []string{"controllers.node.hostEndpoint.autoCreate", "controllers.node.hostEndpoint.createDefaultHostEndpoint", "controllers.node.hostEndpoint.templates",
		"controllers.node.leakGracePeriod", "controllers.node.reconcilerPeriod"}
}

// controllersWithoutEffect names the others that ask for something.
func controllersWithoutEffect(path string, part map[string]any) []string {
	var fields []string
	for name, value := range part {
		at := path + name
		if below, ok := value.(map[string]any); ok {
			fields = append(fields, controllersWithoutEffect(at+".", below)...)
			continue
		}
		if at == "controllers.node.syncLabels" { // a node service does so wherever there is a Node to take them from
			if value == v3.ControllerDisabled {
				fields = append(fields, "spec."+at+"=Disabled (each node takes over the labels of its Node in Kubernetes)")
			}
			continue
		}
		if slices.Contains(controllersInEffect(), at) || asksNothing(value) {
			continue
		}
		text := "spec." + at
		if _, list := value.([]any); !list {
			text += fmt.Sprintf("=%v", value)
		}
		fields = append(fields, text)
	}
	return fields
}

// bgpWithoutEffect names the fields of BGP that ask for more than the kind's defaults do.
func bgpWithoutEffect(o v3.Object) ([]string, error) {
	kind, _ := v3.KindOf(o)
	info, _ := v3.LookupKind(kind)
	plain := info.New()
	v3.Default(plain)
	var specs [2]map[string]any
	for i, o := range []v3.Object{o, plain} {
		m, err := toMap(o)
		if err != nil {
			return nil, err
		}
		specs[i], _ = m["spec"].(map[string]any)
	}
	path := ""
	if kind == v3.KindNode {
		bgp, _ := specs[0]["bgp"].(map[string]any)
		path, specs[0], specs[1] = "bgp.", map[string]any{}, nil
		for _, name := range []string{"asNumber", "routeReflectorClusterID"} {
			specs[0][name] = bgp[name]
		}
	}
	var fields []string
	for name, value := range specs[0] {
		if text, special := clusterRoutes(name, value, "Disabled", "EnabledNoEncapOnly"); special {
			fields = append(fields, text...)
			continue
		}
		if slices.Contains(bgpInEffect(), kind+"."+path+name) || value == nil || value == false || value == "" || reflect.DeepEqual(value, specs[1][name]) {
			continue
		}
		text := "spec." + path + name
		switch value.(type) {
		case map[string]any, []any:
		default:
			text += fmt.Sprintf("=%v", value)
		}
		if name == "localWorkloadSelector" {
			text += " (nodes speak no BGP with pods: all of this BGPPeer has none)"
		}
		fields = append(fields, text)
	}
	return fields, nil
}

// clusterRoutes is about the field programClusterRoutes, which divides the routes to other nodes between the node
// service and BGP. Here there is nothing to divide: every value has the effect that fine asks for, or leaves to the
// default. It returns the warning for another one; false where the field is another.
func clusterRoutes(name string, value any, fine ...string) (text []string, special bool) {
	if name != "programClusterRoutes" {
		return nil, false
	}
	if s, _ := value.(string); s != "" && !slices.Contains(fine, s) {
		text = append(text, fmt.Sprintf("spec.%s=%s (the node service makes all routes to other nodes' pods, from the store, and BGP none)", name, s))
	}
	return text, true
}

// requests names the rules that look into HTTP, which nothing here does: a rule that allows certain
// requests allows all of the connection.
func requests(path string, rules []v3.Rule) []string {
	var fields []string
	for i, r := range rules {
		if r.HTTP != nil {
			fields = append(fields, fmt.Sprintf("%s[%d].http", path, i))
		}
	}
	return fields
}

// asksNothing tells whether a value leaves a feature off, which needs no driver.
func asksNothing(value any) bool {
	return value == nil || value == false || value == "" || value == "Disabled"
}

// toMap turns a resource into its JSON value, in which a number is as it is written.
func toMap(o v3.Object) (map[string]any, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", datastore.KeyOf(o), err)
	}
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("read %s as JSON: %w", datastore.KeyOf(o), err)
	}
	return m, nil
}
