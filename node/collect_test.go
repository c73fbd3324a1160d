package node

import (
	"context"
	"errors"
	"runtime"
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
