package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"weft/internal/kernel"
)

// routeEvents collects the changes of our routes in one namespace.
type routeEvents struct {
	cancel context.CancelFunc
	done   chan struct{}
	mon    *kernel.Monitor

	mu  sync.Mutex
	got []string
}

func watchRoutes(t *testing.T, nsPath string) *routeEvents {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	mon, err := kernel.NewMonitor(ctx, nsPath)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	r := &routeEvents{cancel: cancel, done: make(chan struct{}), mon: mon}
	go func() {
		defer close(r.done)
		_ = mon.Run(ctx, func(e kernel.Event) {
			if e.Kind == kernel.EventRoute && e.Protocol == kernel.RouteProtocol || e.Kind == kernel.EventLost {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.got = append(r.got, fmt.Sprintf("%s removed=%v %v", e.Kind, e.Removed, e.RouteKey.Dst))
			}
		})
	}()
	return r
}

func (r *routeEvents) stop() []string {
	r.cancel()
	<-r.done
	r.mon.Close()
	return r.got
}
