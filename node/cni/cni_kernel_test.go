package cni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"weft/internal/testkit"
	"weft/node/cni/rpc"
)

func TestAttachCheckDetach(t *testing.T) {
	r := newRig(t, true)
	r.configure("1.1.0", map[string]any{"args": map[string]any{
		"cni":  map[string]any{"labels": []any{map[string]any{"key": "app", "value": "web"}}},
		"weft": map[string]any{"serviceAccount": "builder", "ports": []any{map[string]any{"name": "http", "protocol": "TCP", "port": 80}}}}})
	r.start(testNode{})
	ns := testkit.NewNetns(t)
	rt := r.runtime("c1", "web-1", ns.Path)
	res := r.mustAdd(rt)
	for _, v4 := range []bool{true, false} {
		if err := r.reach(addrOf(t, res, v4), 3*time.Second); err != nil {
			t.Errorf("after ADD: %v\n%s", err, testkit.Run(t, r.host, "ip", "-6", "route"))
		}
	}
	if res.Interfaces[1].Name != "eth0" || res.Interfaces[1].Sandbox != ns.Path || res.Interfaces[1].Mtu != 1450 ||
		!strings.HasPrefix(res.Interfaces[0].Name, "weft") || res.Interfaces[0].Mac != "ee:ee:ee:ee:ee:ee" {
		t.Errorf("got interfaces %v, %v", res.Interfaces[0], res.Interfaces[1])
	}
	w := r.record("web-1")
	if w.Spec.ContainerID != "c1" || w.Labels["app"] != "web" || len(w.Spec.IPNetworks) != 2 || w.Spec.Ports[0].Port != 80 ||
		w.Spec.InterfaceName != res.Interfaces[0].Name || w.Spec.MAC != res.Interfaces[1].Mac || w.Name != "n--1-k8s-web--1-eth0" {
		t.Errorf("got record %s %+v", w.Name, w.Spec)
	}
	if err := r.check(rt); err != nil {
		t.Errorf("CHECK after ADD: %v", err)
	}
	if _, err := r.add(rt); code(err) != rpc.CodeAlreadyAttached {
		t.Errorf("second ADD: got %v, want code %d", err, rpc.CodeAlreadyAttached)
	}
	testkit.Run(t, ns, "ip", "link", "set", "eth0", "mtu", "1300")
	if err := r.check(rt); code(err) != rpc.CodeCheckFailed {
		t.Errorf("CHECK with another MTU: got %v, want code %d", err, rpc.CodeCheckFailed)
	} else {
		t.Log(err)
	}
	other := *rt
	other.ContainerID = "stranger"
	for range 3 {
		if err := r.del(rt); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if err := r.del(&other); err != nil {
		t.Errorf("DEL of an unknown container: %v", err)
	}
	r.nothingLeft(1)
}

// Runtimes of every version of the specification get their own form of the result.
func TestOlderVersions(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	ns := testkit.NewNetns(t)
	for i, v := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		r.configure(v, nil)
		rt := r.runtime(fmt.Sprintf("c%d", i), "p", ns.Path)
		res, err := r.cni.AddNetworkList(context.Background(), r.list, rt)
		if err != nil {
			t.Fatalf("ADD %s: %v", v, err)
		}
		if res.Version() != v {
			t.Errorf("got a result of version %s, want %s", res.Version(), v)
		}
		if cur, err := types100.NewResultFromResult(res); err != nil || len(cur.IPs) != 2 {
			t.Errorf("version %s: got %v, %v; want two addresses", v, cur, err)
		}
		if err := r.del(rt); err != nil {
			t.Errorf("DEL %s: %v", v, err)
		}
	}
	r.nothingLeft(5)
}

// The netns may be gone before DEL, and DEL may come without one.
func TestDelWithoutNamespace(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	t.Run("gone", func(t *testing.T) {
		ns := testkit.NewNetns(t)
		r.mustAdd(r.runtime("gone", "gone", ns.Path))
	})
	rt := r.runtime("gone", "gone", "/run/netns/not-there")
	if err := r.del(rt); err != nil {
		t.Errorf("DEL with a namespace that is gone: %v", err)
	}
	ns := testkit.NewNetns(t)
	rt = r.runtime("c2", "p2", ns.Path)
	r.mustAdd(rt)
	rt.NetNS = ""
	if err := r.del(rt); err != nil {
		t.Errorf("DEL without a namespace: %v", err)
	}
	r.nothingLeft(2)
}

