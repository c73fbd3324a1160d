package traffic

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCounter(t *testing.T) {
	var c counter
	for i, seq := range []uint64{0, 1, 4, 3, 4, 130} {
		if !c.add(seq, 200, int64(i)*10, int64(i)*100+5) {
			t.Errorf("%d was refused", seq)
		}
	}
	if c.add(200, 200, 0, 0) {
		t.Error("a number that was never sent was taken")
	}
	if c.received != 5 || c.duplicated != 1 || c.reordered != 1 || c.next != 131 {
		t.Errorf("received %d, duplicated %d, reordered %d, next %d; want 5, 1, 1, 131", c.received, c.duplicated, c.reordered, c.next)
	}
	// 3 arrived at 305, 130 at 505: what came twice is no sign of life of the stream.
	if c.longestGap != 200*time.Nanosecond || c.latency != 455*time.Nanosecond {
		t.Errorf("longest gap %v, latency %v; want 200ns, 455ns", c.longestGap, c.latency)
	}
	if diff := cmp.Diff([]Range{{2, 1}, {5, 125}, {131, 69}}, c.missing(200, 10)); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if got := c.missing(200, 1); len(got) != 1 {
		t.Errorf("%d runs, want the first only", len(got))
	}
}

// A range is counted as going through it one by one does.
func TestCounterBetween(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c counter
		for _, seq := range rapid.SliceOf(rapid.Uint64Range(0, 300)).Draw(t, "arrived") {
			c.add(seq, 301, 0, 0)
		}
		a, b := rapid.Uint64Range(0, 400).Draw(t, "a"), rapid.Uint64Range(0, 400).Draw(t, "b")
		var want uint64
		for seq := a; seq < b; seq++ {
			if c.got(seq) {
				want++
			}
		}
		if got := c.between(a, b); got != want {
			t.Fatalf("between %d and %d: %d, want %d", a, b, got, want)
		}
	})
}

func TestCompare(t *testing.T) {
	n := uint64(len(content))
	whole := append(append([]byte{}, content...), content[:100]...)
	if got := compare(whole, 3*n); got != -1 {
		t.Errorf("the content itself differs at %d", got)
	}
	whole[n+7]++
	if got := compare(whole, 0); got != int(n+7) {
		t.Errorf("differs at %d, want %d", got, n+7)
	}
	if got := compare(content[:50], 1); got < 0 {
		t.Error("content that is shifted by one byte passes")
	}
}

// The gap of a window is that of its packets, not of the others.
func TestGapBetween(t *testing.T) {
	var c counter
	at := int64(0)
	for seq := range uint64(1000) {
		at += 1e6
		if seq == 500 {
			at += 50e6
		}
		c.add(seq, 1000, at, at)
	}
	for _, w := range []struct {
		a, b uint64
		want time.Duration
	}{{0, 400, time.Millisecond}, {450, 600, 51 * time.Millisecond}, {600, 999, time.Millisecond}} {
		if got := c.gapBetween(w.a, w.b); got != w.want {
			t.Errorf("%d to %d: %v, want %v", w.a, w.b, got, w.want)
		}
	}
}
