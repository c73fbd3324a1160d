package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EncapMode says when traffic between nodes is encapsulated: Never, Always, or only towards nodes
// that are not on the same subnet (CrossSubnet).
//
// +kubebuilder:validation:Enum=Never;Always;CrossSubnet
type EncapMode string

// The values of EncapMode.
const (
	EncapNever       EncapMode = "Never"
	EncapAlways      EncapMode = "Always"
	EncapCrossSubnet EncapMode = "CrossSubnet"
)

// AllowedUse is a purpose that addresses of a pool may be given out for.
//
// +kubebuilder:validation:Enum=Workload;Tunnel;LoadBalancer
type AllowedUse string

// The values of AllowedUse.
const (
	UseWorkload     AllowedUse = "Workload"
	UseTunnel       AllowedUse = "Tunnel"
	UseLoadBalancer AllowedUse = "LoadBalancer"
)

// AssignmentMode says whether a pool is used without being asked for by name.
//
// +kubebuilder:validation:Enum=Automatic;Manual
type AssignmentMode string

// The values of AssignmentMode.
const (
	AssignAutomatic AssignmentMode = "Automatic"
	AssignManual    AssignmentMode = "Manual"
)

// Block sizes are prefix lengths.
const (
	DefaultBlockSizeIPv4 = 26
	DefaultBlockSizeIPv6 = 122
	minBlockSizeIPv4     = 20
	maxBlockSizeIPv4     = 32
	minBlockSizeIPv6     = 116
	maxBlockSizeIPv6     = 128
)

