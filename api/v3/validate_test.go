package v3

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// manifest writes an object with its specification in flow form.
func manifest(kind, spec string) string {
	name, namespace := "a", ""
	switch kind {
	case KindIPAMConfiguration, KindClusterInformation, KindFelixConfiguration:
		name = "default"
	case KindWorkloadEndpoint:
		namespace = ", namespace: ns"
	}
	return fmt.Sprintf("{apiVersion: projectcalico.org/v3, kind: %s, metadata: {name: %s%s}, spec: %s}", kind, name, namespace, spec)
}

// rule is one case: want is the whole message, empty for a valid object.
type rule struct{ spec, want string }

func checkRules(t *testing.T, kind string, rules []rule) {
	t.Helper()
	for _, r := range rules {
		o := decodeOne(t, manifest(kind, r.spec))
		if got := errText(Validate(o)); got != r.want {
			t.Errorf("%s\ngot  %s\nwant %s", r.spec, got, r.want)
		}
		// Defaults never repair or break what a person wrote.
		Default(o)
		if got := errText(Validate(o)); (got == "") != (r.want == "") {
			t.Errorf("%s with defaults: %s", r.spec, got)
		}
	}
}

func TestIPPoolRules(t *testing.T) {
	long := strings.Repeat("a", 1025)
	checkRules(t, KindIPPool, []rule{
		{`{cidr: 10.0.0.0/16}`, ``},
		{`{cidr: "fd00::/64", vxlanMode: CrossSubnet, natOutgoing: true}`, ``},
		{`{}`, `spec.cidr: Required value: the range of the pool, such as 10.244.0.0/16`},
		{`{cidr: 10.0.0.0}`, `spec.cidr: Invalid value: "10.0.0.0": want an IPv4 or IPv6 CIDR such as 192.0.2.0/24`},
		{`{cidr: 10.0.0.0/33}`, `spec.cidr: Invalid value: "10.0.0.0/33": want an IPv4 or IPv6 CIDR such as 192.0.2.0/24`},
		{`{cidr: "::ffff:10.0.0.0/120"}`, `spec.cidr: Invalid value: "::ffff:10.0.0.0/120": want an IPv4 or IPv6 CIDR such as 192.0.2.0/24`},
		{`{cidr: 10.0.0.1/16}`, `spec.cidr: Invalid value: "10.0.0.1/16": has bits set after its prefix length, want 10.0.0.0/16`},
		{`{cidr: 169.254.0.0/24}`, `spec.cidr: Invalid value: "169.254.0.0/24": overlaps the link-local range 169.254.0.0/16, which is not routed`},
		{`{cidr: 169.0.0.0/8}`, `spec.cidr: Invalid value: "169.0.0.0/8": overlaps the link-local range 169.254.0.0/16, which is not routed`},
		{`{cidr: 0.0.0.0/8}`, `spec.cidr: Invalid value: "0.0.0.0/8": overlaps the "this network" range 0.0.0.0/8, which is nobody's address`},
		{`{cidr: 127.1.0.0/16}`, `spec.cidr: Invalid value: "127.1.0.0/16": overlaps the loopback range 127.0.0.0/8, which never leaves a host`},
		{`{cidr: 239.0.0.0/16}`, `spec.cidr: Invalid value: "239.0.0.0/16": overlaps the multicast range 224.0.0.0/4, which is nobody's own address`},
		{`{cidr: 240.0.0.0/16}`, `spec.cidr: Invalid value: "240.0.0.0/16": overlaps the reserved range 240.0.0.0/4, which the kernel does not route`},
		{`{cidr: "::/112"}`, `spec.cidr: Invalid value: "::/112": overlaps the unspecified, loopback and IPv4-mapped range ::/64, which is not routed`},
		{`{cidr: "::/8"}`, `spec.cidr: Invalid value: "::/8": overlaps the unspecified, loopback and IPv4-mapped range ::/64, which is not routed`},
		{`{cidr: "ff05::/64"}`, `spec.cidr: Invalid value: "ff05::/64": overlaps the multicast range ff00::/8, which is nobody's own address`},
		{`{cidr: 128.0.0.0/16}`, ``},
		{`{cidr: "64:ff9b::/96"}`, ``},
		{`{cidr: "fe80::/64"}`, `spec.cidr: Invalid value: "fe80::/64": overlaps the link-local range fe80::/10, which is not routed`},
		{`{cidr: 10.0.0.0/27}`, `spec.cidr: Invalid value: "10.0.0.0/27": is smaller than one block of /26: want a prefix length of at most 26, or a larger blockSize`},
		{`{cidr: "fd00::/123"}`, `spec.cidr: Invalid value: "fd00::/123": is smaller than one block of /122: want a prefix length of at most 122, or a larger blockSize`},
		{`{cidr: 10.0.0.0/27, disabled: true}`, ``},
		{`{cidr: 10.0.0.0/27, blockSize: 27}`, ``},
		{`{cidr: 10.0.0.0/16, blockSize: 19}`, `spec.blockSize: Invalid value: 19: want 20 to 32 in an IPv4 pool`},
		{`{cidr: 10.0.0.0/16, blockSize: 33}`, `spec.blockSize: Invalid value: 33: want 20 to 32 in an IPv4 pool`},
		{`{cidr: "fd00::/64", blockSize: 115}`, `spec.blockSize: Invalid value: 115: want 116 to 128 in an IPv6 pool`},
		{`{cidr: "fd00::/64", blockSize: 129}`, `spec.blockSize: Invalid value: 129: want 116 to 128 in an IPv6 pool`},
		{`{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}`, `spec.ipipMode: Invalid value: "Always": excludes vxlanMode CrossSubnet: set one of them to Never`},
		{`{cidr: 10.0.0.0/16, ipipMode: CrossSubnet, vxlanMode: Never}`, ``},
		{`{cidr: "fd00::/64", ipipMode: Always}`, `spec.ipipMode: Invalid value: "Always": IP-in-IP carries IPv4 only: want Never in an IPv6 pool`},
		{`{cidr: 10.0.0.0/16, vxlanMode: always}`, `spec.vxlanMode: Invalid value: "always": want Always: case matters`},
		{`{cidr: 10.0.0.0/16, ipipMode: Sometimes}`, `spec.ipipMode: Invalid value: "Sometimes": want one of Never, Always, CrossSubnet`},
		{`{cidr: 10.0.0.0/16, assignmentMode: auto}`, `spec.assignmentMode: Invalid value: "auto": want one of Automatic, Manual`},
		{`{cidr: 10.0.0.0/16, nodeSelector: "global()"}`, `spec.nodeSelector: Invalid value: "global()": global() matches nothing here, want all() for everything`},
		{`{cidr: 10.0.0.0/16, nodeSelector: ` + long + `}`, `spec.nodeSelector: Too long: may not be more than 1024 bytes`},
		{`{cidr: 10.0.0.0/16, namespaceSelector: "team == 'a'"}`, ``},
		{`{cidr: 10.0.0.0/16, namespaceSelector: "team == 'a'", allowedUses: [Workload, Tunnel]}`, `spec.allowedUses[1]: Invalid value: "Tunnel": tunnel addresses belong to no namespace: leave Tunnel out, or namespaceSelector`},
		{`{cidr: 10.0.0.0/16, allowedUses: [Pods]}`, `spec.allowedUses[0]: Invalid value: "Pods": want one of Workload, Tunnel, LoadBalancer`},
		{`{cidr: 10.0.0.0/16, allowedUses: [Tunnel, Tunnel]}`, `spec.allowedUses[1]: Duplicate value: "Tunnel"`},
		{`{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: all()}`, ``},
		{`{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Tunnel]}`, `spec.allowedUses: Invalid value: ["LoadBalancer","Tunnel"]: LoadBalancer excludes the other uses`},
		{`{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], ipipMode: Always}`, `spec.ipipMode: Invalid value: "Always": want Never in a LoadBalancer pool`},
		{`{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: true}`, `spec.disableBGPExport: Invalid value: true: want false in a LoadBalancer pool`},
		{`{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: has(x)}`, `spec.nodeSelector: Invalid value: "has(x)": want all() in a LoadBalancer pool`},
		{`{cidr: 10.0.0.1/16, blockSize: 99, vxlanMode: x}`, `[spec.cidr: Invalid value: "10.0.0.1/16": has bits set after its prefix length, want 10.0.0.0/16, spec.vxlanMode: Invalid value: "x": want one of Never, Always, CrossSubnet]`},
	})
	// The selector language has its own messages; here counts that they arrive with the path.
	o := decodeOne(t, manifest(KindIPPool, `{cidr: 10.0.0.0/16, nodeSelector: "rack = 'r7'"}`))
	if got := errText(Validate(o)); !strings.HasPrefix(got, `spec.nodeSelector: Invalid value: "rack = 'r7'": `) {
		t.Errorf("got %s", got)
	}
}

