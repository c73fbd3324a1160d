package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The kinds of owner of a block: a node, or a purpose that belongs to no node.
const (
	AffinityTypeHost    = "host"
	AffinityTypeVirtual = "virtual"
)

// The states of a BlockAffinity: claimed but the block not yet written, in force, being given up.
const (
	AffinityPending         = "pending"
	AffinityConfirmed       = "confirmed"
	AffinityPendingDeletion = "pendingDeletion"
)

// Labels of a BlockAffinity, by which a node finds its own.
const (
	LabelHostnameHash = "projectcalico.org/hostname-hash"
	LabelAffinityType = "projectcalico.org/affinity-type"
	LabelIPVersion    = "projectcalico.org/ip-version"
)

// AllocationAttribute says who uses an address of a block.
type AllocationAttribute struct {
	// HandleID names the IPAMHandle that holds the address.
	//
	// +optional
	HandleID *string `json:"handle_id,omitempty"`

	// ActiveOwnerAttrs tell the owner: namespace, pod, node, timestamp.
	//
	// +optional
	ActiveOwnerAttrs map[string]string `json:"secondary,omitempty"`

	// AlternateOwnerAttrs tell a second owner during a live migration.
	//
	// +optional
	AlternateOwnerAttrs map[string]string `json:"alternate,omitempty"`

	// ReleasedAt is when the address was released; set only while it cools down.
	//
	// +optional
	ReleasedAt *metav1.Time `json:"releasedAt,omitempty"`
}

// IPAMBlockSpec is the state of one block: which of its addresses are in use, by whom, and in which
// order the free ones are given out. An address is known here by its ordinal: its distance from the
// first address of the block.
type IPAMBlockSpec struct {
	// CIDR is the range of the block.
	CIDR blockText `json:"cidr"`

	// Affinity is "host:<node>" or "virtual:<name>"; nil when no node has the block.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^(host|virtual):.+$')",message="want host:<node> or virtual:<name>"
	Affinity *string `json:"affinity,omitempty"`

	// AffinityClaimTime is when the affinity was claimed.
	//
	// +optional
	AffinityClaimTime *metav1.Time `json:"affinityClaimTime,omitempty"`

	// Allocations has one entry an ordinal: the index of its attribute, or null when it is free. The
	// markers know no list of nullable numbers, so the schema leaves the field open.
	//
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Allocations []*int `json:"allocations"`

	// Unallocated holds the free ordinals in the order in which they are given out.
	//
	// +optional
	Unallocated []int `json:"unallocated"`

	// Attributes are the owners that Allocations points to.
	//
	// +optional
	Attributes []AllocationAttribute `json:"attributes"`

	// SequenceNumber grows with every write of the block.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Format=int64
	SequenceNumber uint64 `json:"sequenceNumber"`

	// SequenceNumberForAllocation is the sequence number at which an ordinal (in decimal) was given
	// out: a release that names another one is stale.
	//
	// +optional
	SequenceNumberForAllocation map[string]uint64 `json:"sequenceNumberForAllocation"`

	// Deleted marks a block that is being deleted.
	//
	// +optional
	Deleted bool `json:"deleted"`

	// DeprecatedStrictAffinity is read from old blocks and has no effect: IPAMConfiguration decides.
	//
	// +optional
	DeprecatedStrictAffinity bool `json:"strictAffinity"`
}

// IPAMBlock is a part of a pool whose addresses one node gives out. Its name is its CIDR with
// dashes: 10-0-0-0-26.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=ipamblocks,singular=ipamblock
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="AFFINITY",type=string,JSONPath=`.spec.affinity`
type IPAMBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAMBlockSpec `json:"spec"`
}

// IPAMBlockList is a list of IPAMBlock.
//
// +kubebuilder:object:root=true
type IPAMBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMBlock `json:"items"`
}

// BlockAffinitySpec is a node's claim to a block.
type BlockAffinitySpec struct {
	// State is pending, confirmed or pendingDeletion.
	//
	// +kubebuilder:validation:Enum=pending;confirmed;pendingDeletion
	State string `json:"state"`

	// Node is the claimant.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot change: it is the affinity's identity"
	Node string `json:"node"`

	// Type is host (also when empty) or virtual.
	//
	// +optional
	// +kubebuilder:validation:Enum="";host;virtual
	Type string `json:"type,omitempty"`

	// CIDR is the range of the block.
	CIDR blockText `json:"cidr"`

	// Deleted marks an affinity that is being deleted; no user may set it.
	//
	// +optional
	Deleted Flag `json:"deleted"`
}

// BlockAffinity ties a block to the node that gives out its addresses. Its name is
// <node>-<block name>.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=blockaffinities,singular=blockaffinity,shortName=affinity;affinities
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="TYPE",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="STATE",type=string,JSONPath=`.spec.state`
type BlockAffinity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BlockAffinitySpec `json:"spec"`
}

// BlockAffinityList is a list of BlockAffinity.
//
// +kubebuilder:object:root=true
type BlockAffinityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BlockAffinity `json:"items"`
}

// IPAMHandleSpec counts what one owner holds.
type IPAMHandleSpec struct {
	// HandleID is the owner's key, unshortened: <network>.<container ID>.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot change: it is the handle's identity"
	HandleID string `json:"handleID"`

	// Block counts the addresses held in each block, by CIDR.
	//
	// +optional
	Block map[string]int `json:"block"`

	// Deleted marks a handle that is being deleted.
	//
	// +optional
	Deleted bool `json:"deleted"`
}

// IPAMHandle lists the blocks in which one owner holds addresses, so that a release by owner need
// not read every block.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=ipamhandles,singular=ipamhandle
// +kubebuilder:printcolumn:name="HANDLE",type=string,JSONPath=`.spec.handleID`
type IPAMHandle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAMHandleSpec `json:"spec"`
}

// IPAMHandleList is a list of IPAMHandle.
//
// +kubebuilder:object:root=true
type IPAMHandleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMHandle `json:"items"`
}