// IPPoolSpec is what a person wants of a pool.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.ipipMode) && self.ipipMode != 'Never' && has(self.vxlanMode) && self.vxlanMode != 'Never')",message="ipipMode and vxlanMode exclude each other: set one of them to Never",fieldPath=".ipipMode"
// +kubebuilder:validation:XValidation:rule="!(isCIDR(self.cidr) && self.cidr.contains(':') && has(self.ipipMode) && self.ipipMode != 'Never')",message="IP-in-IP carries IPv4 only: want Never in an IPv6 pool",fieldPath=".ipipMode"
// +kubebuilder:validation:XValidation:rule="!has(self.blockSize) || self.blockSize == 0 || !isCIDR(self.cidr) || (self.cidr.contains(':') ? self.blockSize >= 116 && self.blockSize <= 128 : self.blockSize >= 20 && self.blockSize <= 32)",message="want 20 to 32 in an IPv4 pool, 116 to 128 in an IPv6 pool",fieldPath=".blockSize"
// +kubebuilder:validation:XValidation:rule="has(self.disabled) && self.disabled || !isCIDR(self.cidr) || has(self.blockSize) && (self.cidr.contains(':') ? self.blockSize < 116 : self.blockSize < 20) && self.blockSize != 0 || cidr(self.cidr).prefixLength() <= (has(self.blockSize) && self.blockSize != 0 ? self.blockSize : self.cidr.contains(':') ? 122 : 26)",message="is smaller than one block: want a shorter prefix length, or a larger blockSize",fieldPath=".cidr"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowedUses) && self.allowedUses.exists(u, u == 'LoadBalancer')) || self.allowedUses.all(u, u == 'LoadBalancer')",message="LoadBalancer excludes the other uses",fieldPath=".allowedUses"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowedUses) && self.allowedUses.exists(u, u == 'LoadBalancer') && has(self.ipipMode) && self.ipipMode != 'Never')",message="want Never in a LoadBalancer pool",fieldPath=".ipipMode"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowedUses) && self.allowedUses.exists(u, u == 'LoadBalancer') && has(self.vxlanMode) && self.vxlanMode != 'Never')",message="want Never in a LoadBalancer pool",fieldPath=".vxlanMode"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowedUses) && self.allowedUses.exists(u, u == 'LoadBalancer') && has(self.disableBGPExport) && self.disableBGPExport)",message="want false in a LoadBalancer pool",fieldPath=".disableBGPExport"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowedUses) && self.allowedUses.exists(u, u == 'LoadBalancer') && has(self.nodeSelector) && size(self.nodeSelector) > 0 && self.nodeSelector != 'all()')",message="want all() in a LoadBalancer pool",fieldPath=".nodeSelector"
// +kubebuilder:validation:XValidation:rule="!(has(self.namespaceSelector) && size(self.namespaceSelector) > 0 && has(self.allowedUses) && self.allowedUses.exists(u, u == 'Tunnel'))",message="tunnel addresses belong to no namespace: leave Tunnel out, or namespaceSelector",fieldPath=".allowedUses"
// +kubebuilder:validation:XValidation:rule="(has(self.blockSize) && self.blockSize != 0 ? self.blockSize : self.cidr.contains(':') ? 122 : 26) == (has(oldSelf.blockSize) && oldSelf.blockSize != 0 ? oldSelf.blockSize : oldSelf.cidr.contains(':') ? 122 : 26)",message="cannot change: create another pool and disable this one",fieldPath=".blockSize"
type IPPoolSpec struct {
	// CIDR is the range of the pool, with no host bit set. It cannot change.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot change: create another pool and disable this one"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('0.0.0.0/8').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('0.0.0.0/8')",message="overlaps the 'this network' range 0.0.0.0/8, which is nobody's address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('127.0.0.0/8').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('127.0.0.0/8')",message="overlaps the loopback range 127.0.0.0/8, which never leaves a host"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('169.254.0.0/16').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('169.254.0.0/16')",message="overlaps the link-local range 169.254.0.0/16, which is not routed"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('224.0.0.0/4').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('224.0.0.0/4')",message="overlaps the multicast range 224.0.0.0/4, which is nobody's own address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('240.0.0.0/4').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('240.0.0.0/4')",message="overlaps the reserved range 240.0.0.0/4, which the kernel does not route"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('::/64').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('::/64')",message="overlaps the unspecified, loopback and IPv4-mapped range ::/64, which is not routed"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('fe80::/10').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('fe80::/10')",message="overlaps the link-local range fe80::/10, which is not routed"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !cidr('ff00::/8').containsCIDR(cidr(self).masked()) && !cidr(self).masked().containsCIDR('ff00::/8')",message="overlaps the multicast range ff00::/8, which is nobody's own address"
	CIDR maskedText `json:"cidr"`

	// VXLANMode says when traffic of this pool travels in VXLAN. Excludes ipipMode.
	//
	// +optional
	// +kubebuilder:default=Never
	VXLANMode EncapMode `json:"vxlanMode,omitempty"`

	// IPIPMode says when traffic of this pool travels in IP-in-IP. IPv4 pools only; excludes vxlanMode.
	//
	// +optional
	// +kubebuilder:default=Never
	IPIPMode EncapMode `json:"ipipMode,omitempty"`

	// NATOutgoing masquerades what pods of this pool send to destinations outside all pools.
	//
	// +optional
	NATOutgoing bool `json:"natOutgoing,omitempty"`

	// Disabled stops new allocations from this pool; addresses in use stay in use.
	//
	// +optional
	Disabled bool `json:"disabled,omitempty"`

	// DisableBGPExport keeps routes of this pool out of BGP.
	//
	// +optional
	DisableBGPExport bool `json:"disableBGPExport,omitempty"`

	// BlockSize is the prefix length of the blocks that nodes claim: 20 to 32 for IPv4 (26 when not
	// set), 116 to 128 for IPv6 (122 when not set). It cannot change.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	BlockSize int `json:"blockSize,omitempty"`

	// NodeSelector picks the nodes that may use this pool.
	//
	// +optional
	// +kubebuilder:default="all()"
	NodeSelector selectorText `json:"nodeSelector,omitempty"`

	// NamespaceSelector picks the namespaces whose pods may use this pool; when empty, all.
	//
	// +optional
	NamespaceSelector selectorText `json:"namespaceSelector,omitempty"`

	// AllowedUses lists what the addresses are for; Workload and Tunnel when not set (Workload alone
	// in a pool with a namespaceSelector).
	//
	// +optional
	// +kubebuilder:validation:MaxItems=10
	// +listType=set
	AllowedUses []AllowedUse `json:"allowedUses,omitempty"`

	// AssignmentMode Manual keeps the pool for pods and namespaces that name it.
	//
	// +optional
	// +kubebuilder:default=Automatic
	AssignmentMode AssignmentMode `json:"assignmentMode,omitempty"`
}

// The condition that tells whether addresses can be taken from a pool, and its reasons.
const (
	PoolConditionAllocatable = "Allocatable"

	PoolReasonOK          = "OK"
	PoolReasonDisabled    = "PoolDisabled"
	PoolReasonCIDROverlap = "CIDROverlap"
	PoolReasonTerminating = "Terminating"
)

// IPPoolStatus is what the cluster reports of a pool.
type IPPoolStatus struct {
	// Conditions holds Allocatable: whether addresses can be taken from the pool, and why not; and Accepted.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPPool is a range that addresses are taken from, and how traffic to it travels between nodes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=ippools,singular=ippool,shortName=ipp;pool,categories=calico;weft
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="VXLAN",type=string,JSONPath=`.spec.vxlanMode`
// +kubebuilder:printcolumn:name="IPIP",type=string,JSONPath=`.spec.ipipMode`
// +kubebuilder:printcolumn:name="NAT",type=boolean,JSONPath=`.spec.natOutgoing`
// +kubebuilder:printcolumn:name="DISABLED",type=boolean,JSONPath=`.spec.disabled`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPPoolSpec `json:"spec"`
	// +optional
	Status IPPoolStatus `json:"status,omitzero"`
}

// IPPoolList is a list of IPPool.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}
