package fib

import (
	"errors"
	"fmt"
	"testing"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/routing"
)

func TestLearnedOnly(t *testing.T) {
	learned := []routing.Route{{Dst: prefix("198.51.100.0/24")}, {Dst: prefix("203.0.113.0/24")}}
	entry := func(dst string) error {
		return &reconcile.EntryError{Verb: "put", Key: kernel.RouteKey{Dst: prefix(dst)}, Err: errors.New("no")}
	}
	for what, tc := range map[string]struct {
		err  error
		want bool
	}{
		"one learned":           {fmt.Errorf("apply: %w", entry("198.51.100.0/24")), true},
		"two":                   {errors.Join(entry("198.51.100.0/24"), entry("203.0.113.0/24")), true},
		"one of another node":   {errors.Join(entry("198.51.100.0/24"), entry("10.244.0.0/26")), false},
		"the table is not read": {errors.New("no"), false},
		"both":                  {errors.Join(entry("198.51.100.0/24"), errors.New("no")), false},
	} {
		if got := learnedOnly(tc.err, learned); got != tc.want {
			t.Errorf("%s: %v, want %v", what, got, tc.want)
		}
	}
}
