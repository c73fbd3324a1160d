package bench

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
)

const (
	policyLabels = 20
	policyValues = 10
)

// benchLabels gives the i-th pod or endpoint a value of each label.
func benchLabels(i int) map[string]string {
	l := map[string]string{}
	for k := range policyLabels {
		l[fmt.Sprintf("k%d", k)] = fmt.Sprintf("v%d", (i*7+k*3+i/policyValues)%policyValues)
	}
	return l
}

func remoteAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)})
}

// remote is the i-th endpoint of another node.
func remote(i int) *v3.WorkloadEndpoint {
	node, pod := fmt.Sprintf("node%05d", i/50), fmt.Sprintf("r%d", i)
	addr := remoteAddr(i)
	w := &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: node + "-k8s-" + pod + "-eth0", Labels: benchLabels(i)}}
	w.Labels["projectcalico.org/namespace"], w.Labels["projectcalico.org/orchestrator"] = "bench", "k8s"
	w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, Pod: pod, Endpoint: "eth0", ContainerID: "c" + pod,
		IPNetworks: []string{addr.String() + "/32"}, InterfaceName: "weft0", Profiles: []string{"kns.bench"}}
	typed(w, "WorkloadEndpoint")
	return w
}

// globalPolicy is the i-th policy in one of its versions: what other pods send to a port, what a
// network sends to another, and no pings.
func globalPolicy(i, version int) *v3.GlobalNetworkPolicy {
	term := func(k, v int) string { return fmt.Sprintf("k%d == 'v%d'", k%policyLabels, v%policyValues) }
	tcp, icmp := intstr.FromString("TCP"), intstr.FromString("ICMP")
	order := float64(i)
	g := &v3.GlobalNetworkPolicy{}
	g.Name = fmt.Sprintf("bench-%05d", i)
	g.Spec.Order, g.Spec.Selector = &order, term(i, i/policyLabels)
	g.Spec.Ingress = []v3.Rule{
		{Action: "Allow", Protocol: &tcp, Source: v3.EntityRule{Selector: term(i+1, i/policyLabels+1)}, Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt(8000 + i%100 + 1000*(version%50))}}},
		{Action: "Allow", Protocol: &tcp, Source: v3.EntityRule{Nets: []string{fmt.Sprintf("192.168.%d.0/24", i%256)}}, Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt(443)}}},
		{Action: "Deny", Protocol: &icmp, Source: v3.EntityRule{Selector: term(i+2, i/policyLabels+2)}},
	}
	typed(g, "GlobalNetworkPolicy")
	return g
}
