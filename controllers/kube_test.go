package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
	"weft/model"
	"weft/node/datastore"
	"weft/node/datastore/kube"
	"weft/node/ipam"
)

const (
	podsPath  = "/api/v1/namespaces/default/pods"
	nodesPath = "/api/v1/nodes"
)

// openKube returns a client of the API server as a role.
func openKube(t testing.TB, c *testkube.Cluster, role string, waiting bool) *kube.Store {
	t.Helper()
	s, err := kube.Open(kube.Config{Kubeconfig: c.Kubeconfig(t, role, ""), Waiting: waiting})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// kubeCluster is a cluster whose nodes and pods Kubernetes knows, and the role of weft controllers in it.
type kubeCluster struct {
	*cluster
	api         *testkube.Cluster
	controllers *kube.Store
}

func newKubeCluster(t *testing.T) *kubeCluster {
	api := testkube.Start(t)
	c := &kubeCluster{&cluster{t: t, store: openKube(t, api, testkube.Admin, false), allocs: map[string]*ipam.Allocator{}}, api, openKube(t, api, testkube.Controllers, true)}
	create(t, c.store, pool("p", "10.0.0.0/26"))
	return c
}

// node joins, as Kubernetes knows it and as its node service says.
func (c *kubeCluster) node(name string) {
	c.t.Helper()
	c.api.MustDo(c.t, http.MethodPost, nodesPath, map[string]any{"metadata": map[string]any{"name": name}})
	n := newObject(v3.KindNode, name).(*v3.Node)
	n.Spec.OrchRefs = []v3.OrchRef{{NodeName: name, Orchestrator: "k8s"}}
	create(c.t, c.store, n)
	c.allocs[name] = ipam.New(c.store, name, ipam.Options{})
	c.t.Cleanup(c.allocs[name].Close)
}

// makePod makes a pod; spec is added to what one has to have.
func (c *kubeCluster) makePod(node, name string, spec map[string]any) {
	c.t.Helper()
	all := map[string]any{"nodeName": node, "containers": []any{map[string]any{"name": "c", "image": "i"}}}
	for k, v := range spec {
		all[k] = v
	}
	c.api.MustDo(c.t, http.MethodPost, podsPath, map[string]any{"metadata": map[string]any{"name": name}, "spec": all})
}

// add does what CNI ADD does in the store: an address, and the annotation that tells it.
func (c *kubeCluster) add(node, name string, annotate bool) netip.Addr {
	c.t.Helper()
	a := c.cluster.pod(node, name, false)
	if annotate {
		c.tell(name, a)
	}
	return a
}

func (c *kubeCluster) tell(name string, a netip.Addr) {
	c.t.Helper()
	c.api.MustDo(c.t, http.MethodPatch, podsPath+"/"+name+"/status", map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		"cni.projectcalico.org/podIP": a.String(), "cni.projectcalico.org/podIPs": a.String()}}})
}

func (c *kubeCluster) patchPod(name, part string, body map[string]any) {
	c.t.Helper()
	c.api.MustDo(c.t, http.MethodPatch, podsPath+"/"+name+part, body)
}

func (c *kubeCluster) deletePod(name string) {
	c.t.Helper()
	c.api.MustDo(c.t, http.MethodDelete, podsPath+"/"+name+"?gracePeriodSeconds=0", nil)
}

