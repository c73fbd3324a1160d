// Package conformance runs others' tests of network policy, unchanged, against a real Kubernetes cluster in which this
// project is installed by its manifests: the conformance suite of ClusterNetworkPolicy, and Kubernetes' own end-to-end
// specs of NetworkPolicy. make test-kube runs it.
package conformance
