package v3

import (
	"net/netip"
	"testing"
)

func testPool(name, cidr string, disabled bool) *IPPool {
	p := &IPPool{Spec: IPPoolSpec{CIDR: cidr, Disabled: disabled}}
	p.Name = name
	return p
}

func testNode(name string, addrs ...string) *Node {
	n := &Node{Spec: NodeSpec{BGP: &NodeBGPSpec{IPv4Address: addrs[0]}}}
	if n.Name = name; len(addrs) > 1 {
		n.Spec.BGP.IPv6Address = addrs[1]
	}
	return n
}

func TestPoolOverlap(t *testing.T) {
	const disable = `disable the other pool first, which works when both have the same range`
	const replace = `the whole range of the disabled one, or delete that one first: pods may still have addresses of it`
	others := []*IPPool{
		testPool("c", "10.1.0.0/16", false), testPool("b", "10.0.0.0/14", false), testPool("six", "fd00::/64", false),
		testPool("off", "10.64.0.0/16", true), testPool("a", "10.0.0.0/16", false),
	}
	for _, c := range []struct {
		p    *IPPool
		want string
	}{
		{testPool("a", "10.0.0.0/16", false), `spec.cidr: Invalid value: "10.0.0.0/16": overlaps IPPool b (10.0.0.0/14): want a range of its own, or ` + disable},
		{testPool("new", "10.1.2.0/24", false), `spec.cidr: Invalid value: "10.1.2.0/24": overlaps IPPool b (10.0.0.0/14), c (10.1.0.0/16): want a range of its own, or ` + disable},
		{testPool("new", "10.8.0.0/16", false), ``},
		{testPool("new", "fd00::/48", false), `spec.cidr: Invalid value: "fd00::/48": overlaps IPPool six (fd00::/64): want a range of its own, or ` + disable},
		{testPool("new", "10.64.0.0/16", false), ``}, // takes the place of a disabled one
		{testPool("new", "10.64.1.0/24", false), `spec.cidr: Invalid value: "10.64.1.0/24": overlaps IPPool off (10.64.0.0/16, disabled): want a range of its own, or ` + replace},
		{testPool("new", "10.64.0.0/15", false), `spec.cidr: Invalid value: "10.64.0.0/15": overlaps IPPool off (10.64.0.0/16, disabled): want a range of its own, or ` + replace},
		{testPool("new", "10.1.2.0/24", true), `spec.cidr: Invalid value: "10.1.2.0/24": overlaps IPPool b (10.0.0.0/14), c (10.1.0.0/16): want a range of its own, or ` + replace},
		{testPool("new", "fd00::/64", true), ``},
		{testPool("new", "10.64.1.0/24", true), ``},
		{testPool("off", "10.64.0.0/16", true), ``},
	} {
		if got := errText(PoolOverlap(c.p, others...)); got != c.want {
			t.Errorf("%s %s\ngot  %s\nwant %s", c.p.Name, c.p.Spec.CIDR, got, c.want)
		}
	}
}

func TestPoolOnUnderlay(t *testing.T) {
	nodes := []*Node{testNode("n1", "172.31.1.1/24", "fd00:31:1::1/64"), testNode("n2", "192.0.2.7"), {}}
	lb := testPool("lb", "172.31.1.64/26", false)
	lb.Spec.AllowedUses = []AllowedUse{UseLoadBalancer}
	for _, c := range []struct {
		p    *IPPool
		want string
	}{
		{testPool("p", "172.31.0.0/16", false), `spec.cidr: Invalid value: "172.31.0.0/16": contains the address 172.31.1.1 of node n1: want a range that no host of the underlay has`},
		{testPool("p", "172.31.1.64/26", false), `spec.cidr: Invalid value: "172.31.1.64/26": overlaps the subnet 172.31.1.0/24 of node n1: want a range that no host of the underlay has`},
		{testPool("p", "192.0.2.0/26", true), `spec.cidr: Invalid value: "192.0.2.0/26": contains the address 192.0.2.7 of node n2: want a range that no host of the underlay has`},
		{testPool("p", "fd00:31::/32", false), `spec.cidr: Invalid value: "fd00:31::/32": contains the address fd00:31:1::1 of node n1: want a range that no host of the underlay has`},
		{testPool("p", "172.0.0.0/8", false), `spec.cidr: Invalid value: "172.0.0.0/8": contains the address 172.31.1.1 of node n1: want a range that no host of the underlay has`},
		{testPool("p", "128.0.0.0/1", false), `spec.cidr: Invalid value: "128.0.0.0/1": contains the address 172.31.1.1 of node n1 (and the like of 1 more): want a range that no host of the underlay has`},
		{testPool("p", "192.0.2.64/26", false), ``},
		{testPool("p", "10.244.0.0/16", false), ``},
		{lb, ``},
	} {
		if got := errText(PoolOnUnderlay(c.p, nodes...)); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.p.Spec.CIDR, got, c.want)
		}
	}
}

func TestNodeAddressTaken(t *testing.T) {
	pools := []*IPPool{testPool("pods", "10.244.0.0/16", false), testPool("off", "fd00:244::/48", true)}
	owners := map[string]string{"172.31.1.1": "n1", "fd00:31::1": "n1", "172.31.1.2": "n2"}
	owner := func(a netip.Addr) string { return owners[a.String()] }
	for _, c := range []struct {
		n    *Node
		want string
	}{
		{testNode("n1", "172.31.1.1/16"), ``}, // itself
		{testNode("n3", "172.31.1.3/24", "fd00:31::3/64"), ``},
		{testNode("n3", ""), ``},
		{testNode("n3", "172.31.1.2"), `spec.bgp.ipv4Address: Invalid value: "172.31.1.2/32": node n2 has this address: give one of the two another, or delete node n2 if it is gone for good`},
		{testNode("n3", "172.31.1.3", "fd00:31::1/48"), `spec.bgp.ipv6Address: Invalid value: "fd00:31::1/48": node n1 has this address: give one of the two another, or delete node n1 if it is gone for good`},
		{testNode("n3", "10.244.9.1/24"), `spec.bgp.ipv4Address: Invalid value: "10.244.9.1/24": lies in IPPool pods (10.244.0.0/16), whose addresses are for pods: give the node another address, or replace the pool`},
		{testNode("n3", "", "fd00:244::7/64"), `spec.bgp.ipv6Address: Invalid value: "fd00:244::7/64": lies in IPPool off (fd00:244::/48), whose addresses are for pods: give the node another address, or replace the pool`},
	} {
		if got := errText(NodeAddressTaken(c.n, pools, owner)); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.n.Spec.BGP.IPv4Address, got, c.want)
		}
	}
}
