package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/policy"
)

// anyInterface stands for the interface by which nodes reach each other and the world: that of host
// endpoints which are for every interface.
const anyInterface = "*"

// question is what weft why is asked.
type question struct {
	from, to   whyEnd
	what       traffic
	iface      string
	sourcePort uint16
}

// whyEnd is one end of the connection.
type whyEnd struct {
	Pod       string       `json:"pod,omitempty"`  // "shop/web"
	Node      string       `json:"node,omitempty"` // of the pod; or the one whose address it is
	Addresses []netip.Addr `json:"addresses"`

	device string // of the pod
	ports  []v3.EndpointPort
}

// String prints "shop/web on n1", "node n1", "192.0.2.1".
func (e whyEnd) String() string {
	switch {
	case e.Pod != "":
		return e.Pod + " on " + e.Node
	case e.Node != "":
		return "node " + e.Node
	}
	return e.Addresses[0].String()
}

// traffic is what would be sent.
type traffic struct {
	protocol   model.Protocol
	port       uint16
	name       string // of the port, before it is looked up
	icmp, code uint8
}

// String prints "tcp/80", "icmp/8/0", "47".
func (t traffic) String() string {
	switch {
	case t.protocol.HasPorts():
		return fmt.Sprintf("%s/%d", t.protocol, t.port)
	case t.protocol == model.ICMP, t.protocol == model.ICMPv6:
		return fmt.Sprintf("%s/%d/%d", t.protocol, t.icmp, t.code)
	}
	return t.protocol.String()
}

const wantTraffic = "want tcp/80, udp/53, sctp/9899, tcp/NAME, icmp, icmp/8, icmpv6/128/0 or a protocol number"

// parseTraffic reads PROTOCOL, PROTOCOL/PORT or icmp/TYPE/CODE.
func parseTraffic(s string) (traffic, error) {
	parts := strings.Split(s, "/")
	wrong := func(why string) (traffic, error) {
		return traffic{}, Usagef("%q is not understood: %s; %s", s, why, wantTraffic)
	}
	number, err := strconv.ParseUint(parts[0], 10, 8)
	if err != nil {
		number = uint64(v3.ProtocolNumber(intstr.FromString(protocolName(parts[0]))))
	}
	t := traffic{protocol: model.Protocol(number)}
	var values []uint16
	for i, p := range parts[1:] {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil && i == 0 && t.protocol.HasPorts() && p != "" {
			t.name = p
		} else if err != nil {
			return wrong(fmt.Sprintf("%q is no number up to 65535", p))
		}
		values = append(values, uint16(n))
	}
	switch {
	case number == 0:
		return wrong(fmt.Sprintf("%q is no protocol", parts[0]))
	case t.protocol.HasPorts():
		if len(values) > 1 || len(values) == 1 && values[0] == 0 && t.name == "" {
			return wrong("a port is 1 to 65535, or a name")
		}
		if len(values) == 1 {
			t.port = values[0]
		}
	case t.protocol == model.ICMP || t.protocol == model.ICMPv6:
		if len(values) > 2 || slices.ContainsFunc(values, func(v uint16) bool { return v > 255 }) {
			return wrong("an ICMP type and code are 0 to 255")
		}
		t.icmp = map[model.Protocol]uint8{model.ICMP: 8, model.ICMPv6: 128}[t.protocol] // an echo request
		if len(values) > 0 {
			t.icmp = uint8(values[0])
		}
		if len(values) > 1 {
			t.code = uint8(values[1])
		}
	case len(values) > 0:
		return wrong(fmt.Sprintf("protocol %s has no ports", t.protocol))
	}
	return t, nil
}

// protocolName spells a name as resources do: TCP, UDPLite, ICMPv6.
func protocolName(s string) string {
	for _, name := range []string{"TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite"} {
		if strings.EqualFold(name, s) {
			return name
		}
	}
	return s
}

// newQuestion finds the ends in the store.
func newQuestion(ctx context.Context, store datastore.Store, o *whyOptions, args []string) (*question, error) {
	q := &question{iface: o.iface, sourcePort: o.sourcePort}
	if q.iface == "" {
		q.iface = anyInterface
	}
	outside, ingress := o.egress, o.ingress != ""
	if ingress {
		outside = o.ingress
	}
	var address netip.AddrPort
	var err error
	if outside != "" {
		if address, err = parseAddress(outside, ingress); err != nil {
			return nil, err
		}
	}
	text := "tcp"
	if ends := 2 - min(len(outside), 1); len(args) > ends {
		text = args[ends]
	}
	if q.what, err = parseTraffic(text); err != nil {
		return nil, err
	}
	l, err := store.List(ctx, v3.KindWorkloadEndpoint, v3.KindNode)
	if err != nil {
		return nil, failed("read", "pods and nodes", err)
	}
	switch {
	case outside == "":
		if q.from, err = findPod(l.Items, args[0]); err == nil {
			q.to, err = findPod(l.Items, args[1])
		}
	case ingress:
		q.from = findAddress(l.Items, address.Addr())
		q.to, err = findPod(l.Items, args[0])
	default:
		q.to = findAddress(l.Items, address.Addr())
		q.from, err = findPod(l.Items, args[0])
	}
	if err != nil {
		return nil, err
	}
	return q, q.settlePort(address.Port())
}

// parseAddress reads IP or, when there may be a port, IP:PORT.
func parseAddress(s string, noPort bool) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	if noPort {
		return netip.AddrPort{}, Usagef("--ingress %q: want an IP address", s)
	}
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return p, Usagef("--egress %q: want IP:PORT, as in 192.0.2.1:443 or [2001:db8::1]:443", s)
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), nil
}

