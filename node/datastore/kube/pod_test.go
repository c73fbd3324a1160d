package kube

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

func TestEndpointOf(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0", UID: "u", ResourceVersion: "7", Labels: map[string]string{"app": "web"},
				Annotations: map[string]string{"cni.projectcalico.org/hwAddr": "02:00:00:00:00:01", "example.org/x": "y"}},
			Spec: corev1.PodSpec{NodeName: "n-1", ServiceAccountName: "sa",
				Containers:     []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {ContainerPort: 81}, {ContainerPort: 82, HostPort: 8082, Protocol: "UDP"}}}},
				InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "gone", ContainerPort: 83}}}, {RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 84}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}},
		}
		change(p)
		return p
	}
	const name = "n--1-k8s-web--0-eth0"
	for _, tc := range []struct {
		what      string
		change    func(*corev1.Pod)
		key       string // of the endpoint; empty: the pod cannot have one
		addresses []string
	}{
		{"by its status", func(*corev1.Pod) {}, name, []string{"10.0.0.1/32", "fd00::1/128"}},
		{"no addresses yet", func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }, name, nil},
		{"CNI comes before the status", func(p *corev1.Pod) { p.Annotations[annotationIPs] = "10.0.0.9,fd00::9" }, name, []string{"10.0.0.9/32", "fd00::9/128"}},
		{"one address, with its length", func(p *corev1.Pod) { p.Annotations[annotationIP] = "10.0.0.9/32" }, name, []string{"10.0.0.9/32"}},
		{"released while its status still has addresses", func(p *corev1.Pod) { p.Annotations[annotationIPs], p.Annotations[annotationIP] = "", "" }, name, nil},
		{"finished", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, name, nil},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, name, nil},
		{"not scheduled", func(p *corev1.Pod) { p.Spec.NodeName = "" }, "", nil},
		{"on its host's network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "", nil},
	} {
		for _, self := range []string{"n-1", "other"} {
			src := &source{kind: v3.KindWorkloadEndpoint, self: self}
			c := src.endpointOf(pod(tc.change))
			w, _ := c.Object.(*v3.WorkloadEndpoint)
			if c.Err != nil || c.Key.Name != tc.key || (w != nil) != (tc.addresses != nil) {
				t.Errorf("%s: key %q, object %v, error %v", tc.what, c.Key.Name, c.Object, c.Err)
			}
			if w == nil {
				continue
			}
			want := v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n-1", Pod: "web-0", Endpoint: "eth0", ServiceAccountName: "sa", IPNetworks: tc.addresses,
				Profiles: []string{"kns.ns", "ksa.ns.sa"}, InterfaceName: w.Spec.InterfaceName, Ports: w.Spec.Ports}
			if diff := cmp.Diff(want, w.Spec); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", tc.what, diff)
			}
			var ports []string
			for _, p := range w.Spec.Ports {
				ports = append(ports, fmt.Sprintf("%s/%s/%d/%d", p.Name, p.Protocol.String(), p.Port, p.HostPort))
			}
			if got := strings.Join(ports, " "); got != "http/TCP/80/0 /UDP/82/8082 side/TCP/84/0" {
				t.Errorf("%s: ports %s", tc.what, got)
			}
			own := self == "n-1"
			if (w.Spec.InterfaceName != "") != own || (w.Annotations["cni.projectcalico.org/hwAddr"] != "") != own || w.Annotations["example.org/x"] != "" {
				t.Errorf("%s, read on node %s: interface %q, annotations %v", tc.what, self, w.Spec.InterfaceName, w.Annotations)
			}
			if w.Labels["app"] != "web" || w.Labels[labelNamespace] != "ns" || w.Labels[labelServiceAccount] != "sa" || w.UID != "u" || w.ResourceVersion != "7" {
				t.Errorf("%s: metadata %+v", tc.what, w.ObjectMeta)
			}
		}
	}
}

func TestPodOf(t *testing.T) {
	for _, tc := range [][2]string{{"n1", "p"}, {"n-1.example.org", "web-0"}, {"a--b", "c--d"}, {"n", "k8s"}, {"k8s", "k8s-k8s"}, {"n-", "-p"}} {
		if pod, ok := podOf(recordName(tc[0], tc[1])); !ok || pod != tc[1] {
			t.Errorf("%s on %s: got %q, %v from %q", tc[1], tc[0], pod, ok, recordName(tc[0], tc[1]))
		}
	}
	for _, name := range []string{"", "x", "n1-cni-c-eth0", "n1-k8s-p-eth1", "-k8s-p-eth0", "-eth0"} {
		if pod, ok := podOf(name); ok {
			t.Errorf("%q is taken for pod %q", name, pod)
		}
	}
}

