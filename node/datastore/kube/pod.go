package kube

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/model"
	"weft/node/datastore"
)

// Annotations of a pod by which CNI tells its addresses before kubelet does. Empty ones say that it has none any
// more, whatever its status says.
const (
	annotationIP        = "cni.projectcalico.org/podIP"
	annotationIPs       = "cni.projectcalico.org/podIPs"
	annotationContainer = "cni.projectcalico.org/containerID"
)

// Labels that every WorkloadEndpoint has beside the pod's own.
const (
	labelNamespace      = "projectcalico.org/namespace"
	labelOrchestrator   = "projectcalico.org/orchestrator"
	labelServiceAccount = "projectcalico.org/serviceaccount"
)

const (
	orchestrator = "k8s"
	podInterface = "eth0"
)

// decodePod reads a pod in Kubernetes' protobuf.
func decodePod(data []byte) (*corev1.Pod, error) {
	raw, err := unwrap(data)
	if err != nil {
		return nil, err
	}
	var d podDecoder
	return d.decode(raw)
}

// readPodPage reads an answer of a list of pods as it comes. Pods that are no endpoints are left out.
func (s *source) readPodPage(r io.Reader) (*page, error) {
	p := &page{}
	l, err := eachPod(r, func(pod *corev1.Pod) {
		if c := s.endpointOf(pod); c.Key.Name != "" && (c.Object != nil || c.Err != nil) {
			p.items = append(p.items, c)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read a list of pods: %w", err)
	}
	if l.ResourceVersion == "" {
		return nil, errors.New("the answer to a list has no resourceVersion: this is no API server")
	}
	p.revision, p.next = l.ResourceVersion, l.Continue
	return p, nil
}

// podChange reads an event about a pod. A pod that is no endpoint, or none any more, is a deletion.
func (s *source) podChange(f frame) (datastore.Change, error) {
	pod, err := decodePod(f.raw)
	if err != nil {
		return datastore.Change{}, err
	}
	c := s.endpointOf(pod)
	c.Revision = pod.ResourceVersion
	if f.event == watch.Deleted {
		c.Object, c.Err = nil, nil
	}
	return c, nil
}

// endpointOf returns the state of a pod's WorkloadEndpoint; without a key when a pod cannot have one, without an
// object when it has none now.
func (s *source) endpointOf(p *corev1.Pod) datastore.Change {
	if p.Spec.NodeName == "" || p.Spec.HostNetwork {
		return datastore.Change{}
	}
	c := datastore.Change{Key: datastore.Key{Kind: s.kind, Namespace: p.Namespace, Name: recordName(p.Spec.NodeName, p.Name)}, Revision: p.ResourceVersion}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return c
	}
	addresses := podAddresses(p)
	if len(addresses) == 0 && !s.waiting {
		return c
	}
	w := s.describe(p)
	w.Spec.IPNetworks = addresses
	if c.Err = v3.Validate(w); c.Err == nil {
		c.Object = w
	}
	return c
}

// describe returns a pod's WorkloadEndpoint but for its addresses.
func (s *source) describe(p *corev1.Pod) *v3.WorkloadEndpoint {
	w := &v3.WorkloadEndpoint{
		TypeMeta: metav1.TypeMeta{APIVersion: v3.Group + "/" + v3.Version, Kind: v3.KindWorkloadEndpoint},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: recordName(p.Spec.NodeName, p.Name), ResourceVersion: p.ResourceVersion, UID: p.UID,
			CreationTimestamp: p.CreationTimestamp, Labels: endpointLabels(p)},
		Spec: v3.WorkloadEndpointSpec{Orchestrator: orchestrator, Node: p.Spec.NodeName, Pod: p.Name, Endpoint: podInterface,
			ContainerID: p.Annotations[annotationContainer], ServiceAccountName: p.Spec.ServiceAccountName,
			Profiles: []string{"kns." + p.Namespace}, Ports: endpointPorts(&p.Spec)},
	}
	if a := p.Spec.ServiceAccountName; a != "" {
		w.Spec.Profiles = append(w.Spec.Profiles, "ksa."+p.Namespace+"."+a)
	}
	if s.self == "" || s.self == p.Spec.NodeName {
		w.Annotations = ownAnnotations(p.Annotations)
		w.Spec.InterfaceName = kernel.PodDeviceName(model.EndpointID{Namespace: p.Namespace, Pod: p.Name, Interface: podInterface})
	}
	return w
}

// podAddresses returns the pod's addresses, each as a range of its own.
func podAddresses(p *corev1.Pod) []string {
	var out []string
	add := func(s string) {
		s, _, _ = strings.Cut(strings.TrimSpace(s), "/")
		if a, err := netip.ParseAddr(s); err == nil {
			if n := netip.PrefixFrom(a, a.BitLen()).String(); !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	ips, several := p.Annotations[annotationIPs]
	if ip, one := p.Annotations[annotationIP]; !several && one {
		ips, several = ip, true
	}
	if several {
		for ip := range strings.SplitSeq(ips, ",") {
			add(ip)
		}
		return out
	}
	for _, ip := range p.Status.PodIPs {
		add(ip.IP)
	}
	add(p.Status.PodIP)
	return out
}

func endpointLabels(p *corev1.Pod) map[string]string {
	out := make(map[string]string, len(p.Labels)+3)
	maps.Copy(out, p.Labels)
	out[labelNamespace], out[labelOrchestrator] = p.Namespace, orchestrator
	if a := p.Spec.ServiceAccountName; a != "" {
		out[labelServiceAccount] = a
	}
	return out
}

// endpointPorts returns the ports that have a name or are mapped from the host, of containers that go on running.
func endpointPorts(s *corev1.PodSpec) []v3.EndpointPort {
	var out []v3.EndpointPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.Name == "" && p.HostPort == 0 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
				continue
			}
			protocol := p.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			out = append(out, v3.EndpointPort{Name: p.Name, Protocol: intstr.FromString(string(protocol)),
				Port: uint16(p.ContainerPort), HostPort: uint16(p.HostPort), HostIP: p.HostIP})
		}
	}
	for i := range s.Containers {
		add(&s.Containers[i])
	}
	for i := range s.InitContainers {
		if r := s.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			add(&s.InitContainers[i])
		}
	}
	return out
}

// ownAnnotations are those of a pod that mean something to its node.
func ownAnnotations(from map[string]string) map[string]string {
	var out map[string]string
	for k, v := range from {
		if domain, _, _ := strings.Cut(k, "/"); domain == "cni.projectcalico.org" || domain == "qos.projectcalico.org" || domain == "kubernetes.io" {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

// recordName is the name of the WorkloadEndpoint of a pod's first interface.
func recordName(node, pod string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(node) + "-" + orchestrator + "-" + double(pod) + "-" + podInterface
}

// podOf returns the pod that a WorkloadEndpoint's name is of.
func podOf(name string) (pod string, ok bool) {
	rest, ok := strings.CutSuffix(name, "-"+podInterface)
	if !ok {
		return "", false
	}
	// A node's or a pod's own dashes are doubled, so this one stands alone.
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] != '-':
		case i+1 < len(rest) && rest[i+1] == '-':
			i++
		default:
			pod, ok := strings.CutPrefix(rest[i:], "-"+orchestrator+"-")
			return strings.ReplaceAll(pod, "--", "-"), ok && i > 0
		}
	}
	return "", false
}
