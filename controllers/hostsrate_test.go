package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// hostStore counts what is written for nodes, and tells it back.
type hostStore struct {
	datastore.Store
	h      *hosts
	writes map[string]int // by node
	count  int
}

func (s *hostStore) put(o v3.Object) (v3.Object, error) {
	s.count++
	o.SetResourceVersion(strconv.Itoa(s.count))
	s.writes[o.(*v3.HostEndpoint).Spec.Node]++
	s.h.OnChanges([]datastore.Change{{Key: datastore.KeyOf(o), Object: o}})
	return o, nil
}

func (s *hostStore) Create(_ context.Context, o v3.Object) (v3.Object, error) { return s.put(o) }
func (s *hostStore) Update(_ context.Context, o v3.Object) (v3.Object, error) { return s.put(o) }

func (s *hostStore) Delete(_ context.Context, k datastore.Key, _ datastore.Precondition) error {
	s.writes[s.h.have[k.Name].Spec.Node]++
	s.h.OnChanges([]datastore.Change{{Key: k}})
	return nil
}

// A node that renames all its interfaces all the time has so many changes made for it and no more, another one's are made at
// once meanwhile, no interface that stays loses its endpoint, and once the node is quiet all is as it is wanted.
func TestHostEndpointsOfANodeThatChangesAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hostStore{writes: map[string]int{}}
		h := newHosts(Config{Store: s, Log: slog.New(slog.DiscardHandler)}, newMetrics("test"))
		var due time.Time
		asked := 0
		h.later = func(d time.Duration) { due = time.Now().Add(d); asked++ }
		s.h = h
		config := newObject(v3.KindKubeControllersConfiguration, "default").(*v3.KubeControllersConfiguration)
		config.Spec.Controllers.Node = &v3.NodeControllerConfig{HostEndpoint: &v3.AutoHostEndpointConfig{AutoCreate: v3.ControllerEnabled,
			CreateDefaultHostEndpoint: v3.ControllerDisabled, Templates: []v3.HostEndpointTemplate{{GenerateName: "x", InterfacePattern: "."}}}}
		node := func(name string, round int) {
			n := newObject(v3.KindNode, name).(*v3.Node)
			n.Spec.Interfaces = []v3.NodeInterface{{Name: "eth0"}}
			for i := range v3.MaxHostInterfaces - 1 {
				n.Spec.Interfaces = append(n.Spec.Interfaces, v3.NodeInterface{Name: fmt.Sprintf("i%d-%d", round, i)})
			}
			h.OnChanges([]datastore.Change{{Key: datastore.KeyOf(n), Object: n}})
		}
		run := func() {
			if err := h.run(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		h.OnChanges([]datastore.Change{{Key: datastore.KeyOf(config), Object: config}})
		h.OnState(datastore.StateInSync, nil)
		node("a", 0)
		run()
		const length = 20 * time.Second
		for begin, round := time.Now(), 1; time.Since(begin) < length; round++ {
			node("a", round)
			if time.Sleep(hostsSettle); round == 50 {
				node("b", 0)
			}
			run()
			if round == 50 && s.writes["b"] != v3.MaxHostInterfaces {
				t.Errorf("beside that node another one has %d endpoints made", s.writes["b"])
			}
			if h.have[hostName("a", "x", "eth0")] == nil {
				t.Fatal("the interface that stays has no endpoint")
			}
		}
		if len(h.have) > 4*v3.MaxHostInterfaces {
			t.Errorf("%d endpoints have piled up", len(h.have))
		}
		if most := 2 * (hostsBurst + hostsRate*int(length/time.Second) + 1); s.writes["a"] > most || s.writes["a"] < hostsBurst || asked > int(length/time.Second)+1 {
			t.Errorf("%d changes are made for a node within %v, want %d at most; %d runs are asked for", s.writes["a"], length, most, asked)
		}
		settles := func(what string) {
			passes := 0
			for ; passes < 1000; passes++ {
				if p := planHosts(h.nodes, h.have, wantedHosts(h.config)); len(p.create)+len(p.update)+len(p.remove) == 0 {
					break
				}
				had := interfacesWithEndpoint(h, "a")
				time.Sleep(time.Until(due))
				run()
				has := interfacesWithEndpoint(h, "a")
				for _, i := range h.nodes["a"].Spec.Interfaces {
					if had[i.Name] && !has[i.Name] {
						t.Fatalf("%s: interface %s loses its endpoint", what, i.Name)
					}
				}
			}
			if len(h.have) != 2*v3.MaxHostInterfaces || passes < 10 || passes > 80 {
				t.Errorf("%s: %d endpoints after %d runs, want %d", what, len(h.have), passes, 2*v3.MaxHostInterfaces)
			}
		}
		settles("the node is quiet")
		config = config.DeepCopy()
		config.Spec.Controllers.Node.HostEndpoint.Templates[0].GenerateName = "y"
		h.OnChanges([]datastore.Change{{Key: datastore.KeyOf(config), Object: config}})
		settles("the endpoints have other names")
		time.Sleep(2 * time.Minute)
		if run(); len(h.limits) != 0 {
			t.Errorf("of nodes that are quiet something is kept: %v", h.limits)
		}
	})
}

func interfacesWithEndpoint(h *hosts, node string) map[string]bool {
	out := map[string]bool{}
	for _, o := range h.have {
		out[o.Spec.InterfaceName] = out[o.Spec.InterfaceName] || o.Spec.Node == node
	}
	return out
}
