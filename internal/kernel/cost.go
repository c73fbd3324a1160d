package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Cost returns how much processor time f takes on its thread, in the kernel too, and f's error.
func Cost(f func() error) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	err1 := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
	err := f()
	if err2 := errors.Join(err1, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)); err2 != nil {
		err = errors.Join(err, fmt.Errorf("read the thread's processor time: %w", err2))
	}
	return time.Duration(after.Nano() - before.Nano()), err
}
