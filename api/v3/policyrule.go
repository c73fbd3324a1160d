package v3

import (
	"k8s.io/apimachinery/pkg/util/intstr"
)

// On match fields an empty list and an absent one differ: an absent list asks for nothing, an empty
// one is a list that nothing is in. Hence omitzero and not omitempty.

// Action is what a rule does with what it matches: Allow and Deny decide, Log goes on with the next
// rule, Pass with the next tier.
//
// +kubebuilder:validation:Enum=Allow;Deny;Log;Pass
type Action string

// The values of Action.
const (
	ActionAllow Action = "Allow"
	ActionDeny  Action = "Deny"
	ActionLog   Action = "Log"
	ActionPass  Action = "Pass"
)

// PolicyType is a direction that a policy is about, seen from what it selects.
//
// +kubebuilder:validation:Enum=Ingress;Egress
type PolicyType string

// The values of PolicyType.
const (
	PolicyTypeIngress PolicyType = "Ingress"
	PolicyTypeEgress  PolicyType = "Egress"
)

// Bounds of rules.
const (
	maxRules       = 1024 // of a policy or profile, per direction
	maxRuleNets    = 256  // of one list
	maxRulePorts   = 50   // of one list
	maxHTTPMethods = 20
	maxHTTPPaths   = 20
)

