// Package allocs pins how often something allocates: unlike its time, that is the same on a machine that others use too.
package allocs

import "testing"

// runs is over how many calls the number is averaged.
const runs = 20

// Most fails the test where a call of f allocates more often than limit, or less than half as often: then the limit is to
// be lowered, so that it keeps telling something. f is called 21 times; what it prepares counts too.
func Most(t testing.TB, limit float64, f func()) {
	t.Helper()
	got := testing.AllocsPerRun(runs, f)
	switch {
	case got > limit:
		t.Errorf("%.0f allocations an operation, want %.0f at most: find what made them with go test -run %s -memprofile, or say in the commit why more are needed", got, limit, t.Name())
	case got < limit/2:
		t.Errorf("%.0f allocations an operation, less than half of the limit %.0f: lower it", got, limit)
	}
	t.Logf("%.0f allocations an operation, limit %.0f", got, limit)
}
