//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// IPIP (IP protocol 4, RFC 2003) on kernels without the ipip module. Two programs share their maps:
//
//   weft_ipip_out  egress of weft-ipip: finds the node of the inner destination, puts an outer
//                  header before the packet and sends it on by the kernel's own routes.
//   weft_ipip_in   ingress of each underlay interface: takes off the outer header of what known
//                  nodes send, and lets the packet appear on weft-ipip.
//
// weft-ipip drops whatever is not redirected, so that without a program nothing passes.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef AF_INET
#define AF_INET 2
#endif
#define IP_DF 0x4000
#define IP_FRAGMENT 0x3fff // more fragments, or an offset
#define ECN_MASK 3
#define ECN_NOT_ECT 0
#define ECN_ECT1 1
#define ECN_CE 3
#define OUTER sizeof(struct iphdr)
// How many bytes of a packet that is too big the answer quotes; what is shorter is not too big.
#define QUOTE 256

// The value of one element: what the programs know of this host.
struct config {
	__be32 local;    // outer source
	__u32 device;    // index of weft-ipip
	__u32 parent;    // index of the interface that has local
	__u8 mac[6];     // of weft-ipip
	__u16 unused;
};

struct target_key {
	__u32 bits; // of inner
	__be32 inner;
};

struct source_key {
	__u32 bits; // 32 of outer, then those of inner
	__be32 outer, inner;
};

// linux/icmp.h needs a C library.
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_ECHO 8

struct frag_needed {
	__u8 type, code;
	__u16 checksum;
	__be16 unused, mtu;
};

// The counters; the order is that of the Go side.
enum {
	SENT,
	RECEIVED,
	NO_PEER,      // out: no node has the inner destination
	NO_ROUTE,     // out: the kernel has no route to the node
	TOO_BIG,      // out: larger than the path to the node takes
	NOT_SENT,     // out: what cannot be encapsulated (not IPv4, segmentation that IPIP has not)
	UNKNOWN,      // in: the outer source may not send the inner one
	MALFORMED,    // in: a header that is not whole or contradicts itself
	FRAGMENT,     // in: a fragment of an outer packet
	CONGESTED,    // in: congestion met a packet that cannot carry the mark (RFC 6040)
	NOT_RECEIVED, // in: the kernel refused to take the header off
	COUNTERS,
};

// Maps without preallocation: the size is a bound only.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct target_key);
	__type(value, __be32); // the node
} weft_targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u32); // 1
} weft_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} weft_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} weft_counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&weft_counters, &what);

	if (n)
		(*n)++;
}

static __always_inline int drop(__u32 why)
{
	count(why);
	return TC_ACT_SHOT;
}

static __always_inline struct config *config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&weft_config, &zero);
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

// The sum of a header's ten 16-bit words; 0xffff when its checksum is right (RFC 1071).
static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *w = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += w[i];
	return fold(sum);
}

// The length of the packet, or of the longest of those that it will be cut into, with the outer header.
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct iphdr *ip)
{
	__u32 l4 = ip->ihl * 4, header = 8;
	__u8 offset = 0;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN + OUTER;
	if (ip->protocol == IPPROTO_TCP) {
		bpf_skb_load_bytes(skb, ETH_HLEN + l4 + 12, &offset, 1);
		header = (offset >> 4) * 4;
	}
	return OUTER + l4 + header + skb->gso_size;
}