// Rule is one rule of a policy. All that it asks must hold.
//
// +kubebuilder:validation:XValidation:rule="!has(self.icmp) || has(self.protocol) && (self.protocol == 1 || self.protocol == '1' || self.protocol == 'ICMP' || self.protocol == 'icmp' || self.protocol == 'Icmp' || self.protocol == 58 || self.protocol == '58' || self.protocol == 'ICMPv6' || self.protocol == 'icmpv6' || self.protocol == 'ICMPV6' || self.protocol == 'IcmpV6')",message="needs protocol ICMP or ICMPv6 in the same rule",fieldPath=".icmp",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!has(self.notICMP) || has(self.protocol) && (self.protocol == 1 || self.protocol == '1' || self.protocol == 'ICMP' || self.protocol == 'icmp' || self.protocol == 'Icmp' || self.protocol == 58 || self.protocol == '58' || self.protocol == 'ICMPv6' || self.protocol == 'icmpv6' || self.protocol == 'ICMPV6' || self.protocol == 'IcmpV6')",message="needs protocol ICMP or ICMPv6 in the same rule",fieldPath=".notICMP",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!has(self.source) || !has(self.source.ports) || size(self.source.ports) == 0 || (has(self.protocol) ? (self.protocol == 6 || self.protocol == '6' || self.protocol == 'TCP' || self.protocol == 'tcp' || self.protocol == 'Tcp' || self.protocol == 17 || self.protocol == '17' || self.protocol == 'UDP' || self.protocol == 'udp' || self.protocol == 'Udp' || self.protocol == 132 || self.protocol == '132' || self.protocol == 'SCTP' || self.protocol == 'sctp' || self.protocol == 'Sctp') : self.source.ports.all(p, p >= '-'))",message="needs protocol TCP, UDP or SCTP in the same rule",fieldPath=".source.ports"
// +kubebuilder:validation:XValidation:rule="!has(self.source) || !has(self.source.notPorts) || size(self.source.notPorts) == 0 || (has(self.protocol) ? (self.protocol == 6 || self.protocol == '6' || self.protocol == 'TCP' || self.protocol == 'tcp' || self.protocol == 'Tcp' || self.protocol == 17 || self.protocol == '17' || self.protocol == 'UDP' || self.protocol == 'udp' || self.protocol == 'Udp' || self.protocol == 132 || self.protocol == '132' || self.protocol == 'SCTP' || self.protocol == 'sctp' || self.protocol == 'Sctp') : self.source.notPorts.all(p, p >= '-'))",message="needs protocol TCP, UDP or SCTP in the same rule",fieldPath=".source.notPorts"
// +kubebuilder:validation:XValidation:rule="!has(self.destination) || !has(self.destination.ports) || size(self.destination.ports) == 0 || (has(self.protocol) ? (self.protocol == 6 || self.protocol == '6' || self.protocol == 'TCP' || self.protocol == 'tcp' || self.protocol == 'Tcp' || self.protocol == 17 || self.protocol == '17' || self.protocol == 'UDP' || self.protocol == 'udp' || self.protocol == 'Udp' || self.protocol == 132 || self.protocol == '132' || self.protocol == 'SCTP' || self.protocol == 'sctp' || self.protocol == 'Sctp') : self.destination.ports.all(p, p >= '-'))",message="needs protocol TCP, UDP or SCTP in the same rule",fieldPath=".destination.ports"
// +kubebuilder:validation:XValidation:rule="!has(self.destination) || !has(self.destination.notPorts) || size(self.destination.notPorts) == 0 || (has(self.protocol) ? (self.protocol == 6 || self.protocol == '6' || self.protocol == 'TCP' || self.protocol == 'tcp' || self.protocol == 'Tcp' || self.protocol == 17 || self.protocol == '17' || self.protocol == 'UDP' || self.protocol == 'udp' || self.protocol == 'Udp' || self.protocol == 132 || self.protocol == '132' || self.protocol == 'SCTP' || self.protocol == 'sctp' || self.protocol == 'Sctp') : self.destination.notPorts.all(p, p >= '-'))",message="needs protocol TCP, UDP or SCTP in the same rule",fieldPath=".destination.notPorts"
// +kubebuilder:validation:XValidation:rule="!((has(self.ipVersion) && self.ipVersion == 4 || has(self.protocol) && (self.protocol == 1 || self.protocol == '1' || self.protocol == 'ICMP' || self.protocol == 'icmp' || self.protocol == 'Icmp') || has(self.source) && has(self.source.nets) && size(self.source.nets) > 0 && !self.source.nets[0].contains(':') || has(self.source) && has(self.source.notNets) && size(self.source.notNets) > 0 && !self.source.notNets[0].contains(':') || has(self.destination) && has(self.destination.nets) && size(self.destination.nets) > 0 && !self.destination.nets[0].contains(':') || has(self.destination) && has(self.destination.notNets) && size(self.destination.notNets) > 0 && !self.destination.notNets[0].contains(':')) && (has(self.ipVersion) && self.ipVersion == 6 || has(self.protocol) && (self.protocol == 58 || self.protocol == '58' || self.protocol == 'ICMPv6' || self.protocol == 'icmpv6' || self.protocol == 'ICMPV6' || self.protocol == 'IcmpV6') || has(self.source) && has(self.source.nets) && size(self.source.nets) > 0 && self.source.nets[0].contains(':') || has(self.source) && has(self.source.notNets) && size(self.source.notNets) > 0 && self.source.notNets[0].contains(':') || has(self.destination) && has(self.destination.nets) && size(self.destination.nets) > 0 && self.destination.nets[0].contains(':') || has(self.destination) && has(self.destination.notNets) && size(self.destination.notNets) > 0 && self.destination.notNets[0].contains(':')))",message="want one rule for each family: ipVersion, protocol and ranges are of IPv4, or all of IPv6"
// +kubebuilder:validation:XValidation:rule="!has(self.http) || self.action == 'Allow'",message="only an Allow rule for ingress asks for requests",fieldPath=".http",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!has(self.http) || !has(self.protocol) || (self.protocol == 6 || self.protocol == '6' || self.protocol == 'TCP' || self.protocol == 'tcp' || self.protocol == 'Tcp')",message="needs protocol TCP, or none",fieldPath=".http",reason="FieldValueForbidden"
type Rule struct {
	// Action is what happens to traffic that the rule matches.
	Action Action `json:"action"`

	// IPVersion limits the rule to IPv4 (4) or IPv6 (6).
	//
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int `json:"ipVersion,omitempty"`

	// Protocol is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or 1 to 255.
	//
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ii][Cc][Mm][Pp]([Vv]6)?|[Ss][Cc][Tt][Pp]|[Uu][Dd][Pp][Ll][Ii][Tt][Ee]|0*([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))$`
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 255 || self >= '0'",message="want 1 to 255, or one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite"
	Protocol *intstr.IntOrString `json:"protocol,omitempty"`

	// ICMP asks for a message type of protocol ICMP or ICMPv6.
	//
	// +optional
	ICMP *ICMPFields `json:"icmp,omitempty"`

	// NotProtocol is a protocol that the rule does not match.
	//
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ii][Cc][Mm][Pp]([Vv]6)?|[Ss][Cc][Tt][Pp]|[Uu][Dd][Pp][Ll][Ii][Tt][Ee]|0*([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))$`
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 255 || self >= '0'",message="want 1 to 255, or one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite"
	NotProtocol *intstr.IntOrString `json:"notProtocol,omitempty"`

	// NotICMP is a message type that the rule does not match.
	//
	// +optional
	NotICMP *ICMPFields `json:"notICMP,omitempty"`

	// Source is what the rule asks of the sender.
	//
	// +optional
	Source EntityRule `json:"source,omitzero"`

	// Destination is what the rule asks of the receiver.
	//
	// +optional
	Destination EntityRule `json:"destination,omitzero"`

	// HTTP asks for requests. It is read and has no effect: nothing here looks into HTTP.
	//
	// +optional
	HTTP *HTTPMatch `json:"http,omitempty"`

	// Metadata is for people.
	//
	// +optional
	Metadata *RuleMetadata `json:"metadata,omitempty"`
}

