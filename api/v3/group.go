package v3

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Group and Version name the API group of this package's own kinds.
const (
	Group   = "projectcalico.org"
	Version = "v3"
)

// groupVersion is the apiVersion of this package's own kinds.
func groupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// clusterPolicyVersion names the API group of ClusterNetworkPolicy.
func clusterPolicyVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: policyv1alpha2.GroupName, Version: policyv1alpha2.GroupVersion.Version}
}

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

	KindBGPConfiguration = "BGPConfiguration"
	KindBGPFilter        = "BGPFilter"
	KindBGPPeer          = "BGPPeer"
	KindCalicoNodeStatus = "CalicoNodeStatus"

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

	// Kubernetes' own kinds, which the etcd store holds as well. On the wire KindKubernetesNetworkPolicy
	// is NetworkPolicy of networking.k8s.io.
	KindNamespace               = "Namespace"
	KindSecret                  = "Secret"
	KindServiceAccount          = "ServiceAccount"
	KindService                 = "Service"
	KindEndpointSlice           = "EndpointSlice"
	KindKubernetesNetworkPolicy = "KubernetesNetworkPolicy"
	KindClusterNetworkPolicy    = "ClusterNetworkPolicy"
)