// Answers a packet that must not be cut and does not fit (RFC 1191). The answer arrives on weft-ipip
// and comes from the node, like that of a router behind the tunnel: the kernel would not believe
// one from an address of its own.
static __always_inline int too_big(struct __sk_buff *skb, const struct iphdr *ip, struct config *c,
				   __be32 node, __u32 mtu)
{
	struct {
		struct iphdr ip;
		struct frag_needed icmp;
	} a = {};
	void *data;
	__s64 quoted;
	__u8 type = 0;

	count(TOO_BIG);
	if (!(ip->frag_off & bpf_htons(IP_DF)) || ip->ihl != 5)
		return TC_ACT_SHOT;
	if (ip->protocol == IPPROTO_ICMP) { // no error about an error (RFC 1122)
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &type, 1))
			return TC_ACT_SHOT;
		if (type != ICMP_ECHO && type != ICMP_ECHOREPLY)
			return TC_ACT_SHOT;
	}
	if (bpf_skb_change_tail(skb, ETH_HLEN + QUOTE, 0) || bpf_skb_pull_data(skb, ETH_HLEN + QUOTE))
		return TC_ACT_SHOT;
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN + QUOTE > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	quoted = bpf_csum_diff(0, 0, data + ETH_HLEN, QUOTE, 0);
	a.icmp.type = ICMP_DEST_UNREACH;
	a.icmp.code = ICMP_FRAG_NEEDED;
	a.icmp.mtu = bpf_htons(mtu - OUTER);
	a.icmp.checksum = ~fold(bpf_csum_diff(0, 0, (__be32 *)&a.icmp, sizeof(a.icmp), quoted));
	a.ip.version = 4;
	a.ip.ihl = 5;
	a.ip.ttl = 64;
	a.ip.protocol = IPPROTO_ICMP;
	a.ip.tot_len = bpf_htons(sizeof(a) + QUOTE);
	a.ip.saddr = node;
	a.ip.daddr = ip->saddr;
	a.ip.check = ~header_sum(&a.ip);
	if (bpf_skb_adjust_room(skb, sizeof(a), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &a, sizeof(a), 0) ||
	    bpf_skb_store_bytes(skb, 0, c->mac, ETH_ALEN, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(c->device, BPF_F_INGRESS);
}

SEC("tc")
int weft_ipip_out(struct __sk_buff *skb)
{
	struct target_key key = { .bits = 32 };
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh hop = {};
	struct iphdr ip, outer = {};
	struct config *c = config();
	__u32 length;
	__be32 *node;
	long rc;

	if (!c || skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return drop(NOT_SENT);
	key.inner = ip.daddr;
	node = bpf_map_lookup_elem(&weft_targets, &key);
	if (!node)
		return drop(NO_PEER);

	length = wire_length(skb, &ip);
	fib.family = AF_INET;
	fib.l4_protocol = IPPROTO_IPIP;
	fib.tot_len = length;
	fib.ifindex = c->device;
	fib.tos = ip.tos;
	fib.ipv4_src = outer.saddr = c->local;
	fib.ipv4_dst = outer.daddr = *node;
	rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return too_big(skb, &ip, c, outer.daddr, fib.mtu_result);
	if (rc == BPF_FIB_LKUP_RET_FWD_DISABLED) // forwarding is off: by the parent's own routes
		fib.ifindex = c->parent;
	else if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(NO_ROUTE);
	if (fib.ifindex == c->device) // the node would be reached through its own tunnel
		return drop(NO_ROUTE);

	// What is too long for the field has length 0; it is cut before it reaches a wire.
	length = skb->len - ETH_HLEN + OUTER;
	outer.version = 4;
	outer.ihl = 5;
	outer.tos = ip.tos; // DSCP and ECN (RFC 6040, normal mode)
	outer.tot_len = length > 0xffff ? 0 : bpf_htons(length);
	// Never fragmented on the way: who receives could not tell whose the later fragments are. The
	// identification is then free (RFC 6864); a random one keeps apart what a box fragments all the same.
	outer.id = bpf_get_prandom_u32();
	outer.frag_off = bpf_htons(IP_DF);
	outer.ttl = 64;
	outer.protocol = IPPROTO_IPIP;
	outer.check = ~header_sum(&outer);
	if (bpf_skb_adjust_room(skb, OUTER, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0))
		return drop(NOT_SENT);
	count(SENT);
	// While the next hop's MAC is unknown the packet waits. It then goes where its route says, and the
	// route that it has until now is the inner one: without a hop the kernel gives it the outer one.
	if (rc != BPF_FIB_LKUP_RET_SUCCESS)
		return bpf_redirect_neigh(fib.ifindex, 0, 0, 0);
	hop.nh_family = fib.family;
	if (fib.family == AF_INET)
		hop.ipv4_nh = fib.ipv4_dst;
	else
		__builtin_memcpy(hop.ipv6_nh, fib.ipv6_dst, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(fib.ifindex, &hop, sizeof(hop), 0);
}

// Carries the congestion mark of the outer header over (RFC 6040, section 4.2). It tells whether
// the packet must be dropped.
static __always_inline int carry_ecn(struct __sk_buff *skb, __u8 outer, __u8 inner_tos)
{
	__u8 inner = inner_tos & ECN_MASK, tos;

	outer &= ECN_MASK;
	if (inner == ECN_NOT_ECT)
		return outer == ECN_CE;
	if (inner == ECN_CE || outer != ECN_CE && outer != ECN_ECT1)
		return 0;
	tos = inner_tos & ~ECN_MASK | outer;
	if (tos != inner_tos) {
		// The words of the header that differ, for its checksum.
		bpf_l3_csum_replace(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, check),
				    bpf_htons(inner_tos), bpf_htons(tos), 2);
		bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, tos), &tos, 1, 0);
	}
	return 0;
}