// ICMPFields names messages of ICMP or ICMPv6.
//
// +kubebuilder:validation:XValidation:rule="!has(self.code) || has(self.type)",message="a code needs a type",fieldPath=".type",reason="FieldValueRequired"
type ICMPFields struct {
	// Type of the message.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	Type *int `json:"type,omitempty"`

	// Code of the message; needs a type.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	Code *int `json:"code,omitempty"`
}

// EntityRule is what a rule asks of one end. An empty list matches nothing; an empty selector is the
// same as none.
//
// +kubebuilder:validation:XValidation:rule="!has(self.services) || !(has(self.nets) || has(self.notNets) || has(self.selector) && size(self.selector) > 0 || has(self.notSelector) && size(self.notSelector) > 0 || has(self.namespaceSelector) && size(self.namespaceSelector) > 0 || has(self.serviceAccounts))",message="services excludes nets, notNets, selector, notSelector, namespaceSelector and serviceAccounts: want a rule of its own"
type EntityRule struct {
	// Nets are addresses and CIDRs of which the address is in one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.filter(n, n.contains(':')).size() in [0, self.size()]",message="want one rule for each family"
	Nets []ruleRangeText `json:"nets,omitzero"`

	// Selector picks endpoints and network sets by their labels: the address belongs to one of them.
	//
	// +optional
	Selector ruleSelectorText `json:"selector,omitempty"`

	// NamespaceSelector picks namespaces, in which Selector then looks; global() is what is in none.
	//
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`

	// Services is a Kubernetes Service whose endpoints the rule matches: an egress rule's destination
	// or an ingress rule's source.
	//
	// +optional
	Services *ServiceMatch `json:"services,omitempty"`

	// Ports are numbers, ranges such as 8000:8999, and names.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:Pattern=`^(0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?|[0-9]{0,127}[a-zA-Z_.-][a-zA-Z0-9_.-]{0,127})$`
	// +kubebuilder:validation:items:XValidation:rule="self >= 0 && self <= 65535 || self >= '-'",message="want a port from 0 to 65535, two such as 20000:29999, or a name"
	Ports []intstr.IntOrString `json:"ports,omitzero"`

	// NotNets are addresses and CIDRs of which the address is in none.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.filter(n, n.contains(':')).size() in [0, self.size()]",message="want one rule for each family"
	// +kubebuilder:validation:items:XValidation:rule="!self.endsWith('/0')",message="excludes every address: leave the rule out instead"
	NotNets []ruleRangeText `json:"notNets,omitzero"`

	// NotSelector picks endpoints and network sets to none of which the address belongs.
	//
	// +optional
	NotSelector ruleSelectorText `json:"notSelector,omitempty"`

	// NotPorts are ports of which the port is none.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:XIntOrString
	// +kubebuilder:validation:items:Pattern=`^(0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?|[0-9]{0,127}[a-zA-Z_.-][a-zA-Z0-9_.-]{0,127})$`
	// +kubebuilder:validation:items:XValidation:rule="self >= 0 && self <= 65535 || self >= '-'",message="want a port from 0 to 65535, two such as 20000:29999, or a name"
	NotPorts []intstr.IntOrString `json:"notPorts,omitzero"`

	// ServiceAccounts asks for pods by the service account that they run as.
	//
	// +optional
	ServiceAccounts *ServiceAccountMatch `json:"serviceAccounts,omitempty"`
}

// ServiceMatch names a Kubernetes Service.
type ServiceMatch struct {
	// Name of the service.
	//
	// +kubebuilder:validation:MinLength=1
	Name ruleNameText `json:"name"`

	// Namespace of the service; in a namespaced policy that of the policy when empty.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$`
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountMatch picks service accounts. Both of its fields must hold.
type ServiceAccountMatch struct {
	// Names of service accounts, of which it is one.
	//
	// +optional
	Names []ruleNameText `json:"names,omitzero"`

	// Selector picks service accounts by their labels.
	//
	// +optional
	Selector ruleSelectorText `json:"selector,omitempty"`
}

// HTTPMatch picks requests.
type HTTPMatch struct {
	// Methods of which the request has one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=32
	// +kubebuilder:validation:items:Pattern=`^[A-Z-]+$`
	Methods []string `json:"methods,omitzero"`

	// Paths of which the request's is one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	Paths []HTTPPath `json:"paths,omitzero"`
}

// HTTPPath is a whole path or the beginning of one.
//
// +kubebuilder:validation:XValidation:rule="(has(self.exact) && size(self.exact) > 0) != (has(self.prefix) && size(self.prefix) > 0)",message="want either exact or prefix"
type HTTPPath struct {
	// Exact is the whole path.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^(/[^\s?#]*)?$`
	Exact string `json:"exact,omitempty"`

	// Prefix is how the path begins.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^(/[^\s?#]*)?$`
	Prefix string `json:"prefix,omitempty"`
}

// RuleMetadata is what a person notes of a rule.
type RuleMetadata struct {
	// Annotations become comments on the rule.
	//
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
