package offload

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/testkit"
)

// Whoever ends connections waits for no more than the change of the flow table that is under way: as pods come and go all
// the time, emptying a table of many devices takes little longer than without.
func TestFlushWaitsForLittle(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	var batch strings.Builder
	for i := range 110 {
		name := fmt.Sprintf("weft-many%d", i)
		fmt.Fprintf(&batch, "link add %s type dummy\n", name)
		r.plan.Pods = append(r.plan.Pods, name)
	}
	if _, err := testkit.TryInput(t, r.node, batch.String(), "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	r.apply()
	flushes := func() (took []time.Duration) {
		for range 20 {
			begin := time.Now()
			if err := r.driver.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		return took
	}
	alone := flushes()
	ctx, cancel := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	n := 0
	changing.Go(func() {
		for ; ctx.Err() == nil; n++ {
			p := r.plan
			p.Pods = p.Pods[:len(p.Pods)-1-n%2]
			if _, err := r.driver.Apply(ctx, p); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	defer changing.Wait()
	defer cancel()
	busy := flushes()
	cancel()
	changing.Wait()
	t.Logf("20 flushes of 112 devices: %v (median), %v (longest); while %d changes were made: %v, %v", alone[10], alone[19], n, busy[10], busy[19])
	if n < 10 || busy[19] > 10*alone[10]+100*time.Millisecond {
		t.Errorf("too long, or only %d changes", n)
	}
}
