package node

import (
	"context"
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"testing"
	"time"
)

// TestCollectorCollectsAtRest: garbage that a run left goes soon after it, without another
// allocation; the collector then leaves the heap alone.
func TestCollectorCollectsAtRest(t *testing.T) {
	c := newCollector()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	runtime.GC()
	if worthCollecting() {
		t.Error("worth collecting right after a collection")
	}
	var sink []byte
	for !worthCollecting() { // until the room is used, or the runtime's own collection begins anew
		sink = make([]byte, 64<<10)
	}
	runtime.KeepAlive(sink)
	c.kick()
	for begin := time.Now(); worthCollecting(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("nothing was collected")
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestCollectorWaitsForTheStart: before a node has started nothing is collected at rest, and then once whatever there is.
func TestCollectorWaitsForTheStart(t *testing.T) {
	c := newCollector()
	started := make(chan struct{})
	c.started = func() bool {
		select {
		case <-started:
			return true
		default:
			return false
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	runtime.GC()
	collected := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	before := collected()
	c.kick()
	time.Sleep(2*restTime + 2*startPause)
	if n := collected() - before; n != 0 {
		t.Errorf("%d collections before the node has started", n)
	}
	close(started)
	for begin := time.Now(); collected() == before; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("nothing was collected after the start")
		}
	}
	cancel()
	<-ended
}

// TestCollectLate: the first collection, and nothing before it, brings back what holds for a node at rest.
func TestCollectLate(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) }()
	settings := func() [2]uint64 {
		s := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
		runtimemetrics.Read(s)
		return [2]uint64{s[0].Value.Uint64(), s[1].Value.Uint64()}
	}
	collectLate()
	if got := settings(); got != [2]uint64{math.MaxUint64, startMemory} {
		t.Errorf("percent and limit of a start: %d", got)
	}
	runtime.GC()
	for begin := time.Now(); settings() != [2]uint64{restPercent, math.MaxInt64}; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("percent and limit after the first collection: %d", settings())
		}
	}
}
