package ipam

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkAssign measures one pod's addresses on a real embedded etcd that writes to disk, as a
// node does it: pools from a watch, the node's blocks known.
func BenchmarkAssign(b *testing.B) {
	for _, parallel := range []int{1, 32} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) { benchmarkAssign(b, parallel) })
	}
}

// benchmarkAssign starts so many calls at once, waits for all of them, and gives the addresses back
// without counting that.
func benchmarkAssign(b *testing.B, parallel int) {
	store := startEtcd(b, true)
	addPool(b, store, "four", "10.0.0.0/16", nil)
	c, err := StoreView(store, "")(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	a := newAllocator(b, store, "n1", Options{View: func(context.Context) (*Cluster, error) { return c, nil }})
	mustAssign(b, a, pod())
	var took []time.Duration
	for b.Loop() {
		round := make([]time.Duration, parallel)
		var assigned, released sync.WaitGroup
		handles := make([]string, parallel)
		for i := range parallel {
			assigned.Go(func() {
				r := pod()
				handles[i] = r.HandleID
				start := time.Now()
				if _, err := a.Assign(context.Background(), r); err != nil {
					b.Error(err)
				}
				round[i] = time.Since(start)
			})
		}
		assigned.Wait()
		took = append(took, round...)
		b.StopTimer()
		for _, h := range handles {
			released.Go(func() {
				if _, err := a.Release(context.Background(), h); err != nil {
					b.Error(err)
				}
			})
		}
		released.Wait()
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(len(took)), "assigns")
}
