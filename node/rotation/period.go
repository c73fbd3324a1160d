package rotation

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// Period returns how long keys are to be used, by the FelixConfiguration "default"; 0: for ever.
func Period(f *v3.FelixConfiguration) time.Duration {
	if f == nil || f.Spec.WireguardKeyRotationPeriod == nil {
		return 0
	}
	return f.Spec.WireguardKeyRotationPeriod.Duration
}

// Since returns when the current epoch began; false when nobody noted that, as after an edit of the epoch alone.
func Since(f *v3.FelixConfiguration) (time.Time, bool) {
	if f == nil {
		return time.Time{}, false
	}
	epoch := 0
	if f.Spec.WireguardKeyEpoch != nil {
		epoch = *f.Spec.WireguardKeyEpoch
	}
	of, at, _ := strings.Cut(f.Annotations[Mark], " ")
	since, err := time.Parse(time.RFC3339, at)
	return since, err == nil && of == strconv.Itoa(epoch)
}

// NotYetError says that the period is over, and what the next epoch waits for.
type NotYetError struct{ Why error }

// Error implements error.
func (e *NotYetError) Error() string { return fmt.Sprintf("the keys are due to rotate: %v", e.Why) }

// Follow does what is due at a moment, by what the store says then, and returns when to ask again; 0: when the settings
// change. period, if not 0, stands for what the FelixConfiguration says, where that is not 0. Of many nodes that ask at
// the same time one begins the next epoch; for the others there is nothing to do. A *NotYetError says
// that an earlier rotation, or that of switching encryption on, is not over.
func Follow(ctx context.Context, store datastore.Store, now time.Time, period time.Duration) (wait time.Duration, begun *Step, err error) {
	k, err := Read(ctx, store)
	if err != nil {
		return 0, nil, err
	}
	f := k.felix["default"]
	if Period(f) == 0 || !k.on {
		return 0, nil, nil
	}
	if period == 0 {
		period = Period(f)
	}
	since, known := Since(f)
	if !known {
		// From here on it is known. Nobody is to rotate earlier than that.
		return period, nil, lost(k.write(ctx, store, func(f *v3.FelixConfiguration) { mark(f, k.Epoch(), now) }))
	}
	if wait := period - now.Sub(since); wait > 0 {
		return wait, nil, nil
	}
	if err := k.MayRotate(false); err != nil {
		return 0, nil, &NotYetError{err}
	}
	step, err := k.Begin(ctx, store, now)
	switch {
	case err == nil:
		return period, &step, nil
	case lost(err) == nil:
		return period, nil, nil
	}
	return 0, nil, fmt.Errorf("begin epoch %d of the keys: %w", step.To, err)
}

// lost takes it for no error that somebody else was faster.
func lost(err error) error {
	if errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrAlreadyExists) {
		return nil
	}
	return err
}
