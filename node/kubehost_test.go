package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/kube"
)

func TestKubeHost(t *testing.T) {
	kicks := 0
	h := &kubeHost{notify: func() { kicks++ }}
	host := func(change func(*corev1.Node)) datastore.Change {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Labels: map[string]string{"rack": "1"}},
			Spec:   corev1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
		change(n)
		return datastore.Change{Key: datastore.Key{Kind: kube.KindHost, Name: "n1"}, Object: n}
	}
	same := func(*corev1.Node) {}
	before := v3.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"old": "x"}},
		Spec: v3.NodeSpec{Addresses: []v3.NodeAddress{{Type: v3.AddressCalicoNodeIP, Address: "192.0.2.9"}, {Type: v3.AddressInternalIP, Address: "192.0.2.8"}}}}

	rec := before.DeepCopy()
	h.fill(rec)
	(*kubeHost)(nil).fill(rec)
	if diff := cmp.Diff(&before, rec); diff != "" {
		t.Errorf("a host that Kubernetes does not know changed its record:\n%s", diff)
	}
	h.OnChanges([]datastore.Change{host(same)})
	h.fill(rec)
	want := &v3.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "1"}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u1"}}},
		Spec: v3.NodeSpec{OrchRefs: []v3.OrchRef{{NodeName: "n1", Orchestrator: "k8s"}},
			Addresses: []v3.NodeAddress{{Type: v3.AddressCalicoNodeIP, Address: "192.0.2.9"}, {Type: v3.AddressInternalIP, Address: "192.0.2.1"}}},
		Status: v3.NodeStatus{PodCIDRs: []string{"10.0.0.0/24"}},
	}
	if diff := cmp.Diff(want, rec); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	again := rec.DeepCopy()
	h.fill(again)
	if !sameRecord(rec, again) {
		t.Errorf("filled twice it differs: %s", cmp.Diff(rec, again))
	}
	// A report of kubelet's health is no news; a label is.
	h.OnChanges([]datastore.Change{host(func(n *corev1.Node) { n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}} })})
	if kicks != 1 {
		t.Errorf("%d kicks after the Node came and reported its health, want 1", kicks)
	}
	h.OnChanges([]datastore.Change{host(func(n *corev1.Node) { n.Labels["rack"] = "2" })})
	if h.fill(rec); kicks != 2 || rec.Labels["rack"] != "2" {
		t.Errorf("%d kicks, label %q after a change of it", kicks, rec.Labels["rack"])
	}
}
