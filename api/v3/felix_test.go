package v3

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

func TestFelixRules(t *testing.T) {
	checkRules(t, KindFelixConfiguration, []rule{
		{`{}`, ``},
		{`{vxlanVNI: 16777215, vxlanPort: 65535, vxlanMTU: 0, vxlanMTUV6: 1280, wireguardMTU: 576}`, ``},
		{`{wireguardListeningPort: 51821}`, ``},
		{`{wireguardListeningPort: 65535, wireguardListeningPortV6: 65534}`, ``},
		{`{wireguardListeningPort: 51822, wireguardListeningPortV6: 51820}`, `spec.wireguardListeningPortV6: Invalid value: 51820: want another than wireguardListeningPort (51822), and not 2 from it: while keys change, the devices of the new ones have a port 2 away from those of the old`},
		{`{wireguardListeningPort: 51822, wireguardListeningPortV6: 51822}`, `spec.wireguardListeningPortV6: Invalid value: 51822: want another than wireguardListeningPort (51822), and not 2 from it: while keys change, the devices of the new ones have a port 2 away from those of the old`},
		{`{vxlanVNI: 0}`, `spec.vxlanVNI: Invalid value: 0: want 1 to 16777215`},
		{`{vxlanVNI: 16777216}`, `spec.vxlanVNI: Invalid value: 16777216: want 1 to 16777215`},
		{`{vxlanPort: 0}`, `spec.vxlanPort: Invalid value: 0: want 1 to 65535`},
		{`{vxlanMTU: 575}`, `spec.vxlanMTU: Invalid value: 575: want 0 to compute it, or 576 to 65535`},
		{`{vxlanMTU: -1}`, `spec.vxlanMTU: Invalid value: -1: want 0 to compute it, or 576 to 65535`},
		{`{vxlanMTUV6: 1279}`, `spec.vxlanMTUV6: Invalid value: 1279: want 0 to compute it, or 1280 to 65535`},
		{`{wireguardMTUV6: 65536}`, `spec.wireguardMTUV6: Invalid value: 65536: want 0 to compute it, or 1280 to 65535`},
		{`{mtuIfacePattern: "(eth"}`, "spec.mtuIfacePattern: Invalid value: \"(eth\": want a regular expression: error parsing regexp: missing closing ): `(eth`"},
		{`{ipipMTU: 65536}`, `spec.ipipMTU: Invalid value: 65536: want 0 to compute it, or 576 to 65535`},
		{`{mtuMode: PerRoute, mtuProfile: azure}`, ``},
		{`{mtuMode: perRoute}`, `spec.mtuMode: Invalid value: "perRoute": want PerRoute: case matters`},
		{`{mtuProfile: none}`, `spec.mtuProfile: Invalid value: "none": want one of aws-transit-gateway, azure, gcp, hetzner-cloud, hetzner-vswitch, openstack-vxlan, pppoe`},
		{`{externalNodesList: [10.0.0.0/8, "fd00::/8"]}`, `spec.externalNodesList[1]: Invalid value: "fd00::/8": want an IPv4 CIDR such as 192.0.2.0/24`},
		{`{wireguardKeepAlive: -1s}`, `spec.wireguardKeepAlive: Invalid value: "-1s": want a duration of 0 or more such as 90s`},
		{`{wireguardKeyRotationPeriod: 59m}`, `spec.wireguardKeyRotationPeriod: Invalid value: "59m0s": want 0, or 1h or more`},
		{`{wireguardKeyRotationPeriod: -1h}`, `spec.wireguardKeyRotationPeriod: Invalid value: "-1h0m0s": want a duration of 0 or more such as 90s`},
		{`{wireguardKeepAlive: 19h}`, `spec.wireguardKeepAlive: Invalid value: "19h0m0s": want at most 65535s`},
		{`{wireguardInterfaceName: wireguard.example}`, `spec.wireguardInterfaceName: Invalid value: "wireguard.example": want an interface name: 1 to 15 letters, digits, "_", "." and "-"`},
		{`{deviceRouteSourceAddress: "fd00::1"}`, `spec.deviceRouteSourceAddress: Invalid value: "fd00::1": want an IPv4 address such as 192.0.2.1`},
		{`{routeTableRange: {min: 1, max: 251}}`, `spec.routeTableRange: Invalid value: {"min":1,"max":251}: want 1 <= min <= max <= 250`},
		{`{routeTableRanges: [{min: 1, max: 250}, {min: 5, max: 4}, {min: 250, max: 260}]}`, `[spec.routeTableRanges[1]: Invalid value: {"min":5,"max":4}: want 1 <= min <= max <= 2147483647, spec.routeTableRanges[2]: Invalid value: {"min":250,"max":260}: holds the tables 253 to 255, which are the kernel's own]`},
		{`{routeTableRange: {min: 1, max: 2}, routeTableRanges: []}`, `spec.routeTableRange: Forbidden: excluded by routeTableRanges: leave one of them out`},
		{`{interfacePrefix: "cali,"}`, `spec.interfacePrefix: Invalid value: "cali,": want the beginning of interface names, several with commas between`},
		{`{natPortRange: 30000}`, ``},
		{`{natPortRange: "30000:20000"}`, `spec.natPortRange: Invalid value: "30000:20000": want a port from 0 to 65535, or two such as 20000:29999`},
		{`{kubeNodePortRanges: [1, 2, 3, 4, 5, 6, 7, 8]}`, `spec.kubeNodePortRanges: Too many: 8: must have at most 7 items`},
		{`{iptablesMarkMask: 255}`, ``},
		{`{iptablesMarkMask: 127}`, `spec.iptablesMarkMask: Invalid value: 127: want at least 8 bits set`},
		{`{failsafeInboundHostPorts: [{protocol: tcp, port: 22}]}`, ``},
		{`{failsafeInboundHostPorts: [{protocol: icmp, port: 0, net: x}]}`, `[spec.failsafeInboundHostPorts[0].protocol: Invalid value: "icmp": want one of TCP, UDP, SCTP, spec.failsafeInboundHostPorts[0].port: Invalid value: 0: want 1 to 65535, spec.failsafeInboundHostPorts[0].net: Invalid value: "x": want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24]`},
		{`{chainInsertMode: insert, defaultEndpointToHostAction: ACCEPT, logSeverityScreen: DEBUG}`, ``},
		{`{defaultEndpointToHostAction: Allow}`, `spec.defaultEndpointToHostAction: Invalid value: "Allow": want one of Drop, Accept, Return`},
		{`{logPrefix: "a;b"}`, `spec.logPrefix: Invalid value: "a;b": want letters, digits, space, "%", ":", "/", "_" and "-"`},
		{`{logActionRateLimit: 10/week}`, `spec.logActionRateLimit: Invalid value: "10/week": want a rate such as 10/second`},
		{`{bpfForceTrackPacketsFromIfaces: [docker+, "a+b"]}`, `spec.bpfForceTrackPacketsFromIfaces[1]: Invalid value: "a+b": want an interface name, with + for the rest of it`},
		{`{bpfConntrackTimeouts: {udpTimeout: Auto, icmpTimeout: never}}`, `spec.bpfConntrackTimeouts.icmpTimeout: Invalid value: "never": want Auto, or a duration such as 90s`},
		{`{bpfLogFilters: {"a b": tcp}}`, `spec.bpfLogFilters[a b]: Invalid value: "a b": want an interface name: 1 to 15 letters, digits, "_", "." and "-"`},
		{`{healthTimeoutOverrides: [{name: "", timeout: -1s}]}`, `[spec.healthTimeoutOverrides[0].name: Required value: the part whose timeout this is, spec.healthTimeoutOverrides[0].timeout: Invalid value: "-1s": want a duration of 0 or more such as 90s]`},
		{`{featureDetectOverride: "A=true,B="}`, ``},
		{`{featureDetectOverride: "A=1"}`, `spec.featureDetectOverride: Invalid value: "A=1": want Name=true, Name=false or Name=, with commas between`},
		{`{featureGates: "A"}`, `spec.featureGates: Invalid value: "A": want Name=value, with commas between`},
		{`{istioDSCPMark: 23, goGCThreshold: -1}`, ``},
		{`{goMaxProcs: -2}`, `spec.goMaxProcs: Invalid value: -2: want -1 to 2147483647`},
		{`{nodeSelector: all()}`, `spec.nodeSelector: Invalid value: "all()": not allowed in "default": its name says which nodes it is for`},
	})
	for name, want := range map[string]string{
		"edge":    `spec.nodeSelector: Required value: which nodes this is for, unless the name is default or node.<name>`,
		"node.n1": ``,
		"default": ``,
	} {
		c := &FelixConfiguration{}
		c.Name = name
		if got := errText(Validate(c)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	selected := &FelixConfiguration{}
	selected.Name, selected.Spec.NodeSelector = "edge", "global()"
	if got, want := errText(Validate(selected)), `spec.nodeSelector: Invalid value: "global()": global() matches nothing here, want all() for everything`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFelixAgreesWithCRD takes every bound that the CRD states and asks the code for the same one:
// both stores take the same configurations.
func TestFelixAgreesWithCRD(t *testing.T) {
	spec := customResources(t)[KindFelixConfiguration].Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	valid := func(field string, v any) bool {
		b, err := json.Marshal(map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
			"metadata": map[string]any{"name": "default"}, "spec": map[string]any{field: v}})
		if err != nil {
			t.Fatal(err)
		}
		objects, err := Decode(b)
		return err == nil && Validate(objects[0]) == nil
	}
	enums, patterns, bounds := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(spec.Properties)) {
		s := spec.Properties[name]
		if len(s.Enum) > 0 {
			enums++
			for _, v := range s.Enum {
				if !valid(name, v) {
					t.Errorf("%s: the CRD takes %q, the code does not", name, v)
				}
			}
			if valid(name, "bogus") {
				t.Errorf("%s: the code takes any value, the CRD one of %v", name, s.Enum)
			}
		}
		if s.Pattern != "" {
			patterns++
			if valid(name, "; bogus") {
				t.Errorf("%s: the code takes any value, the CRD %s", name, s.Pattern)
			}
		}
		for _, b := range []struct {
			at   *float64
			step float64
		}{{s.Minimum, -1}, {s.Maximum, 1}} {
			if b.at == nil {
				continue
			}
			bounds++
			if valid(name, int64(*b.at+b.step)) {
				t.Errorf("%s: the code takes %v, beyond the CRD's bound", name, *b.at+b.step)
			}
			if !valid(name, int64(*b.at)) && name != "iptablesMarkMask" && name != "nftablesMarkMask" {
				t.Errorf("%s: the CRD takes %v, the code does not", name, *b.at)
			}
		}
	}
	if enums < 15 || patterns < 20 || bounds < 40 {
		t.Errorf("only %d enums, %d patterns and %d bounds of %d fields were compared", enums, patterns, bounds, len(spec.Properties))
	}
	t.Logf("%d fields: %d enums, %d patterns, %d bounds agree", len(spec.Properties), enums, patterns, bounds)
}
