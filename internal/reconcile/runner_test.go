package reconcile

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunnerCoalescesAndAwaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		r := NewRunner(func(context.Context, bool) error {
			runs++
			time.Sleep(100 * time.Millisecond)
			return nil
		}, RunnerOptions{RetryMin: time.Second, RetryMax: time.Minute, Resync: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.Kick()
		synctest.Wait()
		for range 100 { // all of these arrive during the first run
			r.Kick()
		}
		if err := r.Await(ctx); err != nil {
			t.Fatal(err)
		}
		if runs != 2 {
			t.Errorf("got %d runs for 101 kicks, want 2", runs)
		}
		cancel()
		<-done
	})
}

func TestRunnerRetriesWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		r := NewRunner(func(context.Context, bool) error {
			at = append(at, time.Since(start))
			if len(at) < 4 {
				return errors.New("refused")
			}
			return nil
		}, RunnerOptions{RetryMin: time.Second, RetryMax: 2 * time.Second, Resync: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		if err := r.Await(ctx); err == nil {
			t.Error("the first run's error did not reach the caller that waited for it")
		}
		time.Sleep(30 * time.Second)
		want := []time.Duration{0, time.Second, 3 * time.Second, 5 * time.Second}
		if len(at) != len(want) {
			t.Fatalf("runs at %v, want %v", at, want)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("runs at %v, want %v", at, want)
				break
			}
		}
		cancel()
		<-done
	})
}

func TestRunnerFullResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := 0
		r := NewRunner(func(_ context.Context, f bool) error {
			if f {
				full++
			}
			return nil
		}, RunnerOptions{RetryMin: time.Second, RetryMax: time.Second, Resync: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10*time.Minute + time.Second)
		if full != 10 {
			t.Errorf("got %d full runs in 10 minutes, want 10", full)
		}
		cancel()
		<-done
	})
}

func TestAwaitEndsWithRun(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	begun := make(chan struct{})
	r := NewRunner(func(ctx context.Context, _ bool) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}, RunnerOptions{Resync: time.Hour, RetryMin: time.Hour, RetryMax: time.Hour})
	ran := make(chan error)
	go func() { ran <- r.Run(ctx) }()
	r.Kick()
	<-begun
	awaits := make(chan error)
	go func() { awaits <- r.Await(context.Background()) }()
	stop()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	// The run that was under way may have covered it or not.
	if err := <-awaits; !errors.Is(err, ErrEnded) && !errors.Is(err, context.Canceled) {
		t.Errorf("Await: %v", err)
	}
	if err := r.Await(context.Background()); !errors.Is(err, ErrEnded) {
		t.Errorf("Await after the end: %v", err)
	}
}
