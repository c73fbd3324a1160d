package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a held lock is tried again.
const lockPoll = 20 * time.Millisecond

// lock is an flock(2) on a file; it ends with the process at the latest.
type lock struct{ f *os.File }

func (k lock) release() { k.f.Close() }

// lockFile takes the lock on path. Without create an absent file is an error that wraps
// fs.ErrNotExist. waiting is called once when somebody else holds the lock.
func lockFile(ctx context.Context, path string, how int, create bool, waiting func()) (lock, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	told := false
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return lock{}, err
		}
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return lock{f}, nil
		}
		f.Close()
		if err == nil {
			continue // whoever held it removed the file: another one may be there now
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return lock{}, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told && waiting != nil {
			waiting()
		}
		told = true
		if !sleep(ctx, lockPoll) {
			return lock{}, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// lockAlone keeps every other verb of this lab out: for up and down.
func (l *Lab) lockAlone(ctx context.Context) (lock, error) {
	waiting := func() { l.say("waiting for another weft lab command on lab %s to end", l.name) }
	for {
		if err := os.MkdirAll(l.root, 0o755); err != nil {
			return lock{}, fmt.Errorf("make the directory of labs: %w", err)
		}
		k, err := lockFile(ctx, l.lockPath(), unix.LOCK_EX, true, waiting)
		if !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return k, err
		}
		// The last lab went down between the two and took the directory with it.
	}
}

// lockRoot serialises what concerns all labs of this machine; it is held for moments only.
func (l *Lab) lockRoot(ctx context.Context) (lock, error) {
	f, err := os.Open(l.root)
	if err != nil {
		return lock{}, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock{f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || !sleep(ctx, lockPoll) {
			f.Close()
			return lock{}, fmt.Errorf("lock %s: %w", l.root, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// lockShared keeps up and down out while this verb runs, and refuses a lab that is not up.
func (l *Lab) lockShared(ctx context.Context) (lock, state, error) {
	k, err := lockFile(ctx, l.lockPath(), unix.LOCK_SH, false, func() { l.say("waiting for weft lab up or down of lab %s to end", l.name) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, state{}, err
	}
	s, stateErr := l.readState()
	if stateErr != nil || err != nil {
		if err == nil {
			k.release()
		}
		return k, s, errors.Join(stateErr, notExist(err))
	}
	return k, s, nil
}

// notExist drops the error of an absent lock file where the state says the same in better words.
func notExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lockOne serialises what is done to one node or pod.
func (l *Lab) lockOne(ctx context.Context, name string) (lock, error) {
	return lockFile(ctx, filepath.Join(l.dir, ".locks", name), unix.LOCK_EX, true, nil)
}

func (l *Lab) lockPath() string { return filepath.Join(l.root, l.name+".lock") }
