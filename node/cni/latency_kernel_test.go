package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
)

// TestLatency measures ADD until the pod answers, with a store that writes to disk: first one at a
// time, then 32 at a time. It fails far above what is aimed at only, since the machine is shared.
func TestLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for several seconds")
	}
	r := newRig(t, false)
	node := r.start(testNode{})
	const pods = 200
	var rts []*libcni.RuntimeConf
	for i := range pods {
		rts = append(rts, r.runtime(fmt.Sprintf("c%03d", i), fmt.Sprintf("p%03d", i), testkit.NewNetns(t).Path))
	}
	for _, parallel := range []int{1, 32} {
		before := r.usage()
		whole, reachable := r.addAll(rts, parallel)
		used := r.usage().since(before)
		if n := r.left(); n["links"] != pods || n["records"] != pods || n["addresses"] != 2*pods || n["handles"] != pods {
			t.Errorf("after %d ADDs got %v", pods, n)
		}
		t.Logf("ADD, %d pods, %d at a time: %s; until the pod answers: %s; in the node: %s", pods, parallel,
			quantiles(whole), quantiles(reachable), quantiles(node.took("ADD")[len(node.took("ADD"))-pods:]))
		t.Logf("CPU time of one ADD: weft-cni %.1f ms, node %.1f ms, etcd and runtime (this process) %.1f ms",
			ms(used.plugin)/pods, ms(used.node)/pods, ms(used.self)/pods)
		figures.Write(t, "add", figures.Seconds("answers", fmt.Sprintf("%d at a time", parallel), reachable...)...)
		if p50, p99 := quantile(reachable, 50), quantile(reachable, 99); parallel == 1 && p50 > 300*time.Millisecond || p99 > 5*time.Second {
			t.Errorf("ADD until the pod answers took %v and %v (p50, p99), %d at a time", p50, p99, parallel)
		}
		start := time.Now()
		r.delAll(rts, 32)
		t.Logf("DEL of %d pods, 32 at a time: %v altogether", pods, time.Since(start))
		r.nothingLeft(pods)
	}
	r.floor(node)
}

// floor measures what no ADD can be faster than: the start of the plugin alone, one and 32 at a
// time, answering without a node (VERSION) and with one (STATUS).
func (r *rig) floor(node *child) {
	const calls = 200
	var status []time.Duration
	for range calls {
		start := time.Now()
		if err := r.cni.GetStatusNetworkList(context.Background(), r.list); err != nil {
			r.t.Fatal(err)
		}
		status = append(status, time.Since(start))
	}
	figures.Write(r.t, "add", figures.Seconds("plugin", "", status...)...)
	r.t.Logf("weft-cni alone, STATUS (start of the process, call, answer, exit): %s; the node's part of it: %s",
		quantiles(status), quantiles(node.took("STATUS")))
	for _, parallel := range []int{1, 32} {
		var mu sync.Mutex
		var took []time.Duration
		work := make(chan struct{})
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				for range work {
					cmd := exec.Command(filepath.Join(r.bin, "weft-cni"))
					cmd.Env = []string{"CNI_COMMAND=VERSION"}
					start := time.Now()
					err := cmd.Run()
					d := time.Since(start)
					if err != nil {
						r.t.Error(err)
					}
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
				}
			})
		}
		for range calls {
			work <- struct{}{}
		}
		close(work)
		wg.Wait()
		r.t.Logf("weft-cni alone, VERSION (no node), %d at a time: %s", parallel, quantiles(took))
	}
}

func (r *rig) addAll(rts []*libcni.RuntimeConf, parallel int) (whole, reachable []time.Duration) {
	var mu sync.Mutex
	work := make(chan *libcni.RuntimeConf)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for rt := range work {
				start := time.Now()
				res, err := r.add(rt)
				took := time.Since(start)
				if err == nil {
					err = r.reach(addrOf(r.t, res, true), 5*time.Second)
				}
				if err != nil {
					r.t.Errorf("ADD %s: %v", rt.ContainerID, err)
					continue
				}
				mu.Lock()
				whole, reachable = append(whole, took), append(reachable, time.Since(start))
				mu.Unlock()
			}
		})
	}
	for _, rt := range rts {
		work <- rt
	}
	close(work)
	wg.Wait()
	return whole, reachable
}

func (r *rig) delAll(rts []*libcni.RuntimeConf, parallel int) {
	work := make(chan *libcni.RuntimeConf)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for rt := range work {
				if err := r.del(rt); err != nil {
					r.t.Errorf("DEL %s: %v", rt.ContainerID, err)
				}
			}
		})
	}
	for _, rt := range rts {
		work <- rt
	}
	close(work)
	wg.Wait()
}

func quantile(d []time.Duration, percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)*percent/100, len(s)-1)]
}

func quantiles(d []time.Duration) string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms (n=%d)", quantile(d, 50).Seconds()*1e3, quantile(d, 99).Seconds()*1e3, len(d))
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// usage is CPU time so far: of this process (store and runtime), of the plugins that ended, and of
// the node.
type usage struct{ self, plugin, node time.Duration }

func (u usage) since(o usage) usage {
	return usage{u.self - o.self, u.plugin - o.plugin, u.node - o.node}
}

func (r *rig) usage() usage {
	r.t.Helper()
	var self, children unix.Rusage
	err := errors.Join(unix.Getrusage(unix.RUSAGE_SELF, &self), unix.Getrusage(unix.RUSAGE_CHILDREN, &children))
	stat, rerr := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.node.cmd.Process.Pid))
	if err := errors.Join(err, rerr); err != nil {
		r.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest) // from field 3 of proc(5) on; 14 and 15 are in ticks of 10 ms
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	sum := func(u unix.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
	return usage{sum(self), sum(children), time.Duration(user+system) * 10 * time.Millisecond}
}
