// Package kubescale measures one real node service on the Kubernetes store of a large cluster: thousands of nodes and tens
// of thousands of pods that are objects in a real API server, and one host on which it works. make test-kube runs it.
package kubescale