func TestIPAMRules(t *testing.T) {
	checkRules(t, KindIPAMConfiguration, []rule{
		{`{}`, ``},
		{`{strictAffinity: true, autoAllocateBlocks: false, maxBlocksPerHost: 4, ipCooldownSeconds: 1200}`, ``},
		{`{autoAllocateBlocks: false}`, `spec.autoAllocateBlocks: Invalid value: false: needs strictAffinity true: otherwise nodes borrow from each other's blocks`},
		{`{maxBlocksPerHost: 4}`, `spec.maxBlocksPerHost: Invalid value: 4: needs strictAffinity true; 0 is the built-in cap of 20`},
		{`{strictAffinity: true, maxBlocksPerHost: 1000001}`, `spec.maxBlocksPerHost: Invalid value: 1000001: want 0 to 1000000`},
		{`{strictAffinity: true, maxBlocksPerHost: -1}`, `spec.maxBlocksPerHost: Invalid value: -1: want 0 to 1000000`},
		{`{ipCooldownSeconds: 1201}`, `spec.ipCooldownSeconds: Invalid value: 1201: want 0 to 1200`},
		{`{kubeVirtVMAddressPersistence: "Off"}`, `spec.kubeVirtVMAddressPersistence: Invalid value: "Off": want one of Enabled, Disabled`},
	})
	checkRules(t, KindIPReservation, []rule{
		{`{reservedCIDRs: [10.0.0.1, 10.0.0.0/30, "fd00::1"]}`, ``},
		{`{}`, ``},
		{`{reservedCIDRs: [10.0.0.1-10.0.0.9]}`, `spec.reservedCIDRs[0]: Invalid value: "10.0.0.1-10.0.0.9": want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24`},
		{`{reservedCIDRs: [10.0.0.1, 10.0.0.1]}`, `spec.reservedCIDRs[1]: Duplicate value: "10.0.0.1"`},
	})
	checkRules(t, KindIPAMBlock, []rule{
		{`{cidr: 10.0.0.0/26, affinity: host:n1}`, ``},
		{`{cidr: 10.0.0.0/26, affinity: virtual:load-balancer}`, ``},
		{`{cidr: 10.0.0.1/26}`, `spec.cidr: Invalid value: "10.0.0.1/26": has bits set after its prefix length, want 10.0.0.0/26`},
		{`{cidr: 10.0.0.0/19}`, `spec.cidr: Invalid value: "10.0.0.0/19": is too large for a block: want a prefix length of at least 20`},
		{`{cidr: 10.0.0.0/26, affinity: n1}`, `spec.affinity: Invalid value: "n1": want host:<node> or virtual:<name>`},
	})
	checkRules(t, KindIPAMHandle, []rule{
		{`{handleID: x, block: {10.0.0.0/26: 2}}`, ``},
		{`{block: {10.0.0.0/26: -1, x: 1}}`, `[spec.handleID: Required value: whose addresses these are, spec.block[10.0.0.0/26]: Invalid value: -1: want a count of addresses: 0 or more, spec.block[x]: Invalid value: "x": want an IPv4 or IPv6 CIDR such as 192.0.2.0/24]`},
	})
	checkRules(t, KindBlockAffinity, []rule{
		{`{cidr: 10.0.0.0/26, node: n1, state: pending, type: virtual}`, ``},
		{`{cidr: "fd00::/115", state: ok, type: node}`, `[spec.cidr: Invalid value: "fd00::/115": is too large for a block: want a prefix length of at least 116, spec.state: Invalid value: "ok": want one of pending, confirmed, pendingDeletion, spec.node: Required value: whose block this is, spec.type: Invalid value: "node": want one of host, virtual]`},
	})
}

