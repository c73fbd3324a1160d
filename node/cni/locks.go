package cni

import (
	"context"
	"sync"
)

// locks serialises what is done to one container or one pod; different ones go on in parallel.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	users int
	free  chan struct{} // holds a token while nobody has the lock
}

func newLocks() *locks { return &locks{held: map[string]*lock{}} }

// take waits for name and returns what gives it back, or the context's error.
func (l *locks) take(ctx context.Context, name string) (func(), error) {
	l.mu.Lock()
	k := l.held[name]
	if k == nil {
		k = &lock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()
	select {
	case <-k.free:
		return func() {
			k.free <- struct{}{}
			l.drop(name, k)
		}, nil
	case <-ctx.Done():
		l.drop(name, k)
		return nil, context.Cause(ctx)
	}
}

func (l *locks) drop(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
