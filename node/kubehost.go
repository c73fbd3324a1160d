package node

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/kube"
)

// kubeHost is Kubernetes' own Node of this host. It implements datastore.Sink.
type kubeHost struct {
	notify func() // called when what fill writes may have changed

	mu   sync.Mutex
	node *corev1.Node // nil: there is none
	was  string       // the name of the last one
}

// OnState implements datastore.Sink.
func (h *kubeHost) OnState(datastore.State, error) {}

// OnChanges implements datastore.Sink.
func (h *kubeHost) OnChanges(changes []datastore.Change) {
	changed := false
	h.mu.Lock()
	for _, c := range changes {
		if c.Key.Kind != kube.KindHost || c.Err != nil {
			continue
		}
		n, _ := c.Object.(*corev1.Node)
		var before, after v3.Node
		fillFrom(&before, h.node)
		fillFrom(&after, n)
		changed = changed || !sameRecord(&before, &after) // kubelet's reports of its own health are none
		if h.node = n; n != nil {
			h.was = n.Name
		}
	}
	h.mu.Unlock()
	if changed {
		h.notify()
	}
}

// fill writes into a node's record what Kubernetes says of the host: labels, addresses, pod ranges, and that the
// record goes when the Node does. A host that Kubernetes does not know keeps what its record has.
func (h *kubeHost) fill(rec *v3.Node) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fillFrom(rec, h.node)
	if h.node == nil && h.was != "" { // so that the controllers know whose record it is, when this node service ends too
		rec.Spec.OrchRefs = []v3.OrchRef{{NodeName: h.was, Orchestrator: "k8s"}}
	}
}

func fillFrom(rec *v3.Node, n *corev1.Node) {
	if n == nil {
		return
	}
	rec.Labels = maps.Clone(n.Labels)
	rec.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
	rec.Status.PodCIDRs = slices.Clone(n.Spec.PodCIDRs)
	rec.Spec.OrchRefs = []v3.OrchRef{{NodeName: n.Name, Orchestrator: "k8s"}}
	kept := slices.DeleteFunc(slices.Clone(rec.Spec.Addresses), func(a v3.NodeAddress) bool {
		return a.Type == v3.AddressInternalIP || a.Type == v3.AddressExternalIP
	})
	rec.Spec.Addresses = kept
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			rec.Spec.Addresses = append(rec.Spec.Addresses, v3.NodeAddress{Address: a.Address, Type: string(a.Type)})
		}
	}
}

// sameRecord tells that two records say the same, as far as a node writes its own.
func sameRecord(a, b *v3.Node) bool {
	return reflect.DeepEqual(a.Spec, b.Spec) && reflect.DeepEqual(a.Status, b.Status) && maps.Equal(a.Labels, b.Labels) &&
		reflect.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}