// Tells whether the two headers are those of a whole IPIP packet of the given length (RFC 2003,
// RFC 1122). Of a packet that was put together from segments the length field may be 0.
static __always_inline int well_formed(struct __sk_buff *skb, const struct iphdr *outer, const struct iphdr *inner)
{
	__u32 there = skb->len - ETH_HLEN, total = bpf_ntohs(outer->tot_len), rest = bpf_ntohs(inner->tot_len);

	if (!total && skb->gso_size)
		total = there;
	if (outer->version != 4 || outer->ihl != 5 || header_sum(outer) != 0xffff ||
	    total > there || total < OUTER + sizeof(*inner))
		return 0;
	if (!rest && skb->gso_size)
		rest = total - OUTER;
	return inner->version == 4 && inner->ihl >= 5 && rest >= inner->ihl * 4 && rest <= total - OUTER;
}

SEC("tc")
int weft_ipip_in(struct __sk_buff *skb)
{
	struct source_key key = { .bits = 64 };
	struct iphdr *outer, *inner, h[2];
	struct config *c;

	// What is not for us, others look at.
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	outer = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(outer + 1) > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, ETH_HLEN + OUTER))
			return TC_ACT_UNSPEC;
		outer = (void *)(long)skb->data + ETH_HLEN;
		if ((void *)(outer + 1) > (void *)(long)skb->data_end)
			return TC_ACT_UNSPEC;
	}
	if (outer->protocol != IPPROTO_IPIP)
		return TC_ACT_UNSPEC;
	c = config();
	if (!c || outer->daddr != c->local)
		return TC_ACT_UNSPEC;

	// From here on it is taken or dropped.
	if (outer->frag_off & bpf_htons(IP_FRAGMENT))
		return drop(FRAGMENT);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, h, sizeof(h)))
		return drop(MALFORMED);
	outer = &h[0];
	inner = &h[1];
	if (!well_formed(skb, outer, inner))
		return drop(MALFORMED);
	key.outer = outer->saddr;
	key.inner = inner->saddr;
	if (!bpf_map_lookup_elem(&weft_sources, &key))
		return drop(UNKNOWN);
	if (bpf_skb_adjust_room(skb, -(int)OUTER, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return drop(NOT_RECEIVED);
	if (carry_ecn(skb, outer->tos, inner->tos))
		return drop(CONGESTED);
	// The destination of the frame decides whose packet it is.
	if (bpf_skb_store_bytes(skb, 0, c->mac, ETH_ALEN, 0))
		return drop(NOT_RECEIVED);
	count(RECEIVED);
	return bpf_redirect(c->device, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
