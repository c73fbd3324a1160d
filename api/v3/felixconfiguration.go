package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FelixConfigurationSpec holds the settings of the node service. An unset field leaves the choice to
// the wider configuration, and at last to the built-in default. On the wire all fields are on one
// level; here they are grouped by area.
//
// +kubebuilder:validation:XValidation:rule="!has(self.routeTableRange) || !has(self.routeTableRanges)",message="routeTableRange and routeTableRanges exclude each other",fieldPath=".routeTableRange"
// +kubebuilder:validation:XValidation:rule="!has(self.wireguardListeningPort) || !has(self.wireguardListeningPortV6) || !(self.wireguardListeningPort - self.wireguardListeningPortV6 in [-2, 0, 2])",message="want another than wireguardListeningPort, and not 2 from it: while keys change, the devices of the new ones have a port 2 away from those of the old",fieldPath=".wireguardListeningPortV6"
type FelixConfigurationSpec struct {
	// NodeSelector picks the nodes that this configuration is for. It is needed unless the name is
	// default or node.<name>, and not allowed there.
	NodeSelector selectorText `json:"nodeSelector,omitempty"`

	FelixTunnelSpec    `json:",inline"`
	FelixWireguardSpec `json:",inline"`
	FelixRouteSpec     `json:",inline"`
	FelixFilterSpec    `json:",inline"`
	FelixBPFSpec       `json:",inline"`
	FelixProcessSpec   `json:",inline"`
}

// FelixConfiguration holds the settings of the node service: of all nodes (named "default"), of one
// ("node.<name>"), or of those that nodeSelector picks.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=felixconfigurations,singular=felixconfiguration,shortName=felixconfig;felixconfigs,categories=calico;weft
// +kubebuilder:printcolumn:name="SELECTOR",type=string,JSONPath=`.spec.nodeSelector`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="(self.metadata.name == 'default' || self.metadata.name.startsWith('node.')) || has(self.spec) && has(self.spec.nodeSelector) && size(self.spec.nodeSelector) > 0",message="which nodes this is for, unless the name is default or node.<name>",fieldPath=".spec.nodeSelector",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name == 'default' || self.metadata.name.startsWith('node.')) || !(has(self.spec) && has(self.spec.nodeSelector) && size(self.spec.nodeSelector) > 0)",message="not allowed: the name says which nodes it is for",fieldPath=".spec.nodeSelector"
type FelixConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec FelixConfigurationSpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// FelixConfigurationList is a list of FelixConfiguration.
//
// +kubebuilder:object:root=true
type FelixConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []FelixConfiguration `json:"items"`
}
