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
	Protocol *intstr.IntOrString `json:"protocol,omitempty"`

	// ICMP asks for a message type of protocol ICMP or ICMPv6.
	//
	// +optional
	ICMP *ICMPFields `json:"icmp,omitempty"`

	// NotProtocol is a protocol that the rule does not match.
	//
	// +optional
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
type EntityRule struct {
	// Nets are addresses and CIDRs of which the address is in one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	Nets []string `json:"nets,omitzero"`

	// Selector picks endpoints and network sets by their labels: the address belongs to one of them.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

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
	Ports []intstr.IntOrString `json:"ports,omitzero"`

	// NotNets are addresses and CIDRs of which the address is in none.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	NotNets []string `json:"notNets,omitzero"`

	// NotSelector picks endpoints and network sets to none of which the address belongs.
	//
	// +optional
	NotSelector string `json:"notSelector,omitempty"`

	// NotPorts are ports of which the port is none.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=50
	NotPorts []intstr.IntOrString `json:"notPorts,omitzero"`

	// ServiceAccounts asks for pods by the service account that they run as.
	//
	// +optional
	ServiceAccounts *ServiceAccountMatch `json:"serviceAccounts,omitempty"`
}

// ServiceMatch names a Kubernetes Service.
type ServiceMatch struct {
	// Name of the service.
	Name string `json:"name"`

	// Namespace of the service; in a namespaced policy that of the policy when empty.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountMatch picks service accounts. Both of its fields must hold.
type ServiceAccountMatch struct {
	// Names of service accounts, of which it is one.
	//
	// +optional
	Names []string `json:"names,omitzero"`

	// Selector picks service accounts by their labels.
	//
	// +optional
	Selector string `json:"selector,omitempty"`
}

// HTTPMatch picks requests.
type HTTPMatch struct {
	// Methods of which the request has one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	Methods []string `json:"methods,omitzero"`

	// Paths of which the request's is one.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	Paths []HTTPPath `json:"paths,omitzero"`
}

// HTTPPath is a whole path or the beginning of one.
type HTTPPath struct {
	// Exact is the whole path.
	//
	// +optional
	Exact string `json:"exact,omitempty"`

	// Prefix is how the path begins.
	//
	// +optional
	Prefix string `json:"prefix,omitempty"`
}

// RuleMetadata is what a person notes of a rule.
type RuleMetadata struct {
	// Annotations become comments on the rule.
	//
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
