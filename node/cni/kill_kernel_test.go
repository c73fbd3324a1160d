package cni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"weft/internal/testkit"
)

func addSteps() []string {
	return []string{stepJournal, stepAssign, stepLink, stepConfigure, stepShow, stepApply, stepRecord, stepActivate, stepCommit, stepAnswer}
}

func delSteps() []string { return []string{stepUnlink, stepUnname, stepRelease, stepForget} }

// The node is killed (SIGKILL) at each step of ADD. Whether then the runtime says DEL, or GC, or
// nothing at all and the node only starts again, nothing is left.
func TestKillDuringAdd(t *testing.T) {
	r := newRig(t, true)
	n := 0
	for _, step := range addSteps() {
		for _, after := range []string{"restart", "DEL", "GC"} {
			n++
			name := step + "/" + after
			ns := testkit.NewNetns(t)
			rt := r.runtime(fmt.Sprintf("c%d", n), "p", ns.Path)
			node := r.start(testNode{DieAt: step})
			if _, err := r.add(rt); err == nil {
				t.Fatalf("%s: ADD succeeded on a node that was to die", name)
			}
			node.died(t)
			if step != stepJournal && step != stepLink && step != stepAssign && len(r.left()) == 0 {
				t.Errorf("%s: nothing was made before the kill: the test shows nothing", name)
			}
			node = r.start(testNode{})
			switch after {
			case "DEL":
				if err := r.del(rt); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case "GC":
				_ = os.RemoveAll(filepath.Join(r.dir, "cache"))
				if err := r.cni.GCNetworkList(context.Background(), r.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case "restart":
				if step == stepAnswer { // all was done and the journal says so: only the runtime can tell
					if err := r.del(rt); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			r.nothingLeft(1)
			// The pod is tried again and works.
			if n%5 == 0 {
				again := r.runtime(rt.ContainerID+"-again", "p", ns.Path)
				if err := r.reach(addrOf(t, r.mustAdd(again), true), 3*time.Second); err != nil {
					t.Errorf("%s: after the clean-up: %v", name, err)
				}
				if err := r.del(again); err != nil {
					t.Error(err)
				}
			}
			node.stop(t)
		}
	}
	t.Logf("%d kills during ADD (%d steps, each followed by restart, DEL or GC)", n, len(addSteps()))
	r.nothingLeft(n)
}

// The node is killed at each step of DEL; the runtime repeats DEL, as it must.
func TestKillDuringDel(t *testing.T) {
	r := newRig(t, true)
	for i, step := range delSteps() {
		ns := testkit.NewNetns(t)
		rt := r.runtime(fmt.Sprintf("c%d", i), "p", ns.Path)
		node := r.start(testNode{DieAt: step})
		r.mustAdd(rt)
		if err := r.del(rt); err == nil {
			t.Fatalf("%s: DEL succeeded on a node that was to die", step)
		}
		node.died(t)
		node = r.start(testNode{})
		if err := r.del(rt); err != nil {
			t.Errorf("%s: DEL again: %v", step, err)
		}
		r.nothingLeft(1)
		node.stop(t)
	}
}

// A step of ADD fails: the runtime gets the reason, and everything is rolled back at once.
func TestFailureDuringAdd(t *testing.T) {
	r := newRig(t, true)
	for i, step := range addSteps() {
		ns := testkit.NewNetns(t)
		rt := r.runtime(fmt.Sprintf("c%d", i), "p", ns.Path)
		node := r.start(testNode{FailAt: step})
		if _, err := r.add(rt); err == nil {
			t.Errorf("%s: ADD succeeded although the step failed", step)
		}
		r.nothingLeft(1)
		if out := testkit.Run(t, ns, "ip", "-o", "link"); len(out) == 0 || countLines(out) != 1 {
			t.Errorf("%s: the pod has more than its loopback: %s", step, out)
		}
		node.stop(t)
	}
}

// A runtime that gives up kills the plugin and DELs: an ADD that waits meanwhile, for a node that is not ready say,
// attaches nothing afterwards.
func TestPluginKilledBeforeDel(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	notReady := filepath.Join(r.dir, "not-ready")
	if err := os.WriteFile(notReady, []byte("the store has not been read yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	const pods = 3
	for i := range pods {
		rt := r.runtime(fmt.Sprintf("c%d", i), fmt.Sprintf("p%d", i), testkit.NewNetns(t).Path)
		ctx, kill := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if _, err := r.cni.AddNetworkList(ctx, r.list, rt); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("ADD whose plugin is killed: got %v", err)
		}
		kill()
		if err := r.del(rt); err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(notReady); err != nil {
		t.Fatal(err)
	}
	ns := testkit.NewNetns(t)
	r.mustAdd(r.runtime("last", "last", ns.Path)) // began later, and waited for the same
	if err := r.del(r.runtime("last", "last", ns.Path)); err != nil {
		t.Error(err)
	}
	r.node.stop(t) // which waits for the calls under way
	r.nothingLeft(pods + 1)
}

func countLines(s string) (n int) {
	for _, c := range s {
		if c == '\n' {
			n++
		}
	}
	return n
}

// ADD, DEL and DEL again of the same containers, all at once and in any order: calls for one
// container are serialised, and a last DEL leaves nothing.
func TestConcurrentAddAndDel(t *testing.T) {
	r := newRig(t, true)
	r.start(testNode{})
	const pods, rounds = 8, 4
	added := 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	var rts []*libcni.RuntimeConf
	for i := range pods {
		rts = append(rts, r.runtime(fmt.Sprintf("c%d", i), fmt.Sprintf("p%d", i/2), testkit.NewNetns(t).Path)) // two sandboxes a pod
	}
	for _, rt := range rts {
		for range rounds {
			wg.Go(func() {
				if _, err := r.add(rt); err == nil {
					mu.Lock()
					added++
					mu.Unlock()
				}
			})
			for range 2 {
				wg.Go(func() {
					if err := r.del(rt); err != nil {
						t.Errorf("DEL %s: %v", rt.ContainerID, err)
					}
				})
			}
		}
	}
	wg.Wait()
	for _, rt := range rts {
		if err := r.del(rt); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of %d ADDs succeeded among %d DELs", added, pods*rounds, 2*pods*rounds)
	if added == 0 {
		t.Error("no ADD succeeded: the test shows nothing")
	}
	r.nothingLeft(pods)
}
