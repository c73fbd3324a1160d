package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/internal/kernel"
	"weft/model"
	"weft/node/cni/rpc"
)

// A conflist entry as users of this vocabulary have it, with fields that are not ours.
const existingConf = `{"cniVersion":"0.3.1","name":"k8s-pod-network","type":"calico","log_level":"info",
 "log_file_path":"/var/log/calico/cni/cni.log","datastore_type":"kubernetes","nodename":"N-1","mtu":0,"num_queues":1,
 "ipam":{"type":"calico-ipam","assign_ipv4":"true","assign_ipv6":"false","ipv4_pools":["10.1.0.0/16","pool2"]},
 "policy":{"type":"k8s"},"kubernetes":{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"},
 "container_settings":{"allow_ip_forwarding":true},"feature_control":{"ip_addrs_no_ipam":true}}`

func TestParseConf(t *testing.T) {
	c, err := parseConf(&rpc.Request{Command: rpc.Add, Config: []byte(existingConf)}, "n-1")
	if err != nil {
		t.Fatal(err)
	}
	f, ferr := c.IPAM.families()
	if ferr != nil || !cmp.Equal(f, []model.Family{model.IPv4}) || !c.Container.AllowIPForwarding || c.Name != "k8s-pod-network" {
		t.Errorf("got families %v, %v; %+v", f, ferr, c)
	}
	pools, perr := c.pools(nil, nil)
	if perr != nil || !cmp.Equal(pools, map[model.Family][]string{model.IPv4: {"10.1.0.0/16", "pool2"}}) {
		t.Errorf("got pools %v, %v", pools, perr)
	}
	pools, perr = c.pools(map[string]string{annotationIPv6Pools: `["six"]`}, map[string]string{annotationIPv4Pools: `["ns"]`, annotationIPv6Pools: `["other"]`})
	if want := map[model.Family][]string{model.IPv4: {"ns"}, model.IPv6: {"six"}}; perr != nil || !cmp.Equal(pools, want) {
		t.Errorf("got pools %v, %v; want %v", pools, perr, want)
	}
}

func TestParseConfErrors(t *testing.T) {
	for _, tc := range []struct {
		conf, command string
		code          uint
		words         string
	}{
		{`{`, rpc.Add, rpc.CodeDecoding, "decode network configuration"},
		{`[]`, rpc.Add, rpc.CodeDecoding, "decode"},
		{`{"cniVersion":"9.9.9","name":"x"}`, rpc.Add, rpc.CodeIncompatibleVersion, "9.9.9"},
		{`{"name":"x"}`, rpc.Add, rpc.CodeIncompatibleVersion, "cniVersion"},
		{`{"cniVersion":"0.3.1","name":"x"}`, rpc.Check, rpc.CodeIncompatibleVersion, "CHECK"},
		{`{"cniVersion":"1.0.0","name":"x"}`, rpc.GC, rpc.CodeIncompatibleVersion, "GC"},
		{`{"cniVersion":"1.0.0","name":"x"}`, rpc.Status, rpc.CodeIncompatibleVersion, "STATUS"},
		{`{"cniVersion":"1.1.0"}`, rpc.Add, rpc.CodeInvalidConfig, "name"},
		{`{"cniVersion":"1.1.0","name":"../x"}`, rpc.Add, rpc.CodeInvalidConfig, "name"},
		{`{"cniVersion":"1.1.0","name":"x","mtu":-1}`, rpc.Add, rpc.CodeInvalidConfig, "mtu"},
		{`{"cniVersion":"1.1.0","name":"x","mtu":"1450"}`, rpc.Add, rpc.CodeDecoding, "mtu"},
		{`{"cniVersion":"1.1.0","name":"x","nodename":"n2"}`, rpc.Add, rpc.CodeInvalidConfig, "nodename"},
		{`{"cniVersion":"1.1.0","name":"x","device_type":"netkit"}`, rpc.Add, rpc.CodeInvalidConfig, "device_type"},
		{`{"cniVersion":"1.1.0","name":"x","ipam":{"type":"host-local"}}`, rpc.Add, rpc.CodeInvalidConfig, "host-local"},
		{`{"cniVersion":"1.1.0","name":"x","ipam":{"assign_ipv4":"maybe"}}`, rpc.Add, rpc.CodeDecoding, "maybe"},
	} {
		_, err := parseConf(&rpc.Request{Command: tc.command, Config: []byte(tc.conf)}, "n1")
		if err == nil || err.Code != tc.code || !strings.Contains(err.Msg, tc.words) {
			t.Errorf("%s %s: got %+v, want code %d and %q", tc.command, tc.conf, err, tc.code, tc.words)
		}
	}
}