// kubelet makes a new sandbox while the old one is not deleted yet: the new one has the pod, and DEL
// of the old one takes nothing from it.
func TestNewSandboxOfSamePod(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	oldNS, newNS := testkit.NewNetns(t), testkit.NewNetns(t)
	oldRT, newRT := r.runtime("old", "p", oldNS.Path), r.runtime("new", "p", newNS.Path)
	before := r.mustAdd(oldRT)
	after := r.mustAdd(newRT)
	a, b := addrOf(t, before, true), addrOf(t, after, true)
	if a == b {
		t.Errorf("both sandboxes have %s", a)
	}
	if err := r.check(oldRT); code(err) != rpc.CodeCheckFailed {
		t.Errorf("CHECK of the old sandbox: got %v", err)
	}
	if err := r.del(oldRT); err != nil {
		t.Errorf("DEL of the old sandbox: %v", err)
	}
	if err := r.check(newRT); err != nil {
		t.Errorf("CHECK of the new sandbox after DEL of the old: %v", err)
	}
	if err := r.reach(b, 3*time.Second); err != nil {
		t.Error(err)
	}
	if w := r.record("p"); w.Spec.ContainerID != "new" {
		t.Errorf("the record is of %s", w.Spec.ContainerID)
	}
	if err := r.del(newRT); err != nil {
		t.Error(err)
	}
	r.nothingLeft(2)
}

