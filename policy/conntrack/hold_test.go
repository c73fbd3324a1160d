package conntrack

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/nft"
)

// What was not found for a moment is no lack of the kernel's: only a rule that it does not know is.
func TestLacking(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{unix.ENOENT, false},
		{fmt.Errorf("delete the table: %w", unix.ENOENT), false},
		{fmt.Errorf("program: %w", &nft.Refusal{Set: "s", Rule: -1, Err: unix.ENOENT}), false},
		{fmt.Errorf("program: %w", errors.Join(&nft.Refusal{Chain: "held-in", Rule: 0, Err: unix.ENOENT})), true},
		{&nft.Refusal{Chain: "held-in", Rule: 0, Err: unix.EBUSY}, false},
		{fmt.Errorf("open: %w", unix.EPROTONOSUPPORT), true},
	} {
		if got := lacking(c.err); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}
