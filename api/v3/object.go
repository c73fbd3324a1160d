package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is any resource: one of this package, or one of Kubernetes' own kinds that the etcd
// store holds as well.
//
// +kubebuilder:object:generate=false
type Object interface {
	metav1.Object
	runtime.Object
}