// settlePort finds the destination port in one of the places where it may be given.
func (q *question) settlePort(given uint16) error {
	t := &q.what
	if !t.protocol.HasPorts() {
		return nil
	}
	if t.name != "" {
		for _, p := range q.to.ports {
			if p.Name == t.name && v3.ProtocolNumber(p.Protocol) == uint8(t.protocol) {
				t.port = p.Port
				return nil
			}
		}
		return fmt.Errorf("ask why: %s has no %s port named %q%s", q.to, t.protocol, t.name, known("it has", portNames(q.to.ports)))
	}
	switch {
	case t.port == 0 && given == 0:
		return Usagef("no port: %s", wantTraffic)
	case t.port == 0:
		t.port = given
	case given != 0 && given != t.port:
		return Usagef("two ports, %d and %d: give one", given, t.port)
	}
	return nil
}

func portNames(ports []v3.EndpointPort) (names []string) {
	for _, p := range ports {
		if p.Name != "" {
			names = append(names, p.Name)
		}
	}
	return names
}

// findPod finds NAMESPACE/POD.
func findPod(objects []v3.Object, s string) (whyEnd, error) {
	namespace, pod, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || pod == "" || strings.Contains(pod, "/") {
		return whyEnd{}, Usagef("%q is not understood: want NAMESPACE/POD", s)
	}
	var names, namespaces []string
	for _, o := range objects {
		w, ok := o.(*v3.WorkloadEndpoint)
		if !ok {
			continue
		}
		if w.Namespace == namespace && w.Spec.Pod == pod {
			return endOf(w), nil
		}
		if w.Namespace == namespace {
			names = append(names, w.Namespace+"/"+w.Spec.Pod)
		}
		namespaces = append(namespaces, w.Namespace)
	}
	if len(names) == 0 {
		return whyEnd{}, fmt.Errorf("find pod %s: no pod in namespace %s%s", s, namespace, known("there are pods in", closest(namespace, namespaces)))
	}
	return whyEnd{}, fmt.Errorf("find pod %s: there is none%s", s, known("there are", closest(s, names)))
}

func endOf(w *v3.WorkloadEndpoint) whyEnd {
	e := whyEnd{Pod: w.Namespace + "/" + w.Spec.Pod, Node: w.Spec.Node, device: w.Spec.InterfaceName, ports: w.Spec.Ports}
	for _, n := range w.Spec.IPNetworks {
		if p, err := netip.ParsePrefix(n); err == nil {
			e.Addresses = append(e.Addresses, p.Addr())
		} else if a, err := netip.ParseAddr(n); err == nil {
			e.Addresses = append(e.Addresses, a)
		}
	}
	return e
}

// findAddress tells whose an address is.
func findAddress(objects []v3.Object, a netip.Addr) whyEnd {
	for _, o := range objects {
		switch o := o.(type) {
		case *v3.WorkloadEndpoint:
			if e := endOf(o); slices.Contains(e.Addresses, a) {
				e.Addresses = []netip.Addr{a}
				return e
			}
		case *v3.Node:
			if slices.Contains(v3.AllNodeAddresses(o), a) {
				return whyEnd{Node: o.Name, Addresses: []netip.Addr{a}}
			}
		}
	}
	return whyEnd{Addresses: []netip.Addr{a}}
}

// nodes are the nodes that are asked, the source's first.
func (q *question) nodes() []string {
	nodes := slices.DeleteFunc([]string{q.from.Node, q.to.Node}, func(n string) bool { return n == "" })
	return slices.Compact(nodes)
}

// pairs are the addresses from and to, one a family that both have.
func (q *question) pairs() (pairs [][2]netip.Addr) {
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if foreign := map[model.Family]model.Protocol{model.IPv4: model.ICMPv6, model.IPv6: model.ICMP}; q.what.protocol == foreign[f] {
			continue
		}
		is := func(a netip.Addr) bool { return model.FamilyOf(a) == f }
		from, to := slices.IndexFunc(q.from.Addresses, is), slices.IndexFunc(q.to.Addresses, is)
		if from >= 0 && to >= 0 {
			pairs = append(pairs, [2]netip.Addr{q.from.Addresses[from], q.to.Addresses[to]})
		}
	}
	return pairs
}

// packet is the first packet, as one node sees it.
func (q *question) packet(node string, src, dst netip.Addr) *model.Packet {
	p := &model.Packet{In: q.iface, Out: q.iface, Src: src, Dst: dst, Protocol: q.what.protocol, SrcPort: q.sourcePort, DstPort: q.what.port,
		ICMPType: q.what.icmp, ICMPCode: q.what.code}
	if q.from.Node == node {
		p.In = q.from.device // empty: the node itself
	}
	if q.to.Node == node {
		p.Out = q.to.device
	}
	return p
}

// ruleText prints what a rule asks for, without its number.
func ruleText(r *policy.Rule) string {
	_, text, _ := strings.Cut(r.String(), " ")
	return text
}

// known appends what there is instead.
func known(what string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; " + what + " " + strings.Join(names, ", ")
}

// mostClose is how many names are offered.
const mostClose = 5

// closest returns the names that are most like one that is not there.
func closest(to string, names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	slices.SortStableFunc(names, func(a, b string) int { return distance(a, to) - distance(b, to) })
	if len(names) > mostClose {
		names = append(names[:mostClose:mostClose], "...")
	}
	return names
}

// distance is how many letters have to be put in, left out or changed to make a of b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before, row[j+1] = row[j+1], min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
