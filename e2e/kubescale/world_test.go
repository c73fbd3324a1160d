package kubescale

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/uuid"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
)

// The cluster's size. Every node has podsANode pods, every namespace podsANamespace, every service one EndpointSlice.
const (
	nodes      = 5000
	podsANode  = 10
	pods       = nodes * podsANode
	namespaces = 500
	services   = 200
	policies   = 200
	teams      = 10
	apps       = 20
)

const self = "node-00000"

var tiers = []string{"fe", "be", "db"}

// place is what policies ask about a pod, and where it is.
type place struct {
	namespace int
	app, tier string
	address   netip.Addr
}

// world is what was written: what the node service should make of it is computed from it, by other code.
type world struct {
	fill  *testkube.Filler
	local []place
	far   []place
	uids  []string // of far pods, by index
	begun metav1.Time
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }
func nsName(i int) string   { return fmt.Sprintf("ns-%03d", i) }

func team(namespace int) string { return fmt.Sprintf("team-%d", namespace%teams) }

// nodeAddress is where other nodes are, behind the host's router.
func nodeAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
}

// block is the range of addresses of node i, from the middle of the pool on: the node under test takes the first.
func block(i int) netip.Prefix {
	n := uint32(10)<<24 | uint32(160)<<16 | uint32(i)<<6
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 26)
}

// nth is an address of a block.
func nth(b netip.Prefix, n int) netip.Addr {
	a := b.Addr().As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

// far pods are those of nodes 1 to nodes-1; local ones stand for node 0's.
func placeOf(i int) place {
	node := i / podsANode
	return place{i % namespaces, fmt.Sprintf("app-%d", i/namespaces%apps), tiers[i/namespaces%len(tiers)], nth(block(node), 2+i%podsANode)}
}

func podName(i int) string { return fmt.Sprintf("app-%d-6d4b75cb6d-%06d", i/namespaces%apps, i) }

// meta is what the API server gives objects.
func (w *world) meta(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uuid.NewUUID(), CreationTimestamp: w.begun, Labels: labels}
}

// before writes what the host's own pods need; the rest comes when they are there.
func (w *world) before(t *testing.T) {
	for i := range namespaces {
		name := nsName(i)
		w.fill.Core("namespaces/"+name, "v1", "Namespace", &corev1.Namespace{ObjectMeta: w.meta("", name, map[string]string{"team": team(i), corev1.LabelMetadataName: name}),
			Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}})
		w.fill.Core("serviceaccounts/"+name+"/default", "v1", "ServiceAccount", &corev1.ServiceAccount{ObjectMeta: w.meta(name, "default", nil)})
	}
	for i := range policies {
		w.fill.Core("networkpolicies/"+nsName(i)+"/shop", "networking.k8s.io/v1", "NetworkPolicy", w.policy(i))
	}
	for i := range podsANode {
		p := place{namespace: i, app: "app-0", tier: "fe"}
		w.local = append(w.local, p)
		w.fill.Core("pods/"+nsName(i)+"/"+localName(i), "v1", "Pod", w.pod(localName(i), self, p))
	}
	w.fill.Wait(t)
}

func localName(i int) string { return fmt.Sprintf("local-%d", i) }

// policy is that of namespace i: its front ends get what one app of the same namespace and the back ends of another
// team send.
func (w *world) policy(i int) *networkingv1.NetworkPolicy {
	selects := func(k, v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
	}
	tcp := corev1.ProtocolTCP
	port := func(n int) []networkingv1.NetworkPolicyPort {
		p := intstr.FromInt32(int32(n))
		return []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &p}}
	}
	return &networkingv1.NetworkPolicy{ObjectMeta: w.meta(nsName(i), "shop", nil), Spec: networkingv1.NetworkPolicySpec{
		PodSelector: *selects("tier", "fe"), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{
			{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selects("app", "app-1")}}, Ports: port(8080)},
			{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selects("tier", "be"), NamespaceSelector: selects("team", team(i+1))}}, Ports: port(9090)},
		}}}
}

// sets are the sets of addresses that the policies of the host's pods need.
func (w *world) sets() [][]netip.Addr {
	all := slices.Concat(w.local, w.far)
	var out [][]netip.Addr
	for _, l := range w.local {
		var same, other []netip.Addr
		for _, p := range all {
			if p.namespace == l.namespace && p.app == "app-1" {
				same = append(same, p.address)
			}
			if p.tier == "be" && team(p.namespace) == team(l.namespace+1) {
				other = append(other, p.address)
			}
		}
		out = append(out, same, other)
	}
	return out
}