// What CNI does at ADD and DEL, with the role of the node service, and what another node sees of it by its watch.
func TestEndpointsOfPods(t *testing.T) {
	c := testkube.Shared(t)
	ctx := t.Context()
	s := openWith(t, Config{Kubeconfig: c.Kubeconfig(t, testkube.Node, ""), NodeName: "n1"})
	sink := storetest.NewRecorder()
	storetest.Follow(t, openWith(t, Config{Kubeconfig: c.Kubeconfig(t, testkube.Node, ""), NodeName: "n2"}), sink, v3.KindWorkloadEndpoint)
	sink.Wait(t, "first snapshot", 20*time.Second, (*storetest.Recorder).InSync)
	before := len(sink.Changes)

	makePod(t, c, "n1", "web", "", map[string]string{"app": "web"})
	key := datastore.Key{Kind: v3.KindWorkloadEndpoint, Namespace: "default", Name: recordName("n1", "web")}
	record := func(container, ip string) *v3.WorkloadEndpoint {
		w := &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: key.Name}}
		w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n1", Pod: "web", Endpoint: "eth0", ContainerID: container, IPNetworks: []string{ip}}
		return w
	}
	want := func(what string, err, target error) {
		t.Helper()
		if !errors.Is(err, target) || (err == nil) != (target == nil) {
			t.Errorf("%s: %v, want %v", what, err, target)
		}
	}
	_, err := s.Get(ctx, key)
	want("get before ADD", err, datastore.ErrNotFound)
	told, err := s.DescribePod(ctx, "default", "web")
	if err != nil || told.Labels["app"] != "web" || told.Spec.Node != "n1" || told.UID == "" || len(told.Spec.Ports) != 1 {
		t.Errorf("before ADD the pod is %+v, %v", told, err)
	}
	_, err = s.DescribePod(ctx, "default", "none")
	want("describe a pod that is not there", err, datastore.ErrNotFound)
	_, err = s.Update(ctx, record("c1", "10.0.0.1/32"))
	want("update before ADD", err, datastore.ErrNotFound)
	made := storetest.Must[v3.Object](t)(s.Create(ctx, record("c1", "10.0.0.1/32"))).(*v3.WorkloadEndpoint)
	if made.Labels["app"] != "web" || made.Spec.ContainerID != "c1" || !strings.HasPrefix(made.Spec.InterfaceName, "weft") {
		t.Errorf("made: %+v", made)
	}
	sink.Wait(t, "ADD", 10*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == before+1 })
	seen := sink.Changes[before].Object.(*v3.WorkloadEndpoint)
	if seen.Spec.IPNetworks[0] != "10.0.0.1/32" || seen.Labels["app"] != "web" || seen.Spec.InterfaceName != "" {
		t.Errorf("another node sees %+v", seen)
	}
	_, err = s.Create(ctx, record("c2", "10.0.0.2/32"))
	want("ADD of another sandbox", err, datastore.ErrAlreadyExists)
	// Kubelet writes the status meanwhile.
	c.MustDo(t, http.MethodPatch, podsPath+"/web/status", map[string]any{"status": map[string]any{"phase": "Running", "podIP": "10.0.0.1", "podIPs": []any{map[string]any{"ip": "10.0.0.1"}}}})
	want("DEL with an old revision", s.Delete(ctx, key, datastore.Precondition{ResourceVersion: made.ResourceVersion}), datastore.ErrConflict)
	stale := record("c2", "10.0.0.2/32")
	stale.ResourceVersion = made.ResourceVersion
	_, err = s.Update(ctx, stale)
	want("update with an old revision", err, datastore.ErrConflict)
	storetest.Must[v3.Object](t)(s.Update(ctx, record("c2", "10.0.0.2/32")))
	if got := storetest.Must[v3.Object](t)(s.Get(ctx, key)).(*v3.WorkloadEndpoint); got.Spec.ContainerID != "c2" || got.Spec.IPNetworks[0] != "10.0.0.2/32" {
		t.Errorf("after the update: %+v", got.Spec)
	}
	again := record("c3", "10.0.0.3/32")
	want("write without a UID", s.WritePod(ctx, again), datastore.ErrInvalid)
	again.UID = "other"
	want("write of another life", s.WritePod(ctx, again), datastore.ErrConflict)
	if got := storetest.Must[v3.Object](t)(s.Get(ctx, key)).(*v3.WorkloadEndpoint); got.Spec.ContainerID != "c2" {
		t.Errorf("after the write of another life: %+v", got.Spec)
	}
	again.UID = told.UID
	want("write of the pod that was described", s.WritePod(ctx, again), nil)
	taken := storetest.Must[v3.Object](t)(s.Get(ctx, key)).(*v3.WorkloadEndpoint)
	if taken.Spec.ContainerID != "c3" || taken.Spec.IPNetworks[0] != "10.0.0.3/32" {
		t.Errorf("after the write: %+v", taken.Spec)
	}
	want("DEL of another life", s.Delete(ctx, key, datastore.Precondition{UID: "other"}), datastore.ErrConflict)
	want("DEL", s.Delete(ctx, key, datastore.Precondition{ResourceVersion: taken.ResourceVersion}), nil)
	_, err = s.Get(ctx, key)
	want("get after DEL", err, datastore.ErrNotFound)
	want("DEL again", s.Delete(ctx, key, datastore.Precondition{}), datastore.ErrNotFound)
	sink.Wait(t, "DEL", 10*time.Second, func(r *storetest.Recorder) bool { return r.Changes[len(r.Changes)-1].Object == nil })

	_, err = s.Create(ctx, &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: recordName("n1", "none")},
		Spec: v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n1", Pod: "none", Endpoint: "eth0", IPNetworks: []string{"10.0.0.1/32"}}})
	want("ADD of no pod", err, datastore.ErrNotFound)
	if _, err := c.Do(ctx, testkube.Node, http.MethodPatch, podsPath+"/web", map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}); err == nil {
		t.Error("the node service's role may change a pod's labels")
	}
}
