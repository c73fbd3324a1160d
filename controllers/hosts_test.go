package controllers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Nodes have their host endpoints while that is asked for; what somebody made himself stays.
func TestHostEndpoints(t *testing.T) {
	store := startEtcd(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for range 2 { // two at once do no harm
		go func() { done <- Run(ctx, Config{Store: store, Grace: time.Hour, Interval: time.Hour}) }()
	}
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	n1, n2 := newObject(v3.KindNode, "n1").(*v3.Node), newObject(v3.KindNode, "n2").(*v3.Node)
	n1.Labels = map[string]string{"role": "edge"}
	n1.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: "192.0.2.1/24", IPv6Address: "2001:db8::1/64"}
	n1.Spec.IPv4VXLANTunnelAddr = "10.0.0.1"
	own := newObject(v3.KindHostEndpoint, "n2-auto-hep").(*v3.HostEndpoint)
	own.Spec = v3.HostEndpointSpec{Node: "n2", InterfaceName: "eth0"}
	config := newObject(v3.KindKubeControllersConfiguration, "default").(*v3.KubeControllersConfiguration)
	create(t, store, n1, n2, own, config)
	key := datastore.Key{Kind: v3.KindHostEndpoint, Name: "n1-auto-hep"}
	set := func(auto string) {
		t.Helper()
		config.Spec.Controllers.Node = &v3.NodeControllerConfig{HostEndpoint: &v3.AutoHostEndpointConfig{AutoCreate: auto}}
		config.ResourceVersion = ""
		if _, err := store.Update(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
	becomes := func(labels map[string]string, ips ...string) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			o, err := store.Get(ctx, key)
			if err != nil {
				return err
			}
			h := o.(*v3.HostEndpoint)
			want := v3.HostEndpointSpec{Node: "n1", InterfaceName: "*", ExpectedIPs: ips, Profiles: []string{"projectcalico-default-allow"}}
			if d := cmp.Diff(want, h.Spec) + cmp.Diff(labels, h.Labels); d != "" {
				return fmt.Errorf("(-want +got):\n%s", d)
			}
			return nil
		})
	}
	set(v3.ControllerEnabled)
	becomes(map[string]string{"role": "edge", CreatedBy: ByController}, "10.0.0.1", "192.0.2.1", "2001:db8::1")

	o, err := store.Get(ctx, datastore.KeyOf(n1))
	if err != nil {
		t.Fatal(err)
	}
	next := o.(*v3.Node)
	next.Labels, next.Spec.BGP.IPv6Address = map[string]string{"role": "core"}, ""
	if _, err := store.Update(ctx, next); err != nil {
		t.Fatal(err)
	}
	becomes(map[string]string{"role": "core", CreatedBy: ByController}, "10.0.0.1", "192.0.2.1")

	remove(t, store, key) // by hand: it comes back
	becomes(map[string]string{"role": "core", CreatedBy: ByController}, "10.0.0.1", "192.0.2.1")

	set(v3.ControllerDisabled)
	eventually(t, 20*time.Second, func() error {
		if _, err := store.Get(ctx, key); !errors.Is(err, datastore.ErrNotFound) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	if o, err := store.Get(ctx, datastore.KeyOf(own)); err != nil || o.(*v3.HostEndpoint).Spec.InterfaceName != "eth0" {
		t.Errorf("what somebody made himself: %v, %v", o, err)
	}
}

func TestSettings(t *testing.T) {
	config := func(grace, period string) *datastore.List {
		docs, err := v3.Decode([]byte(fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\nspec: {controllers: {node: {leakGracePeriod: %s, reconcilerPeriod: %s}}}", grace, period)))
		if err != nil {
			t.Fatal(err)
		}
		return &datastore.List{Items: docs}
	}
	moved := newObject(v3.KindClusterInformation, "default").(*v3.ClusterInformation)
	moved.Spec.DatastoreReady = new(false)
	for _, c := range []struct {
		l    *datastore.List
		cfg  Config
		want settings
	}{
		{&datastore.List{}, Config{}, settings{DefaultGrace, DefaultInterval, false, false}},
		{config("1h", "1m"), Config{}, settings{time.Hour, time.Minute, false, false}},
		{config("1h", "1m"), Config{Grace: 2 * time.Hour, Interval: time.Second}, settings{2 * time.Hour, time.Second, false, false}},
		{&datastore.List{Items: []v3.Object{moved}}, Config{}, settings{DefaultGrace, DefaultInterval, false, true}},
		{config("0s", "0s"), Config{}, settings{DefaultGrace, DefaultInterval, true, false}},
		{config("0s", "0s"), Config{Grace: time.Hour}, settings{time.Hour, DefaultInterval, false, false}},
	} {
		if got := settingsIn(c.l, c.cfg); got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}

// Host endpoints by templates: of nodes that a selector selects, with their addresses in a range.
func TestHostEndpointTemplates(t *testing.T) {
	node := func(name, role, ip string) *v3.Node {
		n := newObject(v3.KindNode, name).(*v3.Node)
		n.Labels = map[string]string{"role": role}
		n.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: ip + "/24"}
		n.Spec.IPv4VXLANTunnelAddr = "10.0.0.1"
		return n
	}
	nodes := map[string]*v3.Node{"a": node("a", "edge", "192.0.2.1"), "b": node("b", "edge", "198.51.100.1"), "c": node("c", "core", "192.0.2.3"), "a-x": node("a-x", "core", "192.0.2.4")}
	wanted := &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled, Templates: []v3.HostEndpointTemplate{
		{GenerateName: "x", NodeSelector: "role == 'edge'", InterfaceCIDRs: []string{"192.0.2.0/24", "10.0.0.0/8"}, Labels: map[string]string{"role": "x", "zone": "1"}, Annotations: map[string]string{"k": "v"}},
		{GenerateName: "bad", NodeSelector: "role === ", InterfaceCIDRs: []string{"0.0.0.0/0"}},
		{GenerateName: "pattern", InterfacePattern: "eth.*", InterfaceCIDRs: []string{"0.0.0.0/0"}}, // no record tells of interfaces
	}}
	names := func(hosts []*v3.HostEndpoint) (out []string) {
		for _, h := range hosts {
			out = append(out, fmt.Sprint(h.Name, " ", h.Spec.InterfaceName, h.Spec.ExpectedIPs))
		}
		return out
	}
	p := planHosts(nodes, nil, wanted)
	want := []string{"a-auto-hep *[10.0.0.1 192.0.2.1]", "a-x-auto-hep *[10.0.0.1 192.0.2.4]", "b-auto-hep *[10.0.0.1 198.51.100.1]",
		"c-auto-hep *[10.0.0.1 192.0.2.3]", hashedName("a-x", "a", "a-x") + " [10.0.0.1 192.0.2.1]", "b-x-auto-hep [10.0.0.1]"} // a's by the template would have the name of a-x's
	if d := cmp.Diff(want, names(p.create)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	have := map[string]*v3.HostEndpoint{}
	for _, h := range p.create {
		have[h.Name] = h
	}
	if h := have["b-x-auto-hep"]; h.Labels["role"] != "x" || h.Labels["zone"] != "1" || h.Labels[CreatedBy] != ByController || h.Annotations["k"] != "v" {
		t.Errorf("labels %v, annotations %v", h.Labels, h.Annotations)
	}
	if again := planHosts(nodes, have, wanted); len(again.create)+len(again.update)+len(again.remove) > 0 {
		t.Errorf("made, it is to be changed again: %+v", again)
	}
	wanted.Templates, wanted.CreateDefaultHostEndpoint = wanted.Templates[:1], v3.ControllerDisabled
	wanted.Templates[0].Annotations = map[string]string{"k": "w"}
	delete(nodes, "c") // the sweeper's
	next := planHosts(nodes, have, wanted)
	delete(have, "a-x-auto-hep")
	if next := planHosts(nodes, have, wanted); fmt.Sprint(names(next.create)) != "[a-x-auto-hep [10.0.0.1 192.0.2.1]]" || len(next.remove) != 3 {
		t.Errorf("the name that another node had, and has no more: create %v, remove %v", names(next.create), names(next.remove))
	}
	if len(next.create) != 0 || len(next.update) != 2 || fmt.Sprint(names(next.remove)) != "[a-auto-hep *[10.0.0.1 192.0.2.1] a-x-auto-hep *[10.0.0.1 192.0.2.4] b-auto-hep *[10.0.0.1 198.51.100.1]]" {
		t.Errorf("without the default ones: create %v, update %v, remove %v", names(next.create), names(next.update), names(next.remove))
	}
	if none := planHosts(nodes, have, nil); len(none.remove) != len(have) {
		t.Errorf("disabled: %d of %d are removed", len(none.remove), len(have))
	}
}
