package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"weft/model"
)

func TestNetnsNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../etc", "a/b", "-v", ".hidden", "a b", "a\x00b", "ü", strings.Repeat("a", 256)} {
		if _, err := NewNamedNetns(name); err == nil {
			t.Errorf("NewNamedNetns(%q): no error", name)
		}
		if err := DeleteNamedNetns(name); err == nil {
			t.Errorf("DeleteNamedNetns(%q): no error", name)
		}
		if _, err := NetnsExists(name); err == nil {
			t.Errorf("NetnsExists(%q): no error", name)
		}
	}
	if ok, err := NetnsExists("lab.default.web-1_x"); ok || err != nil {
		t.Errorf("an absent namespace: %v, %v", ok, err)
	}
}

func TestSysctlPaths(t *testing.T) {
	for _, p := range []string{"", "net", "kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net//ipv4", "net/ipv4/"} {
		if _, err := GetSysctl(p); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("GetSysctl(%q): got %v, want a refusal", p, err)
		}
	}
	if _, err := GetSysctl("net/ipv4/conf/eth0.100/forwarding"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dotted device that does not exist: got %v, want os.ErrNotExist", err)
	}
}

// TestOwnThread: the first thread, whose namespaces /proc/self shows, is never moved.
func TestOwnThread(t *testing.T) {
	tid := make(map[int]bool)
	for range 5 {
		if err := onOwnThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("f runs on the process's first thread")
			}
			tid[unix.Gettid()] = true
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if len(tid) == 0 {
		t.Error("f did not run")
	}
	if err := Do("/run/netns/absent", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestBatchEnd(t *testing.T) {
	big := request{body: make([]byte, batchBytes)}
	small := request{body: make([]byte, 60)}
	many := make([]request, 300)
	for i := range many {
		many[i] = small
	}
	for _, c := range []struct {
		reqs  []request
		start int
		want  int
	}{
		{[]request{big, big}, 0, 1}, {[]request{small, big}, 0, 1}, {[]request{small, small}, 0, 2},
		{many, 0, batchRequests}, {many, 256, 300},
	} {
		if got := batchEnd(c.reqs, c.start); got != c.want {
			t.Errorf("batchEnd from %d: got %d, want %d", c.start, got, c.want)
		}
	}
}

func TestRouteEncodingReadsBack(t *testing.T) {
	via6 := Route{Type: Unicast, Via: netip.MustParseAddr("fe80::1"), Device: "if7", OnLink: true}
	for k, r := range map[RouteKey]Route{
		{Table: MainTable, Dst: netip.MustParsePrefix("10.0.0.0/26"), Metric: 1024}: {Type: Blackhole},
		{Table: 70000, Dst: netip.MustParsePrefix("0.0.0.0/0")}:                     via6,
		{Table: 7, Dst: netip.MustParsePrefix("fd00::/64"), Metric: 1}:              via6,
		{Table: MainTable, Dst: netip.MustParsePrefix("10.0.0.1/32"), Metric: 9}: {Type: Unicast, Via: netip.MustParseAddr("192.0.2.1"),
			Device: "if7", Source: netip.MustParseAddr("192.0.2.9"), MTU: 1450},
		{Table: MainTable, Dst: netip.MustParsePrefix("10.0.1.0/24")}: {Type: Unicast, OnLink: true, Hops: model.HopsOf([]model.Hop{
			{Via: netip.MustParseAddr("192.0.2.1"), Device: "if7"}, {Via: netip.MustParseAddr("fe80::1"), Device: "if8"}})},
		{Table: MainTable, Dst: netip.MustParsePrefix("fd00:1::/64"), Metric: 1024}: {Type: Unicast, MTU: 1400, Hops: model.HopsOf([]model.Hop{
			{Via: netip.MustParseAddr("fd00::2"), Device: "if7"}, {Via: netip.MustParseAddr("fd00::3"), Device: "if7"}})},
	} {
		raw, ok := parseRoute(encodeRoute(k, r, map[string]int{"if7": 7, "if8": 8}))
		got := raw.named(func(int) string { return "" })
		if !ok || got.key != k || got.route != r || got.protocol != RouteProtocol {
			t.Errorf("%v %v: got %v, %v %v", k, r, ok, got.key, got.route)
		}
	}
}

func TestUnderlayChoice(t *testing.T) {
	links := []Link{{Name: "lo", MTU: 65536}, {Name: "eth1", MTU: 9000}, {Index: 3, Name: "eth0", MTU: 1500, Up: true}, {Name: "weft-vxlan"}, {Name: "weft0123456789a"}}
	route := func(dst, via, dev string, metric int, change ...func(*readRoute)) readRoute {
		r := readRoute{key: RouteKey{MainTable, netip.MustParsePrefix(dst), metric}, route: Route{Device: dev}, typ: unix.RTN_UNICAST, protocol: unix.RTPROT_STATIC}
		if via != "" {
			r.route.Via = netip.MustParseAddr(via)
		}
		for _, f := range change {
			f(&r)
		}
		return r
	}
	routes := []readRoute{
		route("0.0.0.0/0", "172.31.1.254", "eth0", 100),
		route("0.0.0.0/0", "172.31.9.254", "eth1", 50),
		route("172.31.1.0/24", "", "eth0", 0, func(r *readRoute) { r.route.Source = netip.MustParseAddr("172.31.1.1") }),
		route("172.31.2.0/24", "", "", 0, func(r *readRoute) { // ECMP
			r.route.Hops = model.HopsOf([]model.Hop{{Via: netip.MustParseAddr("172.31.1.254"), Device: "eth0"}, {Via: netip.MustParseAddr("172.31.1.253"), Device: "eth0"}})
		}),
		route("172.31.3.0/24", "172.31.1.7", "eth1", 0),
		route("172.31.3.0/24", "172.31.1.6", "eth0", 0),
		route("10.244.1.0/26", "172.31.1.2", "eth0", 1024, func(r *readRoute) { r.protocol = RouteProtocol }),
		route("10.9.0.0/16", "", "weft-vxlan", 0),
		route("10.9.1.1/32", "", "weft0123456789a", 0),
		route("127.0.0.0/8", "", "lo", 0),
		route("192.0.2.0/24", "", "", 0, func(r *readRoute) { r.typ = unix.RTN_BLACKHOLE }),
		route("192.0.3.0/24", "", "eth0", 0, func(r *readRoute) { r.key.Table = 7 }),
		route("192.0.4.0/24", "", "eth0", 0, func(r *readRoute) { r.cloned = true }),
		route("fe80::/64", "", "eth1", 256), route("fe80::/64", "", "eth0", 256),
	}
	ur := func(dst, via, dev string, metric int) model.UnderlayRoute {
		u := model.UnderlayRoute{Dst: netip.MustParsePrefix(dst), Device: dev, Metric: metric}
		if via != "" {
			u.Via = netip.MustParseAddr(via)
		}
		return u
	}
	connected := ur("172.31.1.0/24", "", "eth0", 0)
	connected.Src = netip.MustParseAddr("172.31.1.1")
	addrs := map[int][]netip.Prefix{3: {netip.MustParsePrefix("172.31.1.1/24")}}
	want := model.Underlay{
		Links: []model.Link{{Name: "eth0", MTU: 1500, Up: true, Addresses: addrs[3]}, {Name: "eth1", MTU: 9000}},
		Routes: []model.UnderlayRoute{
			ur("0.0.0.0/0", "172.31.9.254", "eth1", 50), connected, ur("172.31.2.0/24", "172.31.1.253", "eth0", 0),
			ur("172.31.3.0/24", "172.31.1.6", "eth0", 0), ur("fe80::/64", "", "eth0", 256),
		},
	}
	if diff := cmp.Diff(want, underlay(links, addrs, routes), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("underlay (-want +got):\n%s", diff)
	}
}

// FuzzMessages feeds the parsers of kernel messages: whatever arrives, they neither panic nor run
// on.
func FuzzMessages(f *testing.F) {
	k := RouteKey{MainTable, netip.MustParsePrefix("10.0.0.0/26"), 1024}
	r := encodeRoute(k, Route{Type: Unicast, Via: netip.MustParseAddr("fe80::1"), Device: "a", MTU: 1400}, map[string]int{"a": 3})
	f.Add(appendMessage(nil, unix.RTM_NEWROUTE, 0, 1, r))
	r = encodeRoute(k, Route{Type: Unicast, Hops: model.HopsOf([]model.Hop{{Via: netip.MustParseAddr("192.0.2.1"), Device: "a"}, {Via: netip.MustParseAddr("192.0.2.2"), Device: "a"}})}, map[string]int{"a": 3})
	f.Add(appendMessage(nil, unix.RTM_NEWROUTE, 0, 1, r))
	f.Add(appendMessage(nil, unix.RTM_NEWLINK, 0, 1, ifInfo(3, 1, 0).str(unix.IFLA_IFNAME, "eth0").b))
	f.Add(appendMessage(nil, unix.RTM_NEWADDR, 0, 1, (&encoder{}).raw(2, 24, 0, 0, 3, 0, 0, 0).addr(unix.IFA_LOCAL, netip.MustParseAddr("192.0.2.1")).b))
	f.Add(appendMessage(nil, unix.RTM_NEWNEIGH, 0, 1, (&encoder{}).raw(unix.AF_BRIDGE, 0, 0, 0, 3, 0, 0, 0, 0x80, 0, 2, 0).mac(unix.NDA_LLADDR, model.MAC{1, 2}).b))
	f.Add(appendMessage(nil, unix.RTM_NEWNETCONF, 0, 1, (&encoder{}).raw(2, 0, 0, 0).u32(netconfIfIndex, 0xffffffff).u32(netconfForwarding, 1).b))
	f.Add(appendMessage(nil, unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, 1, binary.NativeEndian.AppendUint32(nil, 0xffffffff)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Monitor{links: map[int]Link{3: {Index: 3, Name: "eth0"}}}
		n := 0
		_ = eachMessage(b, func(h header, body []byte) (bool, error) {
			if n++; n > len(b) {
				t.Fatal("more messages than bytes")
			}
			_ = ackError(h, body)
			m.event(h.typ, body, func(Event) {})
			return true, nil
		})
	})
}
