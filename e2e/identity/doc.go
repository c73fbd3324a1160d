// Package identity tests what the identity of one node service may write on a real API server, under the manifests that
// this project ships. make test-kube runs it.
package identity
