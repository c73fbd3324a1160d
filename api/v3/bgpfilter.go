package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of BGPFilterRule.action.
const (
	FilterAccept = "Accept"
	FilterReject = "Reject"
)

// Values of BGPFilterRule.matchOperator.
const (
	MatchEqual    = "Equal"
	MatchNotEqual = "NotEqual"
	MatchIn       = "In"
	MatchNotIn    = "NotIn"
)

// FilterRemotePeers is the value of BGPFilterRule.source.
const FilterRemotePeers = "RemotePeers"

// Values of BGPFilterRule.peerType.
const (
	PeerEBGP = "eBGP"
	PeerIBGP = "iBGP"
)

// BGPFilterPrefixLength bounds the prefix length of a route.
type BGPFilterPrefixLength struct {
	// Min is the least prefix length; that of cidr when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	Min *int32 `json:"min,omitempty"`

	// Max is the greatest prefix length; 32 or 128 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	Max *int32 `json:"max,omitempty"`
}

// BGPFilterCommunities asks for communities of a route.
type BGPFilterCommunities struct {
	// Values is one community: aa:nn with 16 bits each, or aa:nn:mm with 32 bits each.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1
	Values []communityText `json:"values"`
}

// BGPFilterAddCommunity is an operation on an accepted route.
type BGPFilterAddCommunity struct {
	// Value is the community that is added: aa:nn or aa:nn:mm.
	Value communityText `json:"value"`
}

// BGPFilterPrependASPath is an operation on an accepted route.
type BGPFilterPrependASPath struct {
	// Prefix is what the AS path begins with afterwards, in this order.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:XValidation:rule="self >= 1 && self <= 4294967295 || self > '0' && self != '0.0'",message="want 1 to 4294967295: AS 0 is nobody's (RFC 7607)"
	Prefix []ASNumber `json:"prefix"`
}

// BGPFilterSetPriority is an operation on an accepted route.
type BGPFilterSetPriority struct {
	// Value is the metric of the kernel's route: less is better.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	Value int `json:"value"`
}

// BGPFilterOperation changes an accepted route; exactly one field is set.
//
// +kubebuilder:validation:XValidation:rule="(has(self.addCommunity) ? 1 : 0) + (has(self.prependASPath) ? 1 : 0) + (has(self.setPriority) ? 1 : 0) == 1",message="want one of addCommunity, prependASPath, setPriority"
type BGPFilterOperation struct {
	// AddCommunity adds a community.
	//
	// +optional
	AddCommunity *BGPFilterAddCommunity `json:"addCommunity,omitempty"`

	// PrependASPath makes the AS path longer.
	//
	// +optional
	PrependASPath *BGPFilterPrependASPath `json:"prependASPath,omitempty"`

	// SetPriority sets the metric.
	//
	// +optional
	SetPriority *BGPFilterSetPriority `json:"setPriority,omitempty"`
}

// BGPFilterRule decides on the routes that meet all of its conditions; one that is not set is met.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.cidr) && size(self.cidr) > 0) || has(self.matchOperator) && size(self.matchOperator) > 0",message="says how cidr is compared: one of Equal, NotEqual, In, NotIn",fieldPath=".matchOperator",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="!(has(self.matchOperator) && size(self.matchOperator) > 0) || has(self.cidr) && size(self.cidr) > 0",message="what matchOperator compares with",fieldPath=".cidr",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="!has(self.prefixLength) || (has(self.cidr) && size(self.cidr) > 0)",message="prefixLength needs cidr",fieldPath=".prefixLength"
// +kubebuilder:validation:XValidation:rule="!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",message="operations go with action Accept only",fieldPath=".operations"
type BGPFilterRule struct {
	// Action is Accept or Reject.
	//
	// +kubebuilder:validation:Enum=Accept;Reject
	Action string `json:"action"`

	// CIDR is what the route's prefix is compared with; bits after its prefix length do not count.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=49
	CIDR string `json:"cidr,omitempty"`

	// MatchOperator says how: Equal, NotEqual, In (within cidr, or equal to it), or NotIn.
	//
	// +optional
	// +kubebuilder:validation:Enum=Equal;NotEqual;In;NotIn
	MatchOperator string `json:"matchOperator,omitempty"`

	// PrefixLength bounds the prefix length of the route. It needs cidr.
	//
	// +optional
	PrefixLength *BGPFilterPrefixLength `json:"prefixLength,omitempty"`

	// Source RemotePeers is for routes that were learned by BGP, and not for the node's own.
	//
	// +optional
	// +kubebuilder:validation:Enum=RemotePeers
	Source string `json:"source,omitempty"`

	// Interface of the route, with * for any part of the name.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([a-zA-Z0-9_.*-]{1,15})?$`
	Interface string `json:"interface,omitempty"`

	// PeerType is eBGP, for peers of another AS, or iBGP, for those of the own.
	//
	// +optional
	// +kubebuilder:validation:Enum=eBGP;iBGP
	PeerType string `json:"peerType,omitempty"`

	// Communities of the route.
	//
	// +optional
	Communities *BGPFilterCommunities `json:"communities,omitempty"`

	// ASPathPrefix is what the AS path of the route begins with.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:XValidation:rule="self >= 1 && self <= 4294967295 || self > '0' && self != '0.0'",message="want 1 to 4294967295: AS 0 is nobody's (RFC 7607)"
	ASPathPrefix []ASNumber `json:"asPathPrefix,omitempty"`

	// Priority of the route: the metric of the kernel's.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	Priority *int `json:"priority,omitempty"`

	// Operations change an accepted route, in this order.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	Operations []BGPFilterOperation `json:"operations,omitempty"`
}

