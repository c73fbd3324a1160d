package v3

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group and Version name the API group of this package's own kinds.
const (
	Group   = "projectcalico.org"
	Version = "v3"
)

// groupVersion is the apiVersion of this package's own kinds.
func groupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// The kinds of this package.
const (
	KindIPPool             = "IPPool"
	KindIPReservation      = "IPReservation"
	KindIPAMConfiguration  = "IPAMConfiguration"
	KindIPAMBlock          = "IPAMBlock"
	KindIPAMHandle         = "IPAMHandle"
	KindBlockAffinity      = "BlockAffinity"
	KindNode               = "Node"
	KindWorkloadEndpoint   = "WorkloadEndpoint"
	KindClusterInformation = "ClusterInformation"
	KindFelixConfiguration = "FelixConfiguration"

	KindTier                          = "Tier"
	KindNetworkPolicy                 = "NetworkPolicy"
	KindGlobalNetworkPolicy           = "GlobalNetworkPolicy"
	KindStagedNetworkPolicy           = "StagedNetworkPolicy"
	KindStagedGlobalNetworkPolicy     = "StagedGlobalNetworkPolicy"
	KindStagedKubernetesNetworkPolicy = "StagedKubernetesNetworkPolicy"
	KindNetworkSet                    = "NetworkSet"
	KindGlobalNetworkSet              = "GlobalNetworkSet"
	KindProfile                       = "Profile"
	KindHostEndpoint                  = "HostEndpoint"

	// KindNamespace is Kubernetes' own Namespace, which the etcd store holds as well.
	KindNamespace = "Namespace"
)
