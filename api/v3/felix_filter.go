package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// FelixFilterSpec holds the settings of the policy backends.
type FelixFilterSpec struct {
	// IptablesBackend picks the iptables variant; Auto when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Auto|Legacy|NFT)?$`
	IptablesBackend string `json:"iptablesBackend,omitempty"`

	// NftablesMode picks nftables; Auto when unset.
	//
	// +kubebuilder:validation:Enum=Auto;Enabled;Disabled
	NftablesMode string `json:"nftablesMode,omitempty"`

	// IptablesMarkMask are the packet mark bits that may be used; 0xffff0000 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:XValidation:rule="self / 1 % 2 + self / 2 % 2 + self / 4 % 2 + self / 8 % 2 + self / 16 % 2 + self / 32 % 2 + self / 64 % 2 + self / 128 % 2 + self / 256 % 2 + self / 512 % 2 + self / 1024 % 2 + self / 2048 % 2 + self / 4096 % 2 + self / 8192 % 2 + self / 16384 % 2 + self / 32768 % 2 + self / 65536 % 2 + self / 131072 % 2 + self / 262144 % 2 + self / 524288 % 2 + self / 1048576 % 2 + self / 2097152 % 2 + self / 4194304 % 2 + self / 8388608 % 2 + self / 16777216 % 2 + self / 33554432 % 2 + self / 67108864 % 2 + self / 134217728 % 2 + self / 268435456 % 2 + self / 536870912 % 2 + self / 1073741824 % 2 + self / 2147483648 % 2 >= 8",message="want at least 8 bits set"
	IptablesMarkMask *uint32 `json:"iptablesMarkMask,omitempty"`

	// NftablesMarkMask are the packet mark bits that may be used; 0xffff0000 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:XValidation:rule="self / 1 % 2 + self / 2 % 2 + self / 4 % 2 + self / 8 % 2 + self / 16 % 2 + self / 32 % 2 + self / 64 % 2 + self / 128 % 2 + self / 256 % 2 + self / 512 % 2 + self / 1024 % 2 + self / 2048 % 2 + self / 4096 % 2 + self / 8192 % 2 + self / 16384 % 2 + self / 32768 % 2 + self / 65536 % 2 + self / 131072 % 2 + self / 262144 % 2 + self / 524288 % 2 + self / 1048576 % 2 + self / 2097152 % 2 + self / 4194304 % 2 + self / 8388608 % 2 + self / 16777216 % 2 + self / 33554432 % 2 + self / 67108864 % 2 + self / 134217728 % 2 + self / 268435456 % 2 + self / 536870912 % 2 + self / 1073741824 % 2 + self / 2147483648 % 2 >= 8",message="want at least 8 bits set"
	NftablesMarkMask *uint32 `json:"nftablesMarkMask,omitempty"`

	// NftablesFlowTableOffload lets established flows bypass the rules; Disabled when unset.
	//
	// +kubebuilder:validation:Enum=Disabled;All;Enabled
	NftablesFlowTableOffload string `json:"nftablesFlowTableOffload,omitempty"`

	// NftablesFlowTableDataIfacePattern is a regular expression for further interfaces of the bypass.
	NftablesFlowTableDataIfacePattern regexpText `json:"nftablesFlowTableDataIfacePattern,omitempty"`

	// IptablesRefreshInterval is the interval of full checks of the rules; 180s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	IptablesRefreshInterval *metav1.Duration `json:"iptablesRefreshInterval,omitempty"`

	// NftablesRefreshInterval is the interval of full checks of the rules; 180s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	NftablesRefreshInterval *metav1.Duration `json:"nftablesRefreshInterval,omitempty"`

	// IPSetsRefreshInterval is the interval of full checks of the sets; 90s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	IPSetsRefreshInterval *metav1.Duration `json:"ipsetsRefreshInterval,omitempty"`

	// IptablesPostWriteCheckInterval is the delay of the check after a write; 5s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	IptablesPostWriteCheckInterval *metav1.Duration `json:"iptablesPostWriteCheckInterval,omitempty"`

	// IptablesLockFilePath is the lock file of iptables; /run/xtables.lock when unset.
	IptablesLockFilePath string `json:"iptablesLockFilePath,omitempty"`

	// IptablesLockTimeout is how long to wait for the lock; 0 does not take it.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	IptablesLockTimeout *metav1.Duration `json:"iptablesLockTimeout,omitempty"`

	// IptablesLockProbeInterval is how often to try for the lock; 50ms when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	IptablesLockProbeInterval *metav1.Duration `json:"iptablesLockProbeInterval,omitempty"`

	// ChainInsertMode puts our chains first (Insert, when unset) or last (Append).
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Insert|Append)?$`
	ChainInsertMode string `json:"chainInsertMode,omitempty"`

	// MaxIpsetSize is the most entries of a set; 1048576 when unset.
	//
	// +kubebuilder:validation:Minimum=1
	MaxIpsetSize *int `json:"maxIpsetSize,omitempty"`

	// IptablesFilterAllowAction is what accepted traffic gets in the filter table; Accept when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	IptablesFilterAllowAction string `json:"iptablesFilterAllowAction,omitempty"`

	// IptablesMangleAllowAction is what accepted traffic gets in the mangle table; Accept when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	IptablesMangleAllowAction string `json:"iptablesMangleAllowAction,omitempty"`

	// IptablesFilterDenyAction is what denied traffic gets; Drop when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject)?$`
	IptablesFilterDenyAction string `json:"iptablesFilterDenyAction,omitempty"`

	// NftablesFilterAllowAction is what accepted traffic gets in the filter table; Accept when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	NftablesFilterAllowAction string `json:"nftablesFilterAllowAction,omitempty"`

	// NftablesMangleAllowAction is what accepted traffic gets in the mangle table; Accept when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Accept|Return)?$`
	NftablesMangleAllowAction string `json:"nftablesMangleAllowAction,omitempty"`

	// NftablesFilterDenyAction is what denied traffic gets; Drop when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Reject)?$`
	NftablesFilterDenyAction string `json:"nftablesFilterDenyAction,omitempty"`

	// DefaultEndpointToHostAction is what traffic of pods to their host gets after policy. When unset it is Drop, and in Kubernetes Accept.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(Drop|Accept|Return)?$`
	DefaultEndpointToHostAction string `json:"defaultEndpointToHostAction,omitempty"`

	// DisableConntrackInvalidCheck accepts packets that connection tracking calls invalid.
	DisableConntrackInvalidCheck *bool `json:"disableConntrackInvalidCheck,omitempty"`

	// KubeNodePortRanges are the port ranges of node ports; 30000:32767 when unset.
	//
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:Pattern=`^0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$`
	// +kubebuilder:validation:items:XValidation:rule="self >= 0 && self <= 65535 || self >= '0'",message="want a port from 0 to 65535, or two such as 20000:29999"
	KubeNodePortRanges *[]intstr.IntOrString `json:"kubeNodePortRanges,omitempty"`

	// FailsafeInboundHostPorts are never blocked towards the host; an empty list means none.
	//
	// +kubebuilder:validation:MaxItems=1024
	FailsafeInboundHostPorts *[]ProtoPort `json:"failsafeInboundHostPorts,omitempty"`

	// FailsafeOutboundHostPorts are never blocked from the host; an empty list means none.
	//
	// +kubebuilder:validation:MaxItems=1024
	FailsafeOutboundHostPorts *[]ProtoPort `json:"failsafeOutboundHostPorts,omitempty"`

	// LogPrefix begins the log lines of Log rules; calico-packet when unset.
	//
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9%: /_-]*$`
	LogPrefix string `json:"logPrefix,omitempty"`

	// LogActionRateLimit limits those log lines: "10/second".
	//
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,3}/(second|minute|hour|day))?$`
	LogActionRateLimit string `json:"logActionRateLimit,omitempty"`

	// LogActionRateLimitBurst is how many may pass at once; 5 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9999
	LogActionRateLimitBurst *int `json:"logActionRateLimitBurst,omitempty"`

	// XDPEnabled drops untracked denied traffic early; true when unset.
	XDPEnabled *bool `json:"xdpEnabled,omitempty"`

	// GenericXDPEnabled does so on drivers without support too.
	GenericXDPEnabled *bool `json:"genericXDPEnabled,omitempty"`

	// XDPRefreshInterval is the interval of full checks of that state; 90s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	XDPRefreshInterval *metav1.Duration `json:"xdpRefreshInterval,omitempty"`
}

// ProtoPort is a port of a protocol, towards or from Net when that is set.
type ProtoPort struct {
	// Protocol is TCP, UDP or SCTP; TCP when empty.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp])?$`
	Protocol string `json:"protocol"`
	// +kubebuilder:validation:Maximum=65535
	// +kubebuilder:validation:Minimum=1
	Port uint16 `json:"port"`
	// +optional
	Net optionalRangeText `json:"net"`
}
