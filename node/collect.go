package node

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	// restTime is how long no run ended before the node is taken to be at rest.
	restTime = 40 * time.Millisecond
	// restShare of the room that the heap has to grow, used up, makes a collection at rest worth it.
	restShare = 0.25
	// restFactor times what a collection took is when the next may be: while run follows run, each rest is a short one.
	restFactor = 8
	// startPause is between two looks whether a node has started, as far as collecting goes.
	startPause = 200 * time.Millisecond
	// startMemory, in bytes, is what a node that starts may have of the runtime's memory before the first collection.
	startMemory = 128 << 20
	// restPercent is by how much the heap may grow between two collections: a node is mostly idle, so that a smaller heap
	// is worth more than fewer collections.
	restPercent = 50
)

// collectLate has the first collection wait until there is startMemory, or until the node has started and rests: a start
// makes much that is dropped when all is in the kernel, and many small collections cost it a tenth of its time.
func collectLate() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startMemory)
	// The first collection drops it. Without a pointer in it, it would share its memory with others, and could stay.
	dropped := &struct{ self *int }{new(int)}
	runtime.AddCleanup(dropped, func(struct{}) {
		debug.SetGCPercent(restPercent)
		debug.SetMemoryLimit(math.MaxInt64)
	}, struct{}{})
}

// collector collects garbage while nothing happens, so that the next change does not meet a
// collection half way: in a cluster of thousands this takes longer than the change itself. It collects once
// when the node has started, and after that never twice without much having been allocated between.
type collector struct {
	ran     chan struct{} // of capacity 1: a run ended
	started func() bool   // the node has: until then nothing is collected here
}

func newCollector() *collector {
	return &collector{ran: make(chan struct{}, 1), started: func() bool { return true }}
}

// kick tells that a run ended. It never blocks.
func (c *collector) kick() {
	select {
	case c.ran <- struct{}{}:
	default:
	}
}

// run collects until ctx ends, whose cause it returns.
func (c *collector) run(ctx context.Context) error {
	rest := time.NewTimer(time.Hour)
	rest.Stop()
	var next time.Time
	fresh := true // nothing has been collected here
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ran:
			rest.Reset(restTime)
		case <-rest.C:
			if wait := time.Until(next); wait > 0 {
				rest.Reset(max(wait, restTime))
			} else if fresh && !c.started() {
				rest.Reset(startPause)
			} else if fresh || worthCollecting() {
				began := time.Now()
				if fresh {
					// What the start took is not needed again. Buffers in pools outlive one collection.
					runtime.GC()
					debug.FreeOSMemory()
				} else {
					runtime.GC()
				}
				fresh = false
				next = time.Now().Add(restFactor * time.Since(began))
			}
		}
	}
}

func worthCollecting() bool {
	s := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	runtimemetrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() != runtimemetrics.KindUint64 {
			return false // this runtime does not tell
		}
	}
	live, goal, now := s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64()
	return goal > live && now > live && float64(now-live) > restShare*float64(goal-live)
}
