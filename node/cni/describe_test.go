package cni

import (
	"context"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// What Kubernetes says of a pod stands in place of what the runtime says, who could say anything; a pod of which
// it says nothing, or that is another one, is not attached.
func TestDescribe(t *testing.T) {
	w := &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{UID: "u", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"cni.projectcalico.org/ipv4pools": `["p"]`}},
		Spec: v3.WorkloadEndpointSpec{Node: "n1", ServiceAccountName: "sa", Ports: []v3.EndpointPort{{Name: "http", Protocol: intstr.FromString("TCP"), Port: 80}, {HostPort: 81, Port: 81}}}}
	pod := podIdentity{"k8s", "ns", "web", "u"}
	for _, tc := range []struct {
		what   string
		change func(*podIdentity, *v3.WorkloadEndpoint)
		err    error
		want   string // in the error
	}{
		{"as it is", func(*podIdentity, *v3.WorkloadEndpoint) {}, nil, ""},
		{"the runtime tells no UID", func(p *podIdentity, _ *v3.WorkloadEndpoint) { p.UID = "" }, nil, ""},
		{"no such pod", func(*podIdentity, *v3.WorkloadEndpoint) {}, datastore.ErrNotFound, "not found"},
		{"another pod of that name", func(_ *podIdentity, w *v3.WorkloadEndpoint) { w.UID = "u2" }, nil, "another pod"},
		{"a pod of another node", func(_ *podIdentity, w *v3.WorkloadEndpoint) { w.Spec.Node = "n2" }, nil, `bound to node "n2"`},
	} {
		p, now := pod, w.DeepCopy()
		tc.change(&p, now)
		s := &Server{cfg: Config{Node: "n1", Describe: func(_ context.Context, namespace, name string) (*v3.WorkloadEndpoint, error) {
			if namespace != "ns" || name != "web" {
				t.Errorf("asked for %s/%s", namespace, name)
			}
			return now, tc.err
		}}}
		c := &netConf{}
		c.Args.CNI.Labels = []struct{ Key, Value string }{{"admin", "yes"}}
		c.Args.Weft.ServiceAccount = "root"
		err := s.describe(t.Context(), &p, c)
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: error %v, want one with %q", tc.what, err, tc.want)
			}
			continue
		}
		if p.UID != "u" {
			t.Errorf("%s: the pod's UID is %q, want Kubernetes' word", tc.what, p.UID)
		}
		got := tell(p, c)
		if err != nil || !maps.Equal(got.Labels, w.Labels) || !maps.Equal(got.Annotations, w.Annotations) || got.ServiceAccount != "sa" || len(got.Ports) != 1 || got.Ports[0].Name != "http" {
			t.Errorf("%s: error %v, told %+v", tc.what, err, got)
		}
	}
	// Without Kubernetes, and of a container that is no pod, the runtime has the word.
	c := &netConf{}
	c.Args.Weft.ServiceAccount = "sa"
	for _, s := range []*Server{{}, {cfg: Config{Describe: func(context.Context, string, string) (*v3.WorkloadEndpoint, error) { return nil, datastore.ErrNotFound }}}} {
		p := pod
		if s.cfg.Describe != nil {
			p.Orchestrator = "cni"
		}
		if err := s.describe(t.Context(), &p, c); err != nil || c.Args.Weft.ServiceAccount != "sa" {
			t.Errorf("error %v, service account %q", err, c.Args.Weft.ServiceAccount)
		}
	}
}
