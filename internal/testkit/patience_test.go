package testkit

import (
	"testing"
	"time"
)

func TestStretch(t *testing.T) {
	for _, c := range []struct {
		load float64
		want time.Duration
	}{{0, time.Second}, {2, time.Second}, {5, 2500 * time.Millisecond}, {100, 8 * time.Second}} {
		if got := stretch(time.Second, c.load, 2); got != c.want {
			t.Errorf("load %v on 2 processors: got %v, want %v", c.load, got, c.want)
		}
	}
}
