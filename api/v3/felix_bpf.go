package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// FelixBPFSpec holds the settings of eBPF mode.
type FelixBPFSpec struct {
	// BPFEnabled turns eBPF mode on.
	BPFEnabled *bool `json:"bpfEnabled,omitempty"`

	// BPFAttachType is how programs are attached; Netkit when unset.
	//
	// +kubebuilder:validation:Enum=Netkit;TCX;TC
	BPFAttachType string `json:"bpfAttachType,omitempty"`

	// BPFDisableUnprivileged takes BPF from unprivileged users; true when unset.
	BPFDisableUnprivileged *bool `json:"bpfDisableUnprivileged,omitempty"`

	// BPFLogLevel is the log level of the programs; Off when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Off|Info|Debug)?$`
	BPFLogLevel string `json:"bpfLogLevel,omitempty"`

	// BPFConntrackLogLevel is the log level of the connection cleaner; Off when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Off|Debug)?$`
	BPFConntrackLogLevel string `json:"bpfConntrackLogLevel,omitempty"`

	// BPFLogFilters are packet filters for the log, by interface.
	BPFLogFilters *map[string]string `json:"bpfLogFilters,omitempty"`

	// BPFCTLBLogFilter set to all, logs the connect-time load balancer.
	BPFCTLBLogFilter string `json:"bpfCTLBLogFilter,omitempty"`

	// BPFDataIfacePattern is a regular expression for the interfaces that carry the host's traffic.
	BPFDataIfacePattern regexpText `json:"bpfDataIfacePattern,omitempty"`

	// BPFL3IfacePattern is a regular expression for such interfaces without Ethernet header.
	BPFL3IfacePattern regexpText `json:"bpfL3IfacePattern,omitempty"`

	// BPFConnectTimeLoadBalancingEnabled is the older form of bpfConnectTimeLoadBalancing.
	BPFConnectTimeLoadBalancingEnabled *bool `json:"bpfConnectTimeLoadBalancingEnabled,omitempty"`

	// BPFConnectTimeLoadBalancing resolves services when a socket connects; TCP when unset.
	//
	// +kubebuilder:validation:Enum=TCP;Enabled;Disabled
	BPFConnectTimeLoadBalancing string `json:"bpfConnectTimeLoadBalancing,omitempty"`

	// BPFHostNetworkedNATWithoutCTLB resolves services of host processes per packet; Enabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	BPFHostNetworkedNATWithoutCTLB string `json:"bpfHostNetworkedNATWithoutCTLB,omitempty"`

	// BPFExternalServiceMode is how replies to outside clients return: Tunnel (when unset) or DSR.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Tunnel|DSR)?$`
	BPFExternalServiceMode string `json:"bpfExternalServiceMode,omitempty"`

	// BPFDSROptoutCIDRs are clients that DSR does not apply to.
	//
	// +kubebuilder:validation:MaxItems=1024
	BPFDSROptoutCIDRs *[]rangeText `json:"bpfDSROptoutCIDRs,omitempty"`

	// BPFExtToServiceConnmark is the mark of connections from outside to a service.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	BPFExtToServiceConnmark *int `json:"bpfExtToServiceConnmark,omitempty"`

	// BPFExcludeCIDRsFromNAT are service addresses that are left to the host.
	//
	// +kubebuilder:validation:MaxItems=1024
	BPFExcludeCIDRsFromNAT *[]rangeText `json:"bpfExcludeCIDRsFromNAT,omitempty"`

	// BPFKubeProxyIptablesCleanupEnabled removes kube-proxy's rules; true when unset.
	BPFKubeProxyIptablesCleanupEnabled *bool `json:"bpfKubeProxyIptablesCleanupEnabled,omitempty"`

	// BPFKubeProxyMinSyncPeriod is the least time between updates of services; 1s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	BPFKubeProxyMinSyncPeriod *metav1.Duration `json:"bpfKubeProxyMinSyncPeriod,omitempty"`

	// BPFKubeProxyHealthzPort is the health port for load balancers; 10256 when unset, 0 for none.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	BPFKubeProxyHealthzPort *int `json:"bpfKubeProxyHealthzPort,omitempty"`

	// BPFKubeProxyEndpointSlicesEnabled is read and has no effect.
	BPFKubeProxyEndpointSlicesEnabled *bool `json:"bpfKubeProxyEndpointSlicesEnabled,omitempty"`

	// BPFPSNATPorts are the source ports for colliding connections; 20000:29999 when unset.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$`
	// +kubebuilder:validation:XValidation:rule="self >= 0 && self <= 65535 || self >= '0'",message="want a port from 0 to 65535, or two such as 20000:29999"
	BPFPSNATPorts *intstr.IntOrString `json:"bpfPSNATPorts,omitempty"`

	// BPFMaglevMaxServices is the most services with Maglev; 100 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMaglevMaxServices *int `json:"bpfMaglevMaxServices,omitempty"`

	// BPFMaglevMaxEndpointsPerService is the most endpoints of such a service; 100 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3000
	BPFMaglevMaxEndpointsPerService *int `json:"bpfMaglevMaxEndpointsPerService,omitempty"`

	// BPFMapSizeNATFrontend is the size of the service map; 65536 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeNATFrontend *int `json:"bpfMapSizeNATFrontend,omitempty"`

	// BPFMapSizeNATBackend is the size of the backend map; 262144 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeNATBackend *int `json:"bpfMapSizeNATBackend,omitempty"`

	// BPFMapSizeNATAffinity is the size of the affinity map; 65536 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeNATAffinity *int `json:"bpfMapSizeNATAffinity,omitempty"`

	// BPFMapSizeRoute is the size of the route map; 262144 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeRoute *int `json:"bpfMapSizeRoute,omitempty"`

	// BPFMapSizeConntrack is the size of the connection map; 512000 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeConntrack *int `json:"bpfMapSizeConntrack,omitempty"`

	// BPFMapSizePerCPUConntrack is that size per CPU, and overrides it; 0 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	BPFMapSizePerCPUConntrack *int `json:"bpfMapSizePerCpuConntrack,omitempty"`

	// BPFMapSizeConntrackScaling grows that map when it is full; DoubleIfFull when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Disabled|DoubleIfFull)?$`
	BPFMapSizeConntrackScaling string `json:"bpfMapSizeConntrackScaling,omitempty"`

	// BPFMapSizeConntrackCleanupQueue is the size of the cleaner's queue.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeConntrackCleanupQueue *int `json:"bpfMapSizeConntrackCleanupQueue,omitempty"`

	// BPFMapSizeIPSets is the size of the set map; 1048576 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeIPSets *int `json:"bpfMapSizeIPSets,omitempty"`

	// BPFMapSizeIfState is the size of the interface map; 1000 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFMapSizeIfState *int `json:"bpfMapSizeIfState,omitempty"`

	// BPFConntrackMode is who cleans connections; Auto when unset.
	//
	// +kubebuilder:validation:Enum=Auto;Userspace;BPFProgram
	BPFConntrackMode string `json:"bpfConntrackMode,omitempty"`

	// BPFConntrackTimeouts are when idle connections end.
	BPFConntrackTimeouts *BPFConntrackTimeouts `json:"bpfConntrackTimeouts,omitempty"`

	// BPFHostConntrackBypass keeps pods' traffic out of the host's connection tracking.
	BPFHostConntrackBypass *bool `json:"bpfHostConntrackBypass,omitempty"`

	// BPFEnforceRPF checks source addresses on the host's interfaces; Loose when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Disabled|Strict|Loose)?$`
	BPFEnforceRPF string `json:"bpfEnforceRPF,omitempty"`

	// BPFPolicyDebugEnabled keeps what is needed to explain the programs; true when unset.
	BPFPolicyDebugEnabled *bool `json:"bpfPolicyDebugEnabled,omitempty"`

	// BPFForceTrackPacketsFromIfaces are interfaces whose traffic is always tracked; docker+ when unset.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	BPFForceTrackPacketsFromIfaces *[]wildInterfaceText `json:"bpfForceTrackPacketsFromIfaces,omitempty"`

	// BPFDisableGROForIfaces is a regular expression for interfaces without receive offload.
	BPFDisableGROForIfaces regexpText `json:"bpfDisableGROForIfaces,omitempty"`

	// BPFRedirectToPeer delivers straight to the pod's side of its link; Enabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled;L2Only
	BPFRedirectToPeer string `json:"bpfRedirectToPeer,omitempty"`

	// BPFProfiling measures the programs; Disabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	BPFProfiling string `json:"bpfProfiling,omitempty"`

	// BPFJITHardening relaxes the kernel's hardening where it costs much; Auto when unset.
	//
	// +kubebuilder:validation:Enum=Auto;Strict
	BPFJITHardening string `json:"bpfJITHardening,omitempty"`

	// BPFIPFragmentReassemblyEnabled puts fragments from outside together; true when unset.
	BPFIPFragmentReassemblyEnabled *bool `json:"bpfIPFragmentReassemblyEnabled,omitempty"`

	// BPFIPFragTimeout is how long to wait for fragments; the kernel's own when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	BPFIPFragTimeout *metav1.Duration `json:"bpfIPFragTimeout,omitempty"`

	// BPFExportBufferSizeMB is the size of the event buffer in MiB; 1 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	BPFExportBufferSizeMB *int `json:"bpfExportBufferSizeMB,omitempty"`

	// CgroupV2Path is where the cgroup2 file system is mounted.
	CgroupV2Path string `json:"cgroupV2Path,omitempty"`
}

// BPFConntrackTimeouts are durations after which idle connections end; Auto takes the kernel's own.
type BPFConntrackTimeouts struct {
	// +optional
	CreationGracePeriod *timeoutText `json:"creationGracePeriod,omitempty"`
	// +optional
	TCPSynSent *timeoutText `json:"tcpSynSent,omitempty"`
	// +optional
	TCPEstablished *timeoutText `json:"tcpEstablished,omitempty"`
	// +optional
	TCPFinsSeen *timeoutText `json:"tcpFinsSeen,omitempty"`
	// +optional
	TCPResetSeen *timeoutText `json:"tcpResetSeen,omitempty"`
	// +optional
	UDPTimeout *timeoutText `json:"udpTimeout,omitempty"`
	// +optional
	GenericTimeout *timeoutText `json:"genericTimeout,omitempty"`
	// +optional
	ICMPTimeout *timeoutText `json:"icmpTimeout,omitempty"`
}
