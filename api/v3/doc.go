// Package v3 holds the wire types of the API group projectcalico.org/v3 that this project reads and
// writes, and everything that is true of a resource by itself: how it is decoded from what a person
// wrote and from what the store holds, its defaults, its validation, and the registry of kinds.
//
// It does not own what needs more than one resource (pool overlap is offered as a function, but the
// caller brings the other pools), storage, or the meaning of a resource for the network: package
// node converts these types into those of package model.
//
// The deep copies and the CustomResourceDefinitions in manifests/crds are generated from the markers
// here.
//
// +kubebuilder:object:generate=true
// +groupName=projectcalico.org
package v3

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object crd:crdVersions=v1,maxDescLen=400,allowDangerousTypes=true paths=. output:object:dir=. output:crd:dir=../../manifests/crds
