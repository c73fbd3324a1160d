package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPReservationSpec names addresses that are not to be given out.
type IPReservationSpec struct {
	// ReservedCIDRs are ranges or single addresses that no new allocation takes. Addresses already
	// in use stay in use.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=100000
	ReservedCIDRs []rangeText `json:"reservedCIDRs,omitempty"`
}

// IPReservation keeps addresses of the pools from being given out.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=ipreservations,singular=ipreservation,shortName=ipr,categories=calico;weft
// +kubebuilder:printcolumn:name="RESERVED",type=string,JSONPath=`.spec.reservedCIDRs`
type IPReservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec IPReservationSpec `json:"spec,omitzero"`
}

// IPReservationList is a list of IPReservation.
//
// +kubebuilder:object:root=true
type IPReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPReservation `json:"items"`
}

// DefaultMaxBlocksPerHost is the cap on a node's blocks when maxBlocksPerHost is 0.
const DefaultMaxBlocksPerHost = 20

// The values of IPAMConfigurationSpec.KubeVirtVMAddressPersistence.
const (
	VMAddressPersistenceEnabled  = "Enabled"
	VMAddressPersistenceDisabled = "Disabled"
)

// IPAMConfigurationSpec holds the settings of address allocation.
//
// +kubebuilder:validation:XValidation:rule="!has(self.autoAllocateBlocks) || self.autoAllocateBlocks || (has(self.strictAffinity) && self.strictAffinity)",message="false needs strictAffinity true: otherwise nodes borrow from each other's blocks",fieldPath=".autoAllocateBlocks"
// +kubebuilder:validation:XValidation:rule="!has(self.maxBlocksPerHost) || self.maxBlocksPerHost == 0 || (has(self.strictAffinity) && self.strictAffinity)",message="needs strictAffinity true; 0 is the built-in cap of 20",fieldPath=".maxBlocksPerHost"
type IPAMConfigurationSpec struct {
	// StrictAffinity forbids taking single addresses from blocks of other nodes.
	//
	// +optional
	// +kubebuilder:default=false
	StrictAffinity bool `json:"strictAffinity"`

	// AutoAllocateBlocks lets nodes claim blocks when they need one; true when not set.
	// False needs strictAffinity.
	//
	// +optional
	// +kubebuilder:default=true
	AutoAllocateBlocks *bool `json:"autoAllocateBlocks,omitempty"`

	// MaxBlocksPerHost caps the blocks of one node. 0 is the built-in cap of 20; other values need
	// strictAffinity.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	MaxBlocksPerHost int `json:"maxBlocksPerHost,omitempty"`

	// KubeVirtVMAddressPersistence keeps the address of a virtual machine over its restarts.
	//
	// +optional
	// +kubebuilder:default=Enabled
	// +kubebuilder:validation:Enum=Enabled;Disabled
	KubeVirtVMAddressPersistence *string `json:"kubeVirtVMAddressPersistence,omitempty"`

	// IPCooldownSeconds keeps a released address from being given out again for this many seconds.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1200
	IPCooldownSeconds int `json:"ipCooldownSeconds,omitempty"`
}

// IPAMConfiguration is the cluster's one set of allocation settings; its name is "default".
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=ipamconfigurations,singular=ipamconfiguration,shortName=ipamconfig,categories=calico;weft
// +kubebuilder:printcolumn:name="STRICT",type=boolean,JSONPath=`.spec.strictAffinity`
// +kubebuilder:printcolumn:name="MAXBLOCKS",type=integer,JSONPath=`.spec.maxBlocksPerHost`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="the only IPAMConfiguration is named default"
type IPAMConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec IPAMConfigurationSpec `json:"spec,omitzero"`
}

// IPAMConfigurationList is a list of IPAMConfiguration.
//
// +kubebuilder:object:root=true
type IPAMConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMConfiguration `json:"items"`
}