// held returns the addresses that blocks say are in use.
func (c *kubeCluster) held() []netip.Addr {
	c.t.Helper()
	l, err := c.store.List(context.Background(), v3.KindIPAMBlock)
	if err != nil {
		c.t.Fatal(err)
	}
	var out []netip.Addr
	for _, o := range l.Items {
		_, holders, err := ipam.Holders(o.(*v3.IPAMBlock))
		if err != nil {
			c.t.Fatal(err)
		}
		for a := range holders {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// What Kubernetes says of pods decides whose addresses are free: of pods that are gone or have finished, of those on their
// host's network, and what an earlier sandbox left. A pod that is there and says of no address may have what is held for it.
func TestPodsAreTheTruth(t *testing.T) {
	c := newKubeCluster(t)
	c.node("n1")
	var stay, go_ []netip.Addr
	keep := func(a netip.Addr) { stay = append(stay, a) }
	free := func(a netip.Addr) { go_ = append(go_, a) }

	c.makePod("n1", "runs", nil)
	keep(c.add("n1", "runs", true))
	c.makePod("n1", "starts", nil) // no annotation yet
	keep(c.add("n1", "starts", false))
	c.makePod("n1", "emptied", nil) // somebody emptied it
	keep(c.add("n1", "emptied", true))
	c.patchPod("emptied", "/status", map[string]any{"metadata": map[string]any{"annotations": map[string]any{"cni.projectcalico.org/podIP": "", "cni.projectcalico.org/podIPs": ""}}})
	c.makePod("n1", "by-status", nil) // kubelet's word alone
	a := c.add("n1", "by-status", false)
	keep(a)
	c.patchPod("by-status", "/status", map[string]any{"status": map[string]any{"phase": "Running", "podIP": a.String(), "podIPs": []any{map[string]any{"ip": a.String()}}}})
	c.makePod("n1", "leaves", map[string]any{"terminationGracePeriodSeconds": 600}) // its containers have their time
	keep(c.add("n1", "leaves", true))
	c.api.MustDo(t, http.MethodDelete, podsPath+"/leaves", nil)
	c.makePod("n1", "again", nil) // its sandbox was made anew, without a DEL of the first
	old, err := c.allocs["n1"].Assign(t.Context(), ipam.Request{HandleID: "weft.sandbox-1", Namespace: "default", Pod: "again", Families: []model.Family{model.IPv4}})
	if err != nil {
		t.Fatal(err)
	}
	free(old.Addresses[0].Addr)
	keep(c.add("n1", "again", true))
	for _, phase := range []string{"Succeeded", "Failed"} {
		name := map[string]string{"Succeeded": "done", "Failed": "failed"}[phase]
		c.makePod("n1", name, nil)
		free(c.add("n1", name, true))
		c.patchPod(name, "/status", map[string]any{"status": map[string]any{"phase": phase}})
	}
	c.makePod("n1", "host", map[string]any{"hostNetwork": true})
	free(c.add("n1", "host", false))
	c.makePod("n1", "gone", nil)
	free(c.add("n1", "gone", true))
	c.deletePod("gone")
	free(c.add("n1", "never", false))
	keepTunnel, err := c.allocs["n1"].Assign(t.Context(), ipam.Request{HandleID: "vxlan-tunnel-addr-n1", Use: ipam.UseTunnel, Families: []model.Family{model.IPv4},
		Attributes: map[string]string{ipam.AttrType: "vxlanTunnelAddress"}})
	if err != nil {
		t.Fatal(err)
	}
	keep(keepTunnel.Addresses[0].Addr)
	remove(t, c.store, datastore.Key{Kind: v3.KindNode, Name: "n1"}) // by hand: Kubernetes has the node, the tunnel is there

	s := sweeperOf(Config{Store: c.controllers})
	all := slices.Concat(stay, go_)
	for _, at := range []time.Duration{2 * time.Minute, 16 * time.Minute} {
		c.look(s, at)
		if n := len(c.held()); n != len(all) {
			t.Fatalf("%v: %d of %d addresses are held", at, n, len(all))
		}
	}
	c.look(s, 18*time.Minute)
	slices.SortFunc(stay, netip.Addr.Compare)
	if got := c.held(); !slices.Equal(got, stay) {
		t.Errorf("held are %v, want %v; %v were to be freed", got, stay, go_)
	}
	t.Logf("%d of %d addresses were given back", len(all)-len(c.held()), len(all))

	// The control: who does not ask for pods without addresses takes theirs.
	s = sweeperOf(Config{Store: openKube(t, c.api, testkube.Controllers, false)})
	c.look(s, 2*time.Minute)
	c.look(s, 18*time.Minute)
	if lost := len(stay) - len(c.held()); lost != 2 {
		t.Errorf("without pods that say of no address %d addresses in use are freed, want 2", lost)
	}
}

// What a node has goes when Kubernetes does not have it any more: its record first, the rest a look later; not while pods
// are on it, nor a host's that is none of Kubernetes'.
func TestKubernetesNodeGone(t *testing.T) {
	c := newKubeCluster(t)
	for _, n := range []string{"n1", "n2"} {
		c.node(n)
		c.makePod(n, n+"-a", nil)
		c.add(n, n+"-a", true)
		st := newObject(v3.KindCalicoNodeStatus, "status-"+n).(*v3.CalicoNodeStatus)
		st.Spec = v3.CalicoNodeStatusSpec{Node: n, Classes: []string{"Agent"}}
		create(t, c.store, st)
	}
	create(t, c.store, newObject(v3.KindNode, "bare")) // a host that is none of Kubernetes'
	before := c.has()
	s := sweeperOf(Config{Store: c.controllers})
	looks := func(at ...int) {
		t.Helper()
		for _, m := range at {
			c.look(s, time.Duration(m)*time.Minute)
		}
	}
	same := func(what string) {
		t.Helper()
		if now := c.has(); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("%s: %v, want %v", what, now, before)
		}
	}
	looks(0, 20, 40)
	same("all are there")
	c.api.MustDo(t, http.MethodDelete, nodesPath+"/n1", nil)
	looks(60, 80, 100)
	same("Kubernetes has the node no more, and pods on it")
	c.deletePod("n1-a")
	looks(120, 130)
	record := datastore.Key{Kind: v3.KindNode, Name: "n1"}
	if _, err := c.store.Get(t.Context(), record); err != nil {
		t.Errorf("within the grace: %v", err)
	}
	looks(136)
	if _, err := c.store.Get(t.Context(), record); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("after the grace the record is there: %v", err)
	}
	looks(141, 157)
	want := map[string]int{v3.KindIPPool: 1, v3.KindNode: 2, v3.KindCalicoNodeStatus: 1, v3.KindIPAMBlock: 1, v3.KindBlockAffinity: 1, v3.KindIPAMHandle: 1,
		v3.KindWorkloadEndpoint: 1, "address": 1}
	if got := c.has(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("left are %v, want %v; before it was %v", got, want, before)
	}
	if err := nothingOf(c.store, "n1"); err != nil {
		t.Error(err)
	}
}

// kubeWorld is what of a world Kubernetes knows. Of nil everything is done at once: the store is etcd.
type kubeWorld struct {
	api   *testkube.Cluster
	nodes *kube.Store // of the node services
}

func (k *kubeWorld) do(method, path string, body any) error {
	_, err := k.api.Do(context.Background(), testkube.Admin, method, path, body)
	return err
}

func (k *kubeWorld) join(node string) error {
	if k == nil {
		return nil
	}
	return k.do(http.MethodPost, nodesPath, map[string]any{"metadata": map[string]any{"name": node}})
}

func (k *kubeWorld) makePod(node, name string) error {
	if k == nil {
		return nil
	}
	return k.do(http.MethodPost, podsPath, map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"node": node}},
		"spec": map[string]any{"nodeName": node, "containers": []any{map[string]any{"name": "c", "image": "i"}}}})
}

