package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of FelixConfiguration.mtuMode.
const (
	MTUSmallest = "Smallest"
	MTUPerRoute = "PerRoute"
)

// FelixTunnelSpec holds the settings of encapsulation and MTU.
type FelixTunnelSpec struct {
	// IPIPEnabled forces the IP-in-IP device on or off; unset follows the pools.
	IPIPEnabled *bool `json:"ipipEnabled,omitempty"`

	// IPIPMTU is the MTU of the IP-in-IP device in bytes; 0 computes it.
	IPIPMTU *mtu4 `json:"ipipMTU,omitempty"`

	// VXLANEnabled forces the VXLAN devices on or off; unset follows the pools.
	VXLANEnabled *bool `json:"vxlanEnabled,omitempty"`

	// VXLANMTU is the MTU of the IPv4 VXLAN device in bytes; 0 computes it.
	VXLANMTU *mtu4 `json:"vxlanMTU,omitempty"`

	// VXLANMTUV6 is the MTU of the IPv6 VXLAN device in bytes; 0 computes it.
	VXLANMTUV6 *mtu6 `json:"vxlanMTUV6,omitempty"`

	// VXLANPort is the UDP port of VXLAN; 4789 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	VXLANPort *int `json:"vxlanPort,omitempty"`

	// VXLANVNI is the VXLAN network identifier, 24 bits (RFC 7348); 4096 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777215
	VXLANVNI *int `json:"vxlanVNI,omitempty"`

	// MTUIfacePattern is a regular expression for the interfaces whose MTU counts for the host's.
	MTUIfacePattern regexpText `json:"mtuIfacePattern,omitempty"`

	// MTUMode says what the MTU of pods is: Smallest (when unset), so that every path takes it, or
	// PerRoute, so that the uplink takes it and the routes that carry less say so. An addition of this
	// project.
	//
	// +kubebuilder:validation:Enum=Smallest;PerRoute
	MTUMode string `json:"mtuMode,omitempty"`

	// MTUProfile names a provider whose network carries less than the MTU of its interfaces says; the
	// names are in docs/mtu.md. An addition of this project.
	//
	// +kubebuilder:validation:Enum="";aws-transit-gateway;azure;gcp;hetzner-cloud;hetzner-vswitch;openstack-vxlan;pppoe
	MTUProfile string `json:"mtuProfile,omitempty"`

	// RequireMTUFile makes CNI ADD fail while the host's MTU is not known.
	RequireMTUFile *bool `json:"requireMTUFile,omitempty"`

	// AllowIPIPPacketsFromWorkloads lets pods send IP-in-IP of their own.
	AllowIPIPPacketsFromWorkloads *bool `json:"allowIPIPPacketsFromWorkloads,omitempty"`

	// AllowVXLANPacketsFromWorkloads lets pods send VXLAN of their own.
	AllowVXLANPacketsFromWorkloads *bool `json:"allowVXLANPacketsFromWorkloads,omitempty"`

	// ExternalNodesList are ranges of hosts outside the cluster that may send into our tunnels. IPv4.
	//
	// +kubebuilder:validation:MaxItems=10000
	ExternalNodesList *[]ipv4RangeText `json:"externalNodesList,omitempty"`

	// BPFOverlayHostSourceIP is the source of what the host sends to pods over a tunnel in eBPF mode.
	//
	// +kubebuilder:validation:Enum=TunnelAddress;HostAddress
	BPFOverlayHostSourceIP string `json:"bpfOverlayHostSourceIP,omitempty"`
}

// Values of FelixConfiguration.encryptionMode.
const (
	EncryptionRequired  = "Required"
	EncryptionPreferred = "Preferred"
)

// FelixWireguardSpec holds the settings of encryption.
type FelixWireguardSpec struct {
	// WireguardEnabled encrypts IPv4 traffic between nodes.
	WireguardEnabled *bool `json:"wireguardEnabled,omitempty"`

	// WireguardEnabledV6 encrypts IPv6 traffic between nodes.
	WireguardEnabledV6 *bool `json:"wireguardEnabledV6,omitempty"`

	// EncryptionMode says what becomes of traffic to a node that cannot encrypt: Required (when unset) lets
	// it wait, but for the time that the rollout takes; Preferred sends it in clear.
	//
	// +kubebuilder:validation:Enum=Required;Preferred
	EncryptionMode string `json:"encryptionMode,omitempty"`

	// WireguardKeyEpoch counts the rotations of the keys: with each step nodes make new ones and move to
	// them. Set by weft encryption rotate.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	WireguardKeyEpoch *int `json:"wireguardKeyEpoch,omitempty"`

	// WireguardKeyRotationPeriod is how long keys are used until nodes rotate them by themselves, 1h or more; 0 (when
	// unset) is for ever. Read from the FelixConfiguration default only.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('0s') || duration(self) >= duration('1h')",message="want 0, or 1h or more"
	WireguardKeyRotationPeriod *metav1.Duration `json:"wireguardKeyRotationPeriod,omitempty"`

	// WireguardListeningPort is the UDP port of the IPv4 device; 51820 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	WireguardListeningPort *int `json:"wireguardListeningPort,omitempty"`

	// WireguardListeningPortV6 is the UDP port of the IPv6 device; 51821 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	WireguardListeningPortV6 *int `json:"wireguardListeningPortV6,omitempty"`

	// WireguardInterfaceName names the IPv4 device; wireguard.cali when unset.
	WireguardInterfaceName interfaceText `json:"wireguardInterfaceName,omitempty"`

	// WireguardInterfaceNameV6 names the IPv6 device; wg-v6.cali when unset.
	WireguardInterfaceNameV6 interfaceText `json:"wireguardInterfaceNameV6,omitempty"`

	// WireguardMTU is the MTU of the IPv4 device in bytes; 0 computes it.
	WireguardMTU *mtu4 `json:"wireguardMTU,omitempty"`

	// WireguardMTUV6 is the MTU of the IPv6 device in bytes; 0 computes it.
	WireguardMTUV6 *mtu6 `json:"wireguardMTUV6,omitempty"`

	// WireguardHostEncryptionEnabled encrypts traffic between the hosts themselves too.
	WireguardHostEncryptionEnabled *bool `json:"wireguardHostEncryptionEnabled,omitempty"`

	// WireguardKeepAlive is the interval of keepalives to peers; 0 sends none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('65535s')",message="want at most 65535s"
	WireguardKeepAlive *metav1.Duration `json:"wireguardKeepAlive,omitempty"`

	// WireguardRoutingRulePriority is the priority of the ip rule that leads to the device; 99 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32765
	WireguardRoutingRulePriority *int `json:"wireguardRoutingRulePriority,omitempty"`

	// WireguardThreadingEnabled lets the kernel spread the device's work over threads.
	WireguardThreadingEnabled *bool `json:"wireguardThreadingEnabled,omitempty"`

	// PrometheusWireGuardMetricsEnabled exports counters of the devices; true when unset.
	PrometheusWireGuardMetricsEnabled *bool `json:"prometheusWireGuardMetricsEnabled,omitempty"`
}