// after writes all other nodes and their pods. Their records are like those that the host's own node service wrote.
func (w *world) after(t *testing.T, c *testkube.Cluster) {
	var record v3.Node
	var own map[string]any
	for _, into := range []any{&record, &own} {
		if err := json.Unmarshal(c.MustDo(t, http.MethodGet, "/apis/projectcalico.org/v3/nodes/"+self, nil), into); err != nil {
			t.Fatal(err)
		}
	}
	w.far, w.uids = make([]place, pods-podsANode), make([]string, pods-podsANode)
	for i := 1; i < nodes; i++ {
		w.node(i, &record)
	}
	for i := podsANode; i < pods; i++ {
		p := placeOf(i)
		o := w.pod(podName(i), nodeName(i/podsANode), p)
		w.far[i-podsANode], w.uids[i-podsANode] = p, string(o.UID)
		w.fill.Core("pods/"+o.Namespace+"/"+o.Name, "v1", "Pod", o)
	}
	for i := range services {
		w.service(i)
	}
	w.fill.Wait(t)
}

// node writes what node i is: Kubernetes' Node and our record, its block and whose that is.
func (w *world) node(i int, like *v3.Node) {
	name, address := nodeName(i), nodeAddress(i).String()
	labels := maps.Clone(like.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["kubernetes.io/hostname"], labels["topology.kubernetes.io/zone"] = name, fmt.Sprintf("zone-%d", i%3)
	o := &corev1.Node{ObjectMeta: w.meta("", name, labels), Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name}},
		Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}}}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		o.Status.Conditions = append(o.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionTrue, Reason: "Kubelet" + string(c), Message: "kubelet says so", LastHeartbeatTime: w.begun, LastTransitionTime: w.begun})
	}
	for n := range 30 {
		o.Status.Images = append(o.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example/team/app-%d@sha256:%064d", n, n)}, SizeBytes: 1 << 27})
	}
	w.fill.Core("minions/"+name, "v1", "Node", o)
	r := like.DeepCopy()
	r.ObjectMeta = w.meta("", name, labels)
	r.ManagedFields = like.ManagedFields
	r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: o.UID}}
	r.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: address + "/14"}
	r.Spec.Addresses = []v3.NodeAddress{{Address: address, Type: "InternalIP"}}
	r.Spec.IPv4VXLANTunnelAddr = nth(block(i), 1).String()
	r.Spec.VXLANTunnelMACAddr = fmt.Sprintf("66:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
	r.Status.OnLink = []v3.NodeOnLink{{CIDR: "172.16.0.0/14"}}
	w.fill.Custom("projectcalico.org/nodes/"+name, r)
	w.block(i, like.ManagedFields)
}

// block writes the addresses of node i.
func (w *world) block(i int, fields []metav1.ManagedFieldsEntry) {
	cidr, affinity := block(i), "host:"+nodeName(i)
	b := &v3.IPAMBlock{TypeMeta: metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: v3.KindIPAMBlock},
		Spec: v3.IPAMBlockSpec{CIDR: cidr.String(), Affinity: &affinity, Allocations: make([]*int, 64), SequenceNumberForAllocation: map[string]uint64{}}}
	name := strings.NewReplacer(".", "-", "/", "-").Replace(cidr.String())
	b.ObjectMeta = w.meta("", name, nil)
	b.ManagedFields = fields
	for n := range 64 {
		if n == 0 || n > podsANode+1 {
			b.Spec.Unallocated = append(b.Spec.Unallocated, n)
			continue
		}
		attr := len(b.Spec.Attributes)
		b.Spec.Allocations[n] = &attr
		handle := fmt.Sprintf("weft.%064x", i<<8|n)
		b.Spec.Attributes = append(b.Spec.Attributes, v3.AllocationAttribute{HandleID: &handle, ActiveOwnerAttrs: map[string]string{"node": nodeName(i), "namespace": nsName(n), "pod": podName(i*podsANode + n), "timestamp": "2026-01-01T00:00:00Z"}})
		b.Spec.SequenceNumberForAllocation[fmt.Sprint(n)] = uint64(n)
	}
	w.fill.Custom("projectcalico.org/ipamblocks/"+name, b)
	f := &v3.BlockAffinity{TypeMeta: metav1.TypeMeta{APIVersion: "projectcalico.org/v3", Kind: v3.KindBlockAffinity},
		Spec: v3.BlockAffinitySpec{State: v3.AffinityConfirmed, Node: nodeName(i), Type: v3.AffinityTypeHost, CIDR: cidr.String()}}
	f.ObjectMeta = w.meta("", nodeName(i)+"-"+name, nil)
	w.fill.Custom("projectcalico.org/blockaffinities/"+f.Name, f)
}

