package kube

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"weft/node/datastore"
)

// richPod has something in every field that is read, and in many that are not.
func richPod(i int) corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, n int32) []corev1.ContainerPort {
		return []corev1.ContainerPort{{Name: name, ContainerPort: n, Protocol: corev1.ProtocolUDP, HostPort: n, HostIP: "10.0.0.9"}, {ContainerPort: n + 1}}
	}
	long := strings.Repeat("x", 300)
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), GenerateName: "p", Namespace: "ns", UID: "u", ResourceVersion: "77", Generation: 3, CreationTimestamp: metav1.Unix(1700000000, 0),
		Labels: map[string]string{"app": "a", "long": long[:60]}, Annotations: map[string]string{annotationIP: "10.0.0.1", annotationContainer: "c1", "other": long},
		OwnerReferences: []metav1.OwnerReference{{Name: "rs"}}, Finalizers: []string{"f"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: []byte(long)}}}},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa", HostNetwork: i%4 == 3, Volumes: []corev1.Volume{{Name: "v"}}, Tolerations: []corev1.Toleration{{Key: "k"}},
			InitContainers: []corev1.Container{{Name: "once", Ports: port("once", 1)}, {Name: "side", RestartPolicy: &always, Ports: port("side", 2), Image: long}},
			Containers:     []corev1.Container{{Name: "a", Image: long, Ports: port("http", 80)}, {Name: "b"}}},
		Status: corev1.PodStatus{Phase: []corev1.PodPhase{corev1.PodRunning, corev1.PodSucceeded}[i/2%2], Message: long, HostIP: "10.0.0.9", PodIP: "10.0.0.2", PodIPs: []corev1.PodIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "a", Image: long}}}}
	if i%2 == 1 {
		delete(p.Annotations, annotationIP)
	}
	return p
}

func enveloped(t testing.TB, kind string, o interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := apiruntime.Unknown{TypeMeta: apiruntime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw, ContentType: "x"}
	if raw, err = u.Marshal(); err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), raw...)
}

// A pod of which only what is kept was read gives the same endpoint as the whole pod, on its own node and on others.
func TestPrunedPods(t *testing.T) {
	seen := 0
	for i := range 8 {
		whole := richPod(i)
		got, err := decodePod(enveloped(t, "Pod", &whole))
		if err != nil {
			t.Fatal(err)
		}
		for _, self := range []string{"", "n1", "n2"} {
			s := &source{kind: "WorkloadEndpoint", self: self}
			want := s.endpointOf(&whole)
			if diff := cmp.Diff(want, s.endpointOf(got)); diff != "" {
				t.Errorf("pod %d for node %q (-whole +pruned):\n%s", i, self, diff)
			}
			if diff := cmp.Diff(s.describe(&whole), s.describe(got)); diff != "" {
				t.Errorf("description of pod %d for node %q (-whole +pruned):\n%s", i, self, diff)
			}
			if want.Object != nil {
				seen++
			}
		}
		if got.Status.Message != "" || got.ManagedFields != nil || got.Spec.Containers[0].Image != "" {
			t.Errorf("pod %d was not pruned: %+v", i, got)
		}
	}
	if seen == 0 {
		t.Error("no pod is an endpoint")
	}
}

// A list is read as it comes, in pieces of any size; one that breaks off at any byte is an error that says so.
func TestReadPodPage(t *testing.T) {
	list := corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "99", Continue: "more"}}
	s := &source{kind: "WorkloadEndpoint"}
	var want []datastore.Change
	for i := range 8 {
		list.Items = append(list.Items, richPod(i))
		if c := s.endpointOf(&list.Items[i]); c.Object != nil {
			want = append(want, c)
		}
	}
	data := enveloped(t, "PodList", &list)
	p, err := s.readPodPage(iotestOneByte{bytes.NewReader(data)})
	if err != nil || p.revision != "99" || p.next != "more" {
		t.Fatalf("page %+v, error %v", p, err)
	}
	if diff := cmp.Diff(want, p.items); diff != "" || len(want) == 0 {
		t.Errorf("%d endpoints (-want +got):\n%s", len(want), diff)
	}
	list.Items = list.Items[:1]
	data = enveloped(t, "PodList", &list)
	end := bytes.LastIndex(data, []byte("\x1a")) // contentEncoding, behind the list
	for n := range end {
		if _, err := s.readPodPage(bytes.NewReader(data[:n])); err == nil {
			t.Fatalf("the first %d of %d bytes are no error", n, len(data))
		}
	}
	for n := range len(data) { // whatever is wrong, it ends
		bad := slices.Clone(data)
		bad[n] ^= 0xff
		_, _ = s.readPodPage(bytes.NewReader(bad))
	}
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// What a page of a list costs, read whole as client-go does, and as it comes.
func BenchmarkPodPage(b *testing.B) {
	list := corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "99"}}
	for i := range pageSize {
		p := richPod(4 * i)
		for n := range 2 {
			p.ManagedFields = append(p.ManagedFields, metav1.ManagedFieldsEntry{Manager: fmt.Sprint(n), FieldsV1: &metav1.FieldsV1{Raw: bytes.Repeat([]byte("x"), 1000)}})
		}
		list.Items = append(list.Items, p)
	}
	data := enveloped(b, "PodList", &list)
	s := &source{kind: "WorkloadEndpoint"}
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			all, _ := io.ReadAll(bytes.NewReader(data))
			raw, _ := unwrap(all)
			var l corev1.PodList
			if err := l.Unmarshal(raw); err != nil {
				b.Fatal(err)
			}
			for i := range l.Items {
				s.endpointOf(&l.Items[i])
			}
		}
	})
	b.Run("streamed", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := s.readPodPage(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