func TestStatus(t *testing.T) {
	r := newRig(t, true)
	status := func() error { return r.cni.GetStatusNetworkList(context.Background(), r.list) }
	ns := testkit.NewNetns(t)
	rt := r.runtime("c", "p", ns.Path)
	if err := status(); code(err) != rpc.CodeNotAvailable {
		t.Errorf("STATUS without a node: got %v", err)
	}
	if _, err := r.add(rt); code(err) != rpc.CodeTryAgain || !strings.Contains(err.Error(), "weft node") {
		t.Errorf("ADD without a node: got %v", err)
	}
	if err := r.del(rt); code(err) != rpc.CodeTryAgain {
		t.Errorf("DEL without a node: got %v, want a code that makes the runtime repeat it", err)
	}
	r.start(testNode{})
	if err := status(); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	for why, want := range map[string]uint{"the store has not been read yet": rpc.CodeNotAvailable, "limited: no route to two peers": rpc.CodeLimited} {
		if err := os.WriteFile(filepath.Join(r.dir, "not-ready"), []byte(why), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := status(); code(err) != want || !strings.Contains(err.Error(), strings.TrimPrefix(why, "limited: ")) {
			t.Errorf("STATUS: got %v, want code %d and %q", err, want, why)
		}
		start := time.Now()
		if _, err := r.add(rt); code(err) != rpc.CodeTryAgain || !strings.Contains(err.Error(), strings.TrimPrefix(why, "limited: ")) {
			t.Errorf("ADD on a node that is not ready: got %v", err)
		}
		if took := time.Since(start); took < readyTimeout {
			t.Errorf("ADD on a node that is not ready gave up after %v, want %v", took, readyTimeout)
		}
	}
	// One that becomes ready meanwhile is waited for.
	go func() {
		time.Sleep(time.Second)
		_ = os.Remove(filepath.Join(r.dir, "not-ready"))
	}()
	r.mustAdd(rt)
	if err := r.del(rt); err != nil {
		t.Error(err)
	}
	r.nothingLeft(1)
}

// GC removes what the runtime does not list, of its own network only.
func TestGC(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	mine := r.list
	var rts []*libcni.RuntimeConf
	for i := range 4 {
		rts = append(rts, r.runtime(fmt.Sprintf("c%d", i), fmt.Sprintf("p%d", i), testkit.NewNetns(t).Path))
		r.mustAdd(rts[i])
	}
	other, err := libcni.ConfListFromBytes([]byte(strings.Replace(string(mine.Bytes), `"name":"weft"`, `"name":"other"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	r.list = other
	foreign := r.runtime("c9", "p9", testkit.NewNetns(t).Path)
	r.mustAdd(foreign)
	r.list = mine
	// Without its cache libcni knows no attachment, so that it is the plugin's GC that works.
	if err := os.RemoveAll(filepath.Join(r.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	err = r.cni.GCNetworkList(context.Background(), r.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
		{ContainerID: "c0", IfName: "eth0"}, {ContainerID: "c2", IfName: "eth0"}}})
	if err != nil {
		t.Errorf("GC: %v", err)
	}
	if n := r.left(); n["links"] != 3 || n["records"] != 3 || n["handles"] != 3 || n["addresses"] != 6 || n["journal entries"] != 3 {
		t.Errorf("after GC of 2 of 5 pods got %v; want 3 of each and 6 addresses", n)
	}
	for _, rt := range []*libcni.RuntimeConf{rts[0], rts[2]} {
		if err := r.del(rt); err != nil {
			t.Error(err)
		}
	}
	r.list = other
	if err := r.del(foreign); err != nil {
		t.Error(err)
	}
	r.nothingLeft(5)
}

// The store is away at DEL: the kernel's part is done at once, and the addresses go back when the
// store is there again, whether or not the node restarted in between.
func TestDelWhileStoreIsAway(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			r := newRig(t, true)
			node := r.start(testNode{})
			rt := r.runtime("c", "p", testkit.NewNetns(t).Path)
			r.mustAdd(rt)
			r.stopStore()
			start := time.Now()
			if err := r.del(rt); err != nil {
				t.Fatalf("DEL while the store is away: %v", err)
			}
			t.Logf("DEL while the store is away: %v", time.Since(start))
			if _, err := r.add(r.runtime("c2", "p2", testkit.NewNetns(t).Path)); code(err) != rpc.CodeTryAgain {
				t.Errorf("ADD while the store is away: got %v, want code %d", err, rpc.CodeTryAgain)
			}
			if restart {
				node.stop(t)
			}
			r.startStore(true)
			if restart {
				r.start(testNode{})
			}
			testkit.Eventually(t, 10*time.Second, "the store has everything back", func() bool { return len(r.left()) == 0 })
			r.nothingLeft(2)
		})
	}
}

// Somebody removes a pod's link by hand: other pods can still be attached.
func TestLostLinkHarmsNobodyElse(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	lost := r.runtime("c1", "p1", testkit.NewNetns(t).Path)
	res := r.mustAdd(lost)
	testkit.Run(t, r.host, "ip", "link", "del", res.Interfaces[0].Name)
	rt := r.runtime("c2", "p2", testkit.NewNetns(t).Path)
	if err := r.reach(addrOf(t, r.mustAdd(rt), true), 3*time.Second); err != nil {
		t.Error(err)
	}
	if err := r.check(lost); code(err) != rpc.CodeCheckFailed {
		t.Errorf("CHECK of the pod without a link: got %v", err)
	}
	for _, x := range []*libcni.RuntimeConf{lost, rt} {
		if err := r.del(x); err != nil {
			t.Error(err)
		}
	}
	r.nothingLeft(2)
}

// The interface name is taken in the pod: a clear error, and nothing left.
func TestInterfaceNameTaken(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	ns := testkit.NewNetns(t)
	testkit.Run(t, ns, "ip", "link", "add", "eth0", "type", "bridge")
	if _, err := r.add(r.runtime("c", "p", ns.Path)); code(err) != rpc.CodeInterfaceExists {
		t.Errorf("got %v, want code %d", err, rpc.CodeInterfaceExists)
	}
	if _, err := r.add(r.runtime("c", "p", r.host.Path)); code(err) != rpc.CodeInvalidNetns {
		t.Errorf("ADD into the host's own namespace: got %v, want code %d", err, rpc.CodeInvalidNetns)
	}
	r.nothingLeft(2)
}

// A restart keeps every pod; a damaged journal entry costs one.
func TestRestart(t *testing.T) {
	r := newRig(t, true)
	node := r.start(testNode{})
	rt1, rt2 := r.runtime("c1", "p1", testkit.NewNetns(t).Path), r.runtime("c2", "p2", testkit.NewNetns(t).Path)
	a1, a2 := addrOf(t, r.mustAdd(rt1), true), addrOf(t, r.mustAdd(rt2), true)
	node.stop(t)
	node = r.start(testNode{})
	for _, a := range []string{a1.String(), a2.String()} {
		if out := testkit.Run(t, r.host, "ip", "route", "get", a); !strings.Contains(out, "dev weft") {
			t.Errorf("after a restart: %s", out)
		}
	}
	if err := r.check(rt1); err != nil {
		t.Errorf("CHECK after a restart: %v", err)
	}
	node.stop(t)
	if err := os.WriteFile(filepath.Join(r.dir, "endpoints", "c1@eth0.json"), []byte(`{"checksum":"sha256:00","attachment":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(testNode{})
	if err := r.check(rt2); err != nil {
		t.Errorf("CHECK of the pod whose entry is whole: %v", err)
	}
	// The record in the store still names the container: DEL needs no journal.
	for _, rt := range []*libcni.RuntimeConf{rt1, rt2} {
		if err := r.del(rt); err != nil {
			t.Error(err)
		}
	}
	if q, err := os.ReadDir(filepath.Join(r.dir, "endpoints", quarantineDir)); err != nil || len(q) != 1 {
		t.Errorf("got %d quarantined entries, %v; want 1", len(q), err)
	}
	r.nothingLeft(2)
}
