package cni

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// want tells the running node which MTU pods are to have.
func (r *rig) want(mtu int) {
	r.t.Helper()
	path := filepath.Join(r.dir, "mtu")
	if err := replaceFile(path, path+".new", []byte(strconv.Itoa(mtu))); err != nil {
		r.t.Fatal(err)
	}
}

// mtus reads both ends of every pod's link.
func (r *rig) mtus() map[string]kernel.PodMTU {
	r.t.Helper()
	var links *kernel.PodLinks
	r.host.Do(r.t, func() (err error) { links, err = kernel.OpenPodLinks(); return err })
	defer links.Close()
	m, err := links.MTUs(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// all tells whether as many links as said have the MTU on both ends.
func (r *rig) all(pods, mtu int) bool {
	r.t.Helper()
	m := r.mtus()
	for _, x := range m {
		if x != (kernel.PodMTU{Host: mtu, Pod: mtu}) {
			return false
		}
	}
	return len(m) == pods
}

func (r *rig) eventuallyAll(what string, pods, mtu int) {
	r.t.Helper()
	took := testkit.Eventually(r.t, 5*time.Second, fmt.Sprintf("%s: %d pods with MTU %d", what, pods, mtu), func() bool { return r.all(pods, mtu) })
	r.t.Logf("%s: %d pods with MTU %d on both ends after %v", what, pods, mtu, took.Round(time.Millisecond))
}

func TestMTUOfRunningPods(t *testing.T) {
	r := newRig(t, true)
	node := r.start(testNode{FollowMTU: true})
	var rts []*libcni.RuntimeConf
	var pods []testkit.NS
	var devices []string
	for i := range 3 {
		ns := testkit.NewNetns(t)
		rt := r.runtime(fmt.Sprint("c", i), fmt.Sprint("p", i), ns.Path)
		devices = append(devices, r.mustAdd(rt).Interfaces[0].Name)
		rts, pods = append(rts, rt), append(pods, ns)
	}
	check := func(what string) {
		t.Helper()
		for _, rt := range rts {
			if err := r.check(rt); err != nil {
				t.Errorf("%s: CHECK of %s: %v", what, rt.ContainerID, err)
			}
		}
	}
	r.eventuallyAll("as attached", 3, 1450)
	for _, mtu := range []int{8950, 1400} {
		r.want(mtu)
		r.eventuallyAll("changed", 3, mtu)
	}
	check("changed")

	testkit.Run(t, r.host, "ip", "link", "set", devices[0], "mtu", "1500")
	r.eventuallyAll("host side changed by somebody", 3, 1400)

	r.want(1000) // all have IPv6 addresses, which the kernel would take away below 1280
	r.eventuallyAll("less than IPv6 needs", 3, 1280)
	for _, ns := range pods {
		if !strings.Contains(testkit.Run(t, ns, "ip", "-6", "addr", "show", "dev", "eth0"), "fd64:") {
			t.Errorf("pod %s lost its IPv6 address", ns.Name)
		}
	}
	r.want(1450)
	r.eventuallyAll("raised", 3, 1450)

	// While the node is down the MTU changes, and somebody meddles.
	node.stop(t)
	testkit.Run(t, r.host, "ip", "link", "set", devices[1], "mtu", "1300")
	r.want(1420)
	node = r.start(testNode{FollowMTU: true})
	r.eventuallyAll("after a restart", 3, 1420)
	check("after a restart")

	// A pod that made its own MTU smaller keeps that, until the node's is smaller still.
	testkit.Run(t, pods[2], "ip", "link", "set", "eth0", "mtu", "1350")
	other := func(pod int) func() bool {
		return func() bool {
			return r.mtus()[devices[2]] == kernel.PodMTU{Host: 1440, Pod: pod} && r.mtus()[devices[0]] == kernel.PodMTU{Host: 1440, Pod: 1440}
		}
	}
	r.want(1440)
	testkit.Eventually(t, 5*time.Second, "the pod's own choice stays when the MTU grows", other(1350))
	r.want(1300)
	r.eventuallyAll("smaller than the pod's own", 3, 1300)
	r.want(1440)
	r.eventuallyAll("raised again", 3, 1440)
	node.stop(t)
}

// TestMTUFromConfiguration: what the network configuration says is not the node's to change.
func TestMTUFromConfiguration(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{FollowMTU: true})
	ns := testkit.NewNetns(t)
	r.configure("1.1.0", map[string]any{"mtu": 1320})
	fixed := r.mustAdd(r.runtime("c1", "fixed", ns.Path)).Interfaces[0].Name
	r.configure("1.1.0", nil)
	free := r.mustAdd(r.runtime("c2", "free", testkit.NewNetns(t).Path)).Interfaces[0].Name
	r.want(1400)
	testkit.Eventually(t, 5*time.Second, "one pod follows", func() bool { return r.mtus()[free] == kernel.PodMTU{Host: 1400, Pod: 1400} })
	if got := r.mtus()[fixed]; got != (kernel.PodMTU{Host: 1320, Pod: 1320}) {
		t.Errorf("the other has %+v, want the 1320 of its configuration", got)
	}
	testkit.Run(t, r.host, "ip", "link", "set", fixed, "mtu", "1500")
	testkit.Eventually(t, 5*time.Second, "put back", func() bool { return r.mtus()[fixed].Host == 1320 })
}

// TestMTUChangesDuringADD attaches pods while the MTU changes all the time: each must end with the
// last one, whichever it began with.
func TestMTUChangesDuringADD(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{FollowMTU: true})
	const pods, parallel = 48, 6
	stop := make(chan struct{})
	changed := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				changed <- n
				return
			case <-time.After(3 * time.Millisecond):
				path := filepath.Join(r.dir, "mtu")
				if err := replaceFile(path, path+".new", []byte(strconv.Itoa(1400+n%50))); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	var wg sync.WaitGroup
	todo := make(chan *libcni.RuntimeConf, pods)
	for i := range pods {
		todo <- r.runtime(fmt.Sprintf("c%02d", i), fmt.Sprintf("p%02d", i), testkit.NewNetns(t).Path)
	}
	close(todo)
	var mu sync.Mutex
	var rts []*libcni.RuntimeConf
	began := map[int]int{}
	for range parallel {
		wg.Go(func() {
			for rt := range todo {
				res, err := r.add(rt)
				if err != nil {
					t.Errorf("ADD %s: %v", rt.ContainerID, err)
					continue
				}
				mu.Lock()
				began[res.Interfaces[1].Mtu]++
				rts = append(rts, rt)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	n := <-changed
	r.want(1430)
	r.eventuallyAll("at last", pods, 1430)
	for _, rt := range rts {
		if err := r.check(rt); err != nil {
			t.Errorf("CHECK of %s: %v", rt.ContainerID, err)
		}
	}
	if len(began) < 5 {
		t.Errorf("the pods came with %d different MTUs only: nothing was raced", len(began))
	}
	t.Logf("%d pods came with %d different MTUs during %d changes", pods, len(began), n)
}

// TestMTUSyncerWithoutChange: a run without anything to do does not ask the kernel.
func TestMTUSyncerWithoutChange(t *testing.T) {
	reg, err := OpenRegistry(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := testAttachment("c1", "p1", "10.0.0.1")
	if err := reg.save(a); err != nil {
		t.Fatal(err)
	}
	reg.show(a)
	s := NewMTUSyncer(reg, noLinks{t}, nil)
	s.stale = false
	for range 3 {
		if res, err := s.Apply(context.Background(), a.MTU); err != nil || !res.Zero() {
			t.Errorf("got %v, %v, want nothing done", res, err)
		}
	}
	for _, tc := range []struct {
		ev   kernel.Event
		want bool
	}{
		{kernel.Event{Kind: kernel.EventLink, Link: kernel.Link{Name: a.Device, MTU: a.MTU}}, false},
		{kernel.Event{Kind: kernel.EventLink, Link: kernel.Link{Name: "weft0123456789a", MTU: 1}}, false},
		{kernel.Event{Kind: kernel.EventLink, Removed: true, Link: kernel.Link{Name: a.Device, MTU: 1}}, false},
		{kernel.Event{Kind: kernel.EventLink, Link: kernel.Link{Name: a.Device, MTU: a.MTU + 1}}, true},
	} {
		if got := s.Observe(tc.ev); got != tc.want {
			t.Errorf("event %+v: got %v", tc.ev, got)
		}
	}
}

// noLinks fails a test that asks the kernel.
type noLinks struct{ t *testing.T }

func (n noLinks) MTUs(context.Context) (map[string]kernel.PodMTU, error) {
	n.t.Error("the kernel was asked")
	return nil, nil
}

func (n noLinks) SetMTUs(_ context.Context, c []kernel.PodMTUChange) []error {
	if len(c) > 0 {
		n.t.Errorf("changes %v", c)
	}
	return nil
}
