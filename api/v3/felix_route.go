package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What natOutgoingExclusions can be.
const (
	NATExcludePools         = "IPPoolsOnly"
	NATExcludePoolsAndHosts = "IPPoolsAndHostIPs"
)

// FelixRouteSpec holds the settings of routes, interfaces and NAT.
type FelixRouteSpec struct {
	// ProgramClusterRoutes says which routes to other nodes the node service programs itself.
	//
	// +kubebuilder:validation:Enum=Disabled;Enabled;EnabledIPIPOnly;EnabledNoEncapOnly
	ProgramClusterRoutes string `json:"programClusterRoutes,omitempty"`

	// RouteSource says what routes are made from: CalicoIPAM (when unset) or WorkloadIPs.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(WorkloadIPs|CalicoIPAM)?$`
	RouteSource string `json:"routeSource,omitempty"`

	// RouteSyncDisabled leaves the route tables alone.
	RouteSyncDisabled *bool `json:"routeSyncDisabled,omitempty"`

	// RemoveExternalRoutes removes routes of others on our devices; true when unset.
	RemoveExternalRoutes *bool `json:"removeExternalRoutes,omitempty"`

	// DeviceRouteProtocol is the route protocol number of routes to local pods; 3 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	DeviceRouteProtocol *int `json:"deviceRouteProtocol,omitempty"`

	// DeviceRouteSourceAddress is the preferred IPv4 source of those routes.
	//
	// +kubebuilder:validation:MaxLength=45
	DeviceRouteSourceAddress ipv4Text `json:"deviceRouteSourceAddress,omitempty"`

	// DeviceRouteSourceAddressIPv6 is the preferred IPv6 source of those routes.
	//
	// +kubebuilder:validation:MaxLength=45
	DeviceRouteSourceAddressIPv6 ipv6Text `json:"deviceRouteSourceAddressIPv6,omitempty"`

	// RouteTableRanges are the route tables that may be used; 1 to 250 when unset.
	//
	// +kubebuilder:validation:MaxItems=256
	RouteTableRanges *[]RouteTableRange `json:"routeTableRanges,omitempty"`

	// RouteTableRange is the older form of routeTableRanges; it excludes it.
	//
	// +kubebuilder:validation:XValidation:rule="self.max <= 250",message="want 1 <= min <= max <= 250"
	RouteTableRange *RouteTableRange `json:"routeTableRange,omitempty"`

	// RouteRefreshInterval is the interval of full checks of the routes; 90s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	RouteRefreshInterval *metav1.Duration `json:"routeRefreshInterval,omitempty"`

	// InterfaceRefreshInterval is the interval of full checks of the interfaces; 90s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	InterfaceRefreshInterval *metav1.Duration `json:"interfaceRefreshInterval,omitempty"`

	// NetlinkTimeout is how long the kernel may take to answer; 10s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	NetlinkTimeout *metav1.Duration `json:"netlinkTimeout,omitempty"`

	// IPv4NormalRoutePriority is the metric of our IPv4 routes; 1024 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv4NormalRoutePriority *int `json:"ipv4NormalRoutePriority,omitempty"`

	// IPv4ElevatedRoutePriority is the metric of IPv4 routes to the target of a live migration; 512 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv4ElevatedRoutePriority *int `json:"ipv4ElevatedRoutePriority,omitempty"`

	// IPv6NormalRoutePriority is the metric of our IPv6 routes; 1024 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv6NormalRoutePriority *int `json:"ipv6NormalRoutePriority,omitempty"`

	// IPv6ElevatedRoutePriority is the metric of IPv6 routes to the target of a live migration; 512 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv6ElevatedRoutePriority *int `json:"ipv6ElevatedRoutePriority,omitempty"`

	// LiveMigrationRouteConvergenceTime is how long elevated priority is kept after a live migration; 30s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	LiveMigrationRouteConvergenceTime *metav1.Duration `json:"liveMigrationRouteConvergenceTime,omitempty"`

	// LocalSubnetL2Reachability answers ARP and NDP for local pods on the host's own subnet.
	//
	// +kubebuilder:validation:Enum=Disabled;PodsAndLoadBalancers
	LocalSubnetL2Reachability string `json:"localSubnetL2Reachability,omitempty"`

	// LocalSubnetL2ReachabilityRefreshInterval is the interval of announcements of those addresses; 120s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	LocalSubnetL2ReachabilityRefreshInterval *metav1.Duration `json:"localSubnetL2ReachabilityRefreshInterval,omitempty"`

	// InterfacePrefix is how the host side of pod interfaces begins, or several with commas between; cali when unset.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.matches('^[a-zA-Z0-9_.-]{1,15}(,[a-zA-Z0-9_.-]{1,15})*$')",message="want the beginning of interface names, several with commas between"
	InterfacePrefix string `json:"interfacePrefix,omitempty"`

	// InterfaceExclude are interfaces that are never host endpoints, or /regular expressions/; kube-ipvs0 when unset.
	InterfaceExclude string `json:"interfaceExclude,omitempty"`

	// IPForwarding sets the host's forwarding sysctls; Enabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	IPForwarding string `json:"ipForwarding,omitempty"`

	// IPv6Support turns IPv6 on; true when unset.
	IPv6Support *bool `json:"ipv6Support,omitempty"`

	// ServiceLoopPrevention says what happens to traffic to unused service addresses; Drop when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject|Disabled)?$`
	ServiceLoopPrevention string `json:"serviceLoopPrevention,omitempty"`

	// NATOutgoingExclusions says which destinations outgoing NAT spares; IPPoolsOnly when unset.
	//
	// +kubebuilder:validation:Enum=IPPoolsOnly;IPPoolsAndHostIPs
	NATOutgoingExclusions string `json:"natOutgoingExclusions,omitempty"`

	// NATPortRange is the range of source ports of outgoing NAT: "20000:29999".
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$`
	// +kubebuilder:validation:XValidation:rule="self >= 0 && self <= 65535 || self >= '0'",message="want a port from 0 to 65535, or two such as 20000:29999"
	NATPortRange *intstr.IntOrString `json:"natPortRange,omitempty"`

	// NATOutgoingAddress is the source of outgoing NAT; the interface's own when unset. IPv4.
	//
	// +kubebuilder:validation:MaxLength=45
	NATOutgoingAddress ipv4Text `json:"natOutgoingAddress,omitempty"`

	// IptablesNATOutgoingInterfaceFilter limits outgoing NAT to interfaces, + at the end matching the rest of a name.
	IptablesNATOutgoingInterfaceFilter wildInterfaceText `json:"iptablesNATOutgoingInterfaceFilter,omitempty"`

	// FloatingIPs turns floating IPs of pods on; Disabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	FloatingIPs string `json:"floatingIPs,omitempty"`

	// WorkloadSourceSpoofing lets pods ask for further source prefixes; Disabled when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Disabled|Any)?$`
	WorkloadSourceSpoofing string `json:"workloadSourceSpoofing,omitempty"`

	// AWSSrcDstCheck sets the source/destination check of the EC2 instance; DoNothing when unset.
	//
	// +kubebuilder:validation:Enum=DoNothing;Enable;Disable
	AWSSrcDstCheck string `json:"awsSrcDstCheck,omitempty"`
}

// RouteTableRange is a range of route table numbers, both ends included.
//
// +kubebuilder:validation:XValidation:rule="self.min <= self.max",message="want 1 <= min <= max"
// +kubebuilder:validation:XValidation:rule="self.min > 255 || self.max < 253 || self.min > self.max",message="holds the tables 253 to 255, which are the kernel's own"
type RouteTableRange struct {
	// +kubebuilder:validation:Minimum=1
	Min int `json:"min"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	Max int `json:"max"`
}
