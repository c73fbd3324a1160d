package kube

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"weft/node/datastore"
)

// awaitKind waits until an optional kind is there. Its definition is watched: 5,000 nodes that ask again and again
// would be most of what an API server at rest is asked.
func (w *watcher) awaitKind(ctx context.Context) error {
	if err := w.deliver(nil, true); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defined, done := make(chan struct{}, 1), make(chan struct{})
	go func() { defer close(done); w.watchDefinition(ctx, defined) }()
	defer func() { cancel(); <-done }()
	wait := absentPoll
	t := time.NewTimer(wait/2 + rand.N(wait))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-defined:
			wait = appears
		case <-t.C:
			wait = min(2*wait, absentPoll)
		}
		head, err := w.store.head(ctx, w.source)
		if err != nil {
			return err
		}
		if head != notThere {
			return fmt.Errorf("%s is there now: %w", w.source.kind, datastore.ErrCompacted)
		}
		t.Reset(wait/2 + rand.N(wait))
	}
}

// watchDefinition tells, until ctx ends, when the CustomResourceDefinition of the kind comes or changes. Where it may not
// be watched, or the kind is Kubernetes' own, it tells nothing.
func (w *watcher) watchDefinition(ctx context.Context, defined chan<- struct{}) {
	if w.source.group == "" {
		return
	}
	definition := &watcher{store: w.store, source: &source{kind: "CustomResourceDefinition", group: "apiextensions.k8s.io", version: "v1",
		resource: "customresourcedefinitions", fields: "metadata.name=" + w.source.resource + "." + w.source.group}}
	pause := definitionRetry
	for ctx.Err() == nil {
		lasts := watchTime + rand.N(watchTime)
		begin := time.Now()
		answered, err := definition.events(ctx, lasts, func() {
			select {
			case defined <- struct{}{}:
			default:
			}
		})
		if err == nil && time.Since(begin) > lasts/2 {
			continue // as agreed
		}
		if answered > pause { // an API server that was there has ended, to begin anew
			pause = definitionRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, absentPoll)
	}
}

// events calls f for each event of one watch that begins with what is there. It returns for how long the watch was open.
func (w *watcher) events(ctx context.Context, lasts time.Duration, f func()) (answered time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := w.open(ctx, cancel, lasts)
	if err != nil {
		return 0, err
	}
	opened := time.Now()
	defer func() { _ = body.Close() }()
	in, ended := make(chan frame), make(chan error, 1)
	go func() { ended <- w.read(ctx, body, in); close(in) }()
	for e := range in {
		if e.event == watch.Added || e.event == watch.Modified {
			f()
		}
	}
	if err := <-ended; err != nil && ctx.Err() == nil && !endedWell(err) {
		return time.Since(opened), err
	}
	return time.Since(opened), nil
}