// BGPFilterSpec holds the rules for each family and direction. The first that applies decides; a route
// that none applies to is accepted.
type BGPFilterSpec struct {
	// ExportV4 is for IPv4 routes that the node announces.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || size(self.cidr) == 0 || isCIDR(self.cidr) && cidr(self.cidr).ip().family() == 4",message="want an IPv4 CIDR such as 192.0.2.0/24",fieldPath=".cidr"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || !has(self.prefixLength.min) || self.prefixLength.min <= 32",message="want 0 to 32",fieldPath=".prefixLength.min"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || !has(self.prefixLength.max) || self.prefixLength.max <= 32",message="want 0 to 32",fieldPath=".prefixLength.max"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || has(self.prefixLength.min) && self.prefixLength.min > 32 || has(self.prefixLength.max) && (self.prefixLength.max > 32 || self.prefixLength.max >= (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0)) || !has(self.prefixLength.max) && (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0) <= 32",message="want at least the least prefix length, or the rule matches nothing",fieldPath=".prefixLength.max"
	ExportV4 []BGPFilterRule `json:"exportV4,omitempty"`

	// ImportV4 is for IPv4 routes that the peer announces.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || size(self.cidr) == 0 || isCIDR(self.cidr) && cidr(self.cidr).ip().family() == 4",message="want an IPv4 CIDR such as 192.0.2.0/24",fieldPath=".cidr"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || !has(self.prefixLength.min) || self.prefixLength.min <= 32",message="want 0 to 32",fieldPath=".prefixLength.min"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || !has(self.prefixLength.max) || self.prefixLength.max <= 32",message="want 0 to 32",fieldPath=".prefixLength.max"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || has(self.prefixLength.min) && self.prefixLength.min > 32 || has(self.prefixLength.max) && (self.prefixLength.max > 32 || self.prefixLength.max >= (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0)) || !has(self.prefixLength.max) && (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0) <= 32",message="want at least the least prefix length, or the rule matches nothing",fieldPath=".prefixLength.max"
	ImportV4 []BGPFilterRule `json:"importV4,omitempty"`

	// ExportV6 is for IPv6 routes that the node announces.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || size(self.cidr) == 0 || isCIDR(self.cidr) && cidr(self.cidr).ip().family() == 6",message="want an IPv6 CIDR such as 2001:db8::/64",fieldPath=".cidr"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || has(self.prefixLength.min) && self.prefixLength.min > 128 || has(self.prefixLength.max) && (self.prefixLength.max > 128 || self.prefixLength.max >= (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0)) || !has(self.prefixLength.max) && (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0) <= 128",message="want at least the least prefix length, or the rule matches nothing",fieldPath=".prefixLength.max"
	ExportV6 []BGPFilterRule `json:"exportV6,omitempty"`

	// ImportV6 is for IPv6 routes that the peer announces.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || size(self.cidr) == 0 || isCIDR(self.cidr) && cidr(self.cidr).ip().family() == 6",message="want an IPv6 CIDR such as 2001:db8::/64",fieldPath=".cidr"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.prefixLength) || has(self.prefixLength.min) && self.prefixLength.min > 128 || has(self.prefixLength.max) && (self.prefixLength.max > 128 || self.prefixLength.max >= (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0)) || !has(self.prefixLength.max) && (has(self.prefixLength.min) ? self.prefixLength.min : has(self.cidr) && isCIDR(self.cidr) ? cidr(self.cidr).prefixLength() : 0) <= 128",message="want at least the least prefix length, or the rule matches nothing",fieldPath=".prefixLength.max"
	ImportV6 []BGPFilterRule `json:"importV6,omitempty"`
}

// BGPFilter says which routes a BGPPeer that names it takes and gives.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgpfilters,singular=bgpfilter,categories=calico;weft
type BGPFilter struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec BGPFilterSpec `json:"spec,omitzero"`
}

// BGPFilterList is a list of BGPFilter.
//
// +kubebuilder:object:root=true
type BGPFilterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPFilter `json:"items"`
}
