package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
	"weft/policy"
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

// What is in a flow table is deleted after that was emptied, and again until the kernel took it out; another error, or a
// flush that fails, ends it.
func TestEmptied(t *testing.T) {
	other := errors.New("other")
	for name, c := range map[string]struct {
		flush, del error // of every call
		free       int   // calls until it is deleted
		want       error
		dels       int
	}{
		"at once":     {nil, unix.EBUSY, 1, nil, 1},
		"late":        {nil, unix.EBUSY, 5, nil, 5},
		"never":       {nil, unix.EBUSY, busyAttempts + 1, unix.EBUSY, busyAttempts},
		"other error": {nil, other, 5, other, 1},
		"no flush":    {other, nil, 1, other, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			flushed, dels := 0, 0
			n, err := emptied(t.Context(), func(context.Context) error { flushed++; return c.flush }, func() (int, error) {
				if dels++; flushed == 0 {
					t.Errorf("%s: deleted before the flow table was emptied", name)
				}
				if dels >= c.free {
					return 1, nil
				}
				return 0, fmt.Errorf("change an entry: %w", c.del)
			})
			if !errors.Is(err, c.want) || dels != c.dels || (n == 1) != (c.want == nil) {
				t.Errorf("%s: %d deleted in %d attempts, %v; want %d, %v", name, n, dels, err, c.dels, c.want)
			}
		})
	}
}

// Where denied connections are deleted, one that is marked already is deleted too, and each is marked before.
func TestDeletesWhatIsMarked(t *testing.T) {
	pod, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	nothing := &policy.Program{Endpoints: map[string]*policy.Endpoint{"weft1": {Device: "weft1", Sources: []netip.Prefix{model.HostPrefix(pod)}}}}
	for _, mark := range []uint32{0, kernel.HeldMark} {
		l := &look{deletes: true, acted: map[[4]byte]struct{}{}, judge: newJudge(t.Context(), nil, nothing, nil, nil)}
		l.entry(&entry{src: pod, dst: other, to: other, mark: mark, rawID: make([]byte, 4)})
		if len(l.hold) != 1 || len(l.shut) != 1 || l.hold[0].typ != msgDelete || l.shut[0].typ != msgNew {
			t.Errorf("mark %#x: deletes %v, marks %v", mark, l.hold, l.shut)
		}
	}
}