func TestFamilies(t *testing.T) {
	for conf, want := range map[string]string{
		`{}`:                      "[]",
		`{"assign_ipv4":true}`:    "[IPv4]",
		`{"assign_ipv6":"true"}`:  "[IPv4 IPv6]",
		`{"assign_ipv4":"false"}`: "[IPv6]",
		`{"assign_ipv4":false,"assign_ipv6":true}`:  "[IPv6]",
		`{"assign_ipv6":false}`:                     "[IPv4]",
		`{"assign_ipv4":false,"assign_ipv6":false}`: "error",
	} {
		var c ipamConf
		if err := json.Unmarshal([]byte(conf), &c); err != nil {
			t.Fatal(err)
		}
		f, err := c.families()
		got := fmt.Sprint(f)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", conf, got, want)
		}
	}
}

func TestParseArgs(t *testing.T) {
	for _, tc := range []struct {
		args, container, want string
		code                  uint
	}{
		{"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a-1;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=c;X=y", "c", "{k8s ns a-1 u}", 0},
		{"", "abc123", "{cni default abc123 }", 0},
		{"X=y", "c", "", rpc.CodeInvalidEnvironment},
		{"IgnoreUnknown=2", "c", "", rpc.CodeInvalidEnvironment},
		{"novalue", "c", "", rpc.CodeInvalidEnvironment},
		{"K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=p", "c", "", rpc.CodeInvalidEnvironment},
		{"K8S_POD_NAMESPACE=a;K8S_POD_NAME=../p", "c", "", rpc.CodeInvalidEnvironment},
		{"K8S_POD_NAME=p", "c", "", rpc.CodeInvalidEnvironment},
	} {
		got, err := parseArgs(&rpc.Request{Args: tc.args, ContainerID: tc.container})
		switch {
		case tc.code != 0 && (err == nil || err.Code != tc.code):
			t.Errorf("%q: got %v, %v; want code %d", tc.args, got, err, tc.code)
		case tc.code == 0 && err != nil:
			t.Errorf("%q: %v", tc.args, err)
		case tc.code == 0 && fmt.Sprint(got) != tc.want:
			t.Errorf("%q: got %v, want %s", tc.args, got, tc.want)
		}
	}
	// IDs that differ in what a name cannot hold still get different names, and valid ones.
	seen := map[string]string{}
	for _, id := range []string{"web-1", "Web-1", "web_1", "WEB-1", "web.1", "web-1-", "0", "a" + strings.Repeat("_", 100)} {
		name := podOfContainer(id)
		if seen[name] != "" || !validSubdomain(name) {
			t.Errorf("container %q: name %q is not valid or also of %q", id, name, seen[name])
		}
		seen[name] = id
	}
}

func TestNames(t *testing.T) {
	if got := recordName("n-1", "k8s", "web-2", "eth0"); got != "n--1-k8s-web--2-eth0" {
		t.Errorf("got %s", got)
	}
	// printf default.web-1 | sha1sum
	if got := kernel.PodDeviceName(model.EndpointID{Namespace: "default", Pod: "web-1", Interface: "eth0"}); got != "weft"+sha11("default.web-1") {
		t.Errorf("got %s", got)
	}
	a, b := handleOf("net", key{"c", "eth0"}), handleOf("net", key{"c", "net1"})
	if a != "net.c" || a == b {
		t.Errorf("got handles %s and %s", a, b)
	}
}

func TestPodAnnotations(t *testing.T) {
	p := podArgs{Annotations: map[string]string{annotationIPAddrs: `["10.1.2.3","fd00::1"]`, annotationHWAddr: "02:00:00:00:00:01"}}
	addrs, mac, err := p.fixed()
	if err != nil || !cmp.Equal(addrs, []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")}, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) || mac.String() != "02:00:00:00:00:01" {
		t.Errorf("got %v %v %v", addrs, mac, err)
	}
	for _, bad := range []map[string]string{
		{annotationIPAddrs: `10.1.2.3`}, {annotationIPAddrs: `["10.1.2"]`}, {annotationHWAddr: "01:00:5e:00:00:01"}, {annotationHWAddr: "x"},
		{annotationHWAddr: "00:00:00:00:00:00"},
	} {
		if _, _, err := (&podArgs{Annotations: bad}).fixed(); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func FuzzNetConf(f *testing.F) {
	f.Add([]byte(existingConf), "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p", "c1")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"x","args":{"weft":{"annotations":{"cni.projectcalico.org/ipAddrs":"[\"10.0.0.1\"]"}}}}`), "", "Web_1")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"x","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}`), ";;=", "")
	f.Fuzz(func(t *testing.T, conf []byte, args, container string) {
		r := &rpc.Request{Command: rpc.Add, ContainerID: container, IfName: "eth0", Args: args, Config: conf}
		c, err := parseConf(r, "n1")
		if err == nil {
			_, _ = c.IPAM.families()
			_, _ = c.pools(c.Args.Weft.Annotations, nil)
			_, _, _ = c.Args.Weft.fixed()
		}
		p, perr := parseArgs(r)
		if perr == nil && rpc.ValidContainerID(container) && (!validLabel(p.Namespace) || !validSubdomain(p.Pod)) {
			t.Errorf("container %q, args %q: accepted pod %q in namespace %q", container, args, p.Pod, p.Namespace)
		}
	})
}