func (k *kubeWorld) deletePod(name string) {
	if k != nil {
		_ = k.do(http.MethodDelete, podsPath+"/"+name+"?gracePeriodSeconds=0", nil)
	}
}

// lost deletes a node, and its pods, as Kubernetes' garbage collection of pods does.
func (k *kubeWorld) lost(t *testing.T, node string) {
	t.Helper()
	for _, path := range []string{nodesPath + "/" + node, podsPath + "?gracePeriodSeconds=0&labelSelector=node%3D" + node} {
		if err := k.do(http.MethodDelete, path, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func raceOnKubernetes(t *testing.T, waiting, hasty bool, grace, d time.Duration) *world {
	api := testkube.Start(t)
	nodes := openKube(t, api, testkube.Admin, false) // sabotage needs rights that no node has
	return raceOn(t, nodes, openKube(t, api, testkube.Controllers, waiting), &kubeWorld{api, nodes}, true, hasty, grace, d)
}

// TestNothingInUseIsFreed on Kubernetes.
func TestNothingInUseIsFreedOnKubernetes(t *testing.T) {
	raceIsWon(t, raceOnKubernetes(t, true, false, testkit.Patient(6*time.Second), 25*time.Second))
}

// The control: who acts at once, and does not ask for pods that say of no address, frees addresses in use.
func TestControlFreesWhatIsInUseOnKubernetes(t *testing.T) {
	w := raceOnKubernetes(t, false, true, 3*time.Second, 12*time.Second)
	bad, fine := w.wrong()
	t.Logf("%d of %d attachments lost an address while they lived; %d addresses of others were given back", len(bad), w.adds.Load(), fine)
	if len(bad) == 0 {
		t.Error("nothing in use was freed: the test would find nothing")
	}
}