func TestNodeRules(t *testing.T) {
	checkRules(t, KindNode, []rule{
		{`{}`, ``},
		{`{bgp: {ipv4Address: 192.0.2.1}}`, ``},
		{`{bgp: {ipv4Address: 192.0.2.1/24, ipv6Address: "2001:db8::1/64"}}`, ``},
		{`{bgp: {ipv4Address: "2001:db8::1/64"}}`, `spec.bgp.ipv4Address: Invalid value: "2001:db8::1/64": want an IPv4 address with the prefix length of its subnet such as 192.0.2.1/24`},
		{`{bgp: {ipv6Address: 192.0.2.1/24}}`, `spec.bgp.ipv6Address: Invalid value: "192.0.2.1/24": want an IPv6 address with the prefix length of its subnet such as 2001:db8::1/64`},
		{`{bgp: {ipv4Address: 0.0.0.0/0}}`, `spec.bgp.ipv4Address: Invalid value: "0.0.0.0/0": want an address that other nodes can reach`},
		{`{bgp: {ipv4Address: autodetect}}`, `spec.bgp.ipv4Address: Invalid value: "autodetect": want an IPv4 address with the prefix length of its subnet such as 192.0.2.1/24`},
		{`{bgp: {ipv4IPIPTunnelAddr: 10.0.0.1/32}}`, `spec.bgp.ipv4IPIPTunnelAddr: Invalid value: "10.0.0.1/32": want an IPv4 address such as 192.0.2.1`},
		{`{bgp: {routeReflectorClusterID: "1"}}`, `spec.bgp.routeReflectorClusterID: Invalid value: "1": want 32 bits that are not all zero, written like an IPv4 address: 224.0.0.1`},
		{`{ipv4VXLANTunnelAddr: "fd00::1"}`, `spec.ipv4VXLANTunnelAddr: Invalid value: "fd00::1": want an IPv4 address such as 192.0.2.1`},
		{`{ipv6VXLANTunnelAddr: "fe80::1%eth0"}`, `spec.ipv6VXLANTunnelAddr: Invalid value: "fe80::1%eth0": want an IPv6 address such as 2001:db8::1`},
		{`{vxlanTunnelMACAddr: 66-01-02-03-04-05}`, `spec.vxlanTunnelMACAddr: Invalid value: "66-01-02-03-04-05": want six octets such as 66:01:02:03:04:05`},
		{`{vxlanTunnelMACAddrV6: "67:01:02:03:04:05"}`, `spec.vxlanTunnelMACAddrV6: Invalid value: "67:01:02:03:04:05": is a group address, want that of one station: an even first octet`},
		{`{wireguard: {interfaceIPv6Address: 10.0.0.1}}`, `spec.wireguard.interfaceIPv6Address: Invalid value: "10.0.0.1": want an IPv6 address such as 2001:db8::1`},
		{`{addresses: [{address: x}, {address: 192.0.2.1, type: Hostname}]}`, `[spec.addresses[0].address: Invalid value: "x": want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24, spec.addresses[1].type: Invalid value: "Hostname": want one of CalicoNodeIP, InternalIP, ExternalIP]`},
		{`{interfaces: [{name: "eth/0", addresses: [192.0.2.1/24]}]}`, `spec.interfaces[0].name: Invalid value: "eth/0": want an interface name: 1 to 15 letters, digits, "_", "." and "-"`},
	})
	o := decodeOne(t, `{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}, status: {podCIDRs: [x], wireguardPublicKey: eA==, onLink: [{cidr: 192.0.2.1/24}]}}`)
	want := `[status.podCIDRs[0]: Invalid value: "x": want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24, ` +
		`status.wireguardPublicKey: Invalid value: "eA==": want 32 bytes in base64: 44 characters, ` +
		`status.onLink[0].cidr: Invalid value: "192.0.2.1/24": has bits set after its prefix length, want 192.0.2.0/24]`
	if got := errText(Validate(o)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWorkloadEndpointRules(t *testing.T) {
	checkRules(t, KindWorkloadEndpoint, []rule{
		{`{}`, ``},
		{`{ipNetworks: [10.0.0.1/32, "fd00::1/128", 10.0.0.2]}`, ``},
		{`{ipNetworks: [10.0.0.0/31]}`, `spec.ipNetworks[0]: Invalid value: "10.0.0.0/31": want one address: /32 for IPv4, /128 for IPv6`},
		{`{ipNetworks: ["fd00::/64"]}`, `spec.ipNetworks[0]: Invalid value: "fd00::/64": want one address: /32 for IPv4, /128 for IPv6`},
		{`{ipNetworks: [10.0.0.1, 10.0.0.1/32]}`, `spec.ipNetworks[1]: Duplicate value: "10.0.0.1/32"`},
		{`{ipNetworks: [10.0.0.1/32], ipNATs: [{internalIP: 10.0.0.1, externalIP: 192.0.2.1}]}`, ``},
		{`{ipNATs: [{internalIP: 10.0.0.1, externalIP: "fd00::1"}]}`, `[spec.ipNATs[0].internalIP: Invalid value: "10.0.0.1": want an address of ipNetworks, spec.ipNATs[0].externalIP: Invalid value: "fd00::1": want an address of the same family as internalIP]`},
		{`{ipNATs: [{internalIP: "", externalIP: 10.0.0.1}]}`, `spec.ipNATs[0].internalIP: Invalid value: "": want an IPv4 or IPv6 address such as 192.0.2.1`},
		{`{ipv4Gateway: "fe80::1", ipv6Gateway: 169.254.1.1}`, `[spec.ipv4Gateway: Invalid value: "fe80::1": want an IPv4 address such as 192.0.2.1, spec.ipv6Gateway: Invalid value: "169.254.1.1": want an IPv6 address such as 2001:db8::1]`},
		{`{interfaceName: weft123456789012}`, `spec.interfaceName: Invalid value: "weft123456789012": want an interface name: 1 to 15 letters, digits, "_", "." and "-"`},
		{`{mac: "ee:ee"}`, `spec.mac: Invalid value: "ee:ee": want six octets such as 66:01:02:03:04:05`},
		{`{allowSpoofedSourcePrefixes: [x]}`, `spec.allowSpoofedSourcePrefixes[0]: Invalid value: "x": want an IPv4 or IPv6 address or CIDR such as 192.0.2.0/24`},
		{`{profiles: [""]}`, `spec.profiles[0]: Required value: the name of a Profile`},
		{`{ports: [{protocol: tcp, port: 1}, {protocol: 132, port: 65535, name: sctp, hostIP: 192.0.2.1}]}`, ``},
		{`{ports: [{name: "a b", protocol: HTTP, port: 0, hostIP: x}]}`, `[spec.ports[0].name: Invalid value: "a b": want a port name: 1 to 128 letters, digits, "_", "." and "-", ` +
			`spec.ports[0].protocol: Invalid value: "HTTP": want 1 to 255, or one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, spec.ports[0].port: Invalid value: 0: want 1 to 65535, ` +
			`spec.ports[0].hostIP: Invalid value: "x": want an IPv4 or IPv6 address such as 192.0.2.1]`},
		{`{ports: [{protocol: 0, port: 1}]}`, `spec.ports[0].protocol: Invalid value: 0: want 1 to 255, or one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite`},
		{`{qosControls: {ingressBandwidth: 1000, egressPacketRate: 10000, dscp: 63}}`, ``},
		{`{qosControls: {ingressBandwidth: 999, egressPacketRate: 10001, dscp: 64}}`, `[spec.qosControls.ingressBandwidth: Invalid value: 999: want 1000 to 1000000000000000, spec.qosControls.egressPacketRate: Invalid value: 10001: want 1 to 10000, spec.qosControls.dscp: Invalid value: "64": want 0 to 63, or a name such as AF11, CS1, EF]`},
	})
}

func TestMetadataRules(t *testing.T) {
	ns := func(meta string) string { return "{apiVersion: v1, kind: Namespace, metadata: " + meta + "}" }
	pool := func(meta string) string {
		return "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: " + meta + ", spec: {cidr: 10.0.0.0/16}}"
	}
	const subdomain = `want a DNS subdomain: lower-case letters, digits, "-" and ".", a letter or digit at both ends of each part, at most 253 in all`
	half := strings.Repeat("x", 128<<10)
	for _, c := range []struct{ in, want string }{
		{pool(`{name: a.b-c.d}`), ``},
		{pool(`{}`), `metadata.name: Required value: every object has a name`},
		{pool(`{name: Pool_1}`), `metadata.name: Invalid value: "Pool_1": ` + subdomain},
		{pool(`{name: ` + strings.Repeat("a", 254) + `}`), `metadata.name: Invalid value: "` + strings.Repeat("a", 80) + `...": ` + subdomain},
		{pool(`{name: a, namespace: x}`), `metadata.namespace: Invalid value: "x": IPPool belongs to the whole cluster: leave the namespace out`},
		{pool(`{name: a, labels: {"a b": c}}`), `metadata.labels[a b]: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
		{pool(`{name: a, annotations: {x: ` + half + `, ` + `z: ` + half[2:] + `}}`), ``},
		{pool(`{name: a, annotations: {x: ` + half + `, ` + `z: ` + half[1:] + `}}`), `metadata.annotations: Too long: may not be more than 262144 bytes`},
		{ns(`{name: team-a}`), ``},
		{ns(`{name: team.a}`), `metadata.name: Invalid value: "team.a": want a DNS label: lower-case letters, digits and "-", a letter or digit at both ends, at most 63 in all`},
		{`{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: a}}`, `metadata.namespace: Required value: a WorkloadEndpoint lives in a namespace`},
		{`{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: a, namespace: A}}`, `metadata.namespace: Invalid value: "A": want a DNS label: lower-case letters, digits and "-", a letter or digit at both ends, at most 63 in all`},
		{`{apiVersion: projectcalico.org/v3, kind: IPAMConfiguration, metadata: {name: mine}}`, `metadata.name: Invalid value: "mine": the only IPAMConfiguration is named default`},
		{`{apiVersion: projectcalico.org/v3, kind: ClusterInformation, metadata: {name: mine}}`, `metadata.name: Invalid value: "mine": the only ClusterInformation is named default`},
	} {
		if got := errText(Validate(decodeOne(t, c.in))); got != c.want {
			t.Errorf("%.120s\ngot  %s\nwant %s", c.in, got, c.want)
		}
	}
}

func TestValidateUpdate(t *testing.T) {
	for _, c := range []struct{ kind, old, updated, want string }{
		{KindIPPool, `{cidr: 10.0.0.0/16}`, `{cidr: 10.0.0.0/16, vxlanMode: Always, natOutgoing: true, blockSize: 26}`, ``},
		{KindIPPool, `{cidr: 10.0.0.0/16}`, `{cidr: 10.0.0.0/15}`, `spec.cidr: Invalid value: "10.0.0.0/15": cannot change from 10.0.0.0/16: create another pool and disable this one`},
		{KindIPPool, `{cidr: 10.0.0.0/16, blockSize: 28}`, `{cidr: 10.0.0.0/16}`, `spec.blockSize: Invalid value: 26: cannot change from 28: create another pool and disable this one`},
		{KindIPAMBlock, `{cidr: 10.0.0.0/26}`, `{cidr: 10.0.0.0/27}`, `spec.cidr: Invalid value: "10.0.0.0/27": cannot change from 10.0.0.0/26: it is the block's identity`},
		{KindIPAMHandle, `{handleID: h1}`, `{handleID: h2}`, `spec.handleID: Invalid value: "h2": cannot change from h1: it is the handle's identity`},
		{KindBlockAffinity, `{cidr: 10.0.0.0/26, node: a, state: pending}`, `{cidr: 10.0.0.0/26, node: b, state: confirmed}`, `spec.node: Invalid value: "b": cannot change from a: it is the affinity's identity`},
		{KindNode, `{bgp: {ipv4Address: 192.0.2.1}}`, `{bgp: {ipv4Address: 192.0.2.2}}`, ``},
	} {
		updated, old := decodeOne(t, manifest(c.kind, c.updated)), decodeOne(t, manifest(c.kind, c.old))
		if got := errText(ValidateUpdate(updated, old)); got != c.want {
			t.Errorf("%s %s -> %s\ngot  %s\nwant %s", c.kind, c.old, c.updated, got, c.want)
		}
	}
	a, b := &Node{}, &Node{}
	a.Name, b.Name = "a", "b"
	for _, c := range []struct {
		updated, old Object
		want         string
	}{
		{a, b, `metadata.name: Invalid value: "a": cannot change from b: create another object instead`},
		{a, &corev1.Namespace{}, `replace Namespace : a Node cannot take its place`},
		{nil, nil, `replace  <nil>: a  cannot take its place`},
	} {
		if got := errText(ValidateUpdate(c.updated, c.old)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
