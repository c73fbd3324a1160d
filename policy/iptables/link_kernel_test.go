package iptables

import (
	"strings"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// TestNeighbourDiscovery: a pod with a real stack behind the strictest policy: the node reaches it over
// IPv6, for which both must find each other's MAC; and it reaches nothing itself.
func TestNeighbourDiscovery(t *testing.T) {
	testkit.Require(t, testkit.IPv6, testkit.IPRoute2)
	backends(t, func(t *testing.T, b Backend) {
		node, pod := testkit.NewNetns(t), testkit.NewNetns(t)
		device := policytest.Device(1)
		testkit.Wire(t, node, device, pod, "eth0")
		testkit.Run(t, node, "ip", "addr", "add", "fe80::1/64", "dev", device, "nodad")
		testkit.Run(t, node, "ip", "-6", "route", "add", "fd00::1/128", "dev", device)
		node.AddAddress(t, "lo", "fd00:1::1/128")
		pod.AddAddress(t, "eth0", "fd00::1/128")
		testkit.Run(t, pod, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:01")
		testkit.Run(t, pod, "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0", "onlink")

		s := town()
		for id, e := range s.Endpoints {
			e.Device = policytest.Device(int(e.MAC[5]))
			s.Endpoints[id] = e
		}
		web(s, model.Policy{Selector: "all()", Types: model.Types{Ingress: true, Egress: true}})
		d := newDriver(t, node, b)
		apply(t, d, fromScratch(compile(t, s)))
		forget := func() {
			testkit.Run(t, node, "ip", "-6", "neigh", "flush", "dev", device)
			testkit.Run(t, pod, "ip", "-6", "neigh", "flush", "dev", "eth0")
		}
		ping := func(ns testkit.NS, to string) error {
			forget()
			_, err := testkit.Try(t, ns, "ping", "-6", "-c", "1", "-W", "2", to)
			return err
		}
		if err := ping(node, "fd00::1"); err != nil {
			t.Errorf("the node does not reach its pod: %v", err)
		}
		if err := ping(pod, "fd00:1::1"); err == nil {
			t.Error("a pod whose egress is denied reaches the node")
		}
		if n := testkit.Run(t, pod, "ip", "-6", "neigh", "show", "fe80::1"); !strings.Contains(n, "lladdr") {
			t.Errorf("the pod did not find its gateway: %q", n)
		}
		// The control: without discovery nothing is reached.
		ip6tables := map[Backend]string{NFT: "ip6tables-nft", Legacy: "ip6tables-legacy"}[b]
		testkit.Run(t, node, ip6tables, "-t", "raw", "-I", "weft-pre", "-p", "ipv6-icmp", "-j", "DROP")
		if err := ping(node, "fd00::1"); err == nil {
			t.Error("the control reaches the pod without discovery")
		}
	})
}

// TestAuto: the backend is the one where others have rules; one that was asked for and is not here is
// an error that says so.
func TestAuto(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		ns := testkit.NewNetns(t)
		addOthers(t, ns, b)
		d := newDriver(t, ns, Auto)
		p := compile(t, town())
		apply(t, d, fromScratch(p))
		if d.in != b {
			t.Errorf("others' rules are in %s, and ours in %s", b, d.in)
		}
		delete(d.tools.restore, b)
		d.SetBackend(b)
		if _, err := d.Apply(t.Context(), fromScratch(p)); err == nil || !strings.Contains(err.Error(), "install") {
			t.Errorf("asked for a backend that is not here: %v", err)
		}
	})
}

// TestNothingToRemove: on a machine without the programs there is nothing to remove, and an Apply says
// what to install.
func TestNothingToRemove(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.Netns)
	t.Setenv("PATH", t.TempDir())
	d := newDriver(t, testkit.NewNetns(t), Auto)
	if res, err := d.Apply(t.Context(), policy.Update{}); err != nil || !res.Zero() {
		t.Errorf("remove: %v, %v", res, err)
	}
	if _, err := d.Apply(t.Context(), fromScratch(compile(t, town()))); err == nil || !strings.Contains(err.Error(), "install") {
		t.Errorf("apply without programs: %v", err)
	}
	if err := d.Barrier(t.Context()); err == nil {
		t.Error("a barrier without programs is none")
	}
}