// service writes a Service of an app of one namespace, and the EndpointSlice of its pods.
func (w *world) service(i int) {
	ns, app := i%namespaces, fmt.Sprintf("app-%d", i%apps)
	s := &corev1.Service{ObjectMeta: w.meta(nsName(ns), app, nil), Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.1.%d", i), ClusterIPs: []string{fmt.Sprintf("10.96.1.%d", i)},
		Selector: map[string]string{"app": app}, Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	w.fill.Core("services/specs/"+s.Namespace+"/"+s.Name, "v1", "Service", s)
	tcp, ready, port, name := corev1.ProtocolTCP, true, int32(8080), "http"
	e := &discoveryv1.EndpointSlice{ObjectMeta: w.meta(nsName(ns), app+"-abcde", map[string]string{discoveryv1.LabelServiceName: app}), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}}}
	for n, p := range w.far {
		if p.namespace == ns && p.app == app {
			node := nodeName((n + podsANode) / podsANode)
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}, NodeName: &node,
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: nsName(ns), Name: podName(n + podsANode)}})
		}
	}
	w.fill.Core("endpointslices/"+e.Namespace+"/"+e.Name, "discovery.k8s.io/v1", "EndpointSlice", e)
}

// pod is as kubelet and API server keep one: most of it is nothing that a node service needs.
func (w *world) pod(name, node string, p place) *corev1.Pod {
	yes, seconds, expires, mode := true, int64(300), int64(3607), int32(420)
	o := &corev1.Pod{ObjectMeta: w.meta(nsName(p.namespace), name, map[string]string{"app": p.app, "tier": p.tier, "pod-template-hash": "6d4b75cb6d"}),
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "default", DeprecatedServiceAccount: "default", RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler",
			TerminationGracePeriodSeconds: &seconds, EnableServiceLinks: &yes, SecurityContext: &corev1.PodSecurityContext{},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
				{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}},
			Volumes: []corev1.Volume{{Name: "kube-api-access-x7k2p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &expires}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}}}}}}}}}
	o.GenerateName, o.OwnerReferences = p.app+"-6d4b75cb6d-", []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: p.app + "-6d4b75cb6d", UID: "f1b0c2d4-0000-4000-8000-000000000000", Controller: &yes, BlockOwnerDeletion: &yes}}
	for _, c := range []string{"app", "proxy"} {
		image := "registry.example/team/" + c + "@sha256:" + strings.Repeat("0123456789abcdef", 4)
		o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: c, Image: image, ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			Args: []string{"serve", "--listen=:8080", "--log-level=info"}, Env: []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}}, {Name: "MODE", Value: "production"}},
			Ports:        []corev1.ContainerPort{{Name: c + "-http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}},
			VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access-x7k2p", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}})
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, corev1.ContainerStatus{Name: c, Ready: true, Started: &yes, Image: image, ImageID: image, ContainerID: "containerd://" + strings.Repeat("fedcba9876543210", 4),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: w.begun}}})
	}
	for _, c := range []corev1.PodConditionType{"PodReadyToStartContainers", corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: w.begun})
	}
	for _, m := range []struct{ manager, part, fields string }{{"kube-controller-manager", "", podFields}, {"kubelet", "status", podStatusFields}} {
		o.ManagedFields = append(o.ManagedFields, metav1.ManagedFieldsEntry{Manager: m.manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &w.begun, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(m.fields)}, Subresource: m.part})
	}
	o.Status.Phase, o.Status.QOSClass, o.Status.StartTime = corev1.PodRunning, corev1.PodQOSBurstable, &w.begun
	if p.address.IsValid() {
		o.Status.HostIP, o.Status.PodIP, o.Status.PodIPs = "172.16.0.1", p.address.String(), []corev1.PodIP{{IP: p.address.String()}}
	}
	return o
}

// What the API server notes of who wrote which field.
const (
	podFields = `{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{},"f:tier":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"f1b0c2d4-0000-4000-8000-000000000000\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:args":{},"f:env":{".":{},"k:{\"name\":\"MODE\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:name":{},"f:protocol":{}}},"f:resources":{".":{},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}`

	podStatusFields = `{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Initialized\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:hostIPs":{},"f:phase":{},"f:podIP":{},"f:podIPs":{".":{},"k:{\"ip\":\"10.0.0.1\"}":{".":{},"f:ip":{}}},"f:startTime":{}}}`
)

func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }
