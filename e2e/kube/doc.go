// Package kube tests the whole in a real Kubernetes cluster: its own API server, controllers, scheduler, kubelets and
// service proxy, with Debian's containerd, and this project installed by its manifests. make test-kube runs it.
package kube
