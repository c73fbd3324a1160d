package datastore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/node/datastore"
)

// outage is a Store of many parts that is away for a time.
type outage struct {
	datastore.Store
	from, to time.Time

	mu       sync.Mutex
	attempts int // while it was away
}

func (o *outage) Partition(kinds []string) [][]string {
	return (&parted{}).Partition(kinds)
}

func (o *outage) List(context.Context, ...string) (*datastore.List, error) {
	return &datastore.List{Revision: "1", History: "h"}, nil
}

func (o *outage) Stream(ctx context.Context, _ string, _ []string, f func(datastore.Batch) error) error {
	now := time.Now()
	switch {
	case now.Before(o.from):
		_ = f(datastore.Batch{CaughtUp: true})
		time.Sleep(o.from.Sub(now))
	case now.Before(o.to):
		o.mu.Lock()
		defer o.mu.Unlock()
		o.attempts++
	default:
		_ = f(datastore.Batch{CaughtUp: true})
		<-ctx.Done()
		return ctx.Err()
	}
	return errAway
}

// After a minute without the store, all parts have it back within two seconds, since the first that gets through tells the
// others: none asks more often meanwhile than every 2.5 seconds.
func TestPartsComeBackTogether(t *testing.T) {
	const kinds = 25
	var names []string
	for i := range kinds {
		names = append(names, fmt.Sprint("Kind", i))
	}
	var latest time.Duration
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			o := &outage{from: time.Now().Add(time.Second), to: time.Now().Add(61 * time.Second)}
			s := &stamps{}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			_ = datastore.Follow(ctx, o, names, s, datastore.FollowOptions{})
			if len(s.inSync) != 2 {
				t.Fatalf("in sync %d times, want before and after", len(s.inSync))
			}
			latest = max(latest, s.inSync[1].Sub(o.to))
			if most := kinds * (60*2/5 + 7); o.attempts > most {
				t.Errorf("%d attempts while the store was away, want at most %d", o.attempts, most)
			}
		})
	}
	t.Logf("all parts in sync at most %v after the store was back (n=20)", latest)
	if latest > 2*time.Second {
		t.Errorf("all parts are in sync %v after the store is back, want within 2 s", latest)
	}
}

// stamps notes when all is in sync.
type stamps struct{ inSync []time.Time }

func (s *stamps) OnChanges([]datastore.Change) {}

func (s *stamps) OnState(st datastore.State, _ error) {
	if st == datastore.StateInSync {
		s.inSync = append(s.inSync, time.Now())
	}
}
