package testkit

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessorTime is what this process and those of its children that ended have used of all processors so
// far, in the kernel too. On a shared machine it says more than the clock.
func ProcessorTime() (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u) // which cannot fail for these
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// Within runs f and logs how long it took, and what it says of itself. It fails the test if both the clock
// and the processor time, which is what an idle machine would need at most, are beyond the limit.
func Within(t testing.TB, what string, limit time.Duration, f func() (any, error)) {
	t.Helper()
	start, busy := time.Now(), ProcessorTime()
	got, err := f()
	took, used := time.Since(start), ProcessorTime()-busy
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if min(took, used) > limit && !Emulated() {
		t.Errorf("%s took %v, %v of processor time, want at most %v", what, took, used, limit)
	}
	t.Logf("%-44s %8v, %8v of processor time (%v)", what, took.Round(10*time.Microsecond), used.Round(10*time.Microsecond), got)
}
