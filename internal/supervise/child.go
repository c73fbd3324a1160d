package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readyFile is the file descriptor that the process writes to when it is ready (Ready), or why it
// cannot be.
const readyFile = 3

// Ready is what the process says when its socket answers.
const Ready = "ready"

// Busy begins what it says when somebody else has what it needs.
const Busy = "busy: "

// Readiness returns the file to say it in, or nil when nobody waits for it. It is called once.
func Readiness() *os.File {
	f := os.NewFile(readyFile, "ready")
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil
	}
	syscall.CloseOnExec(readyFile)
	return f
}

// Announce says that the process is ready, or the error that it is not, and closes the file, which may
// be nil.
func Announce(ready *os.File, err error) {
	if ready == nil {
		return
	}
	message := Ready
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EADDRINUSE):
		message = Busy + err.Error()
	case err != nil:
		message = err.Error()
	}
	_, _ = ready.WriteString(message)
	ready.Close()
}

// BoundedLog writes to a file that it empties when it grows over Max bytes: nobody rotates it.
type BoundedLog struct {
	File *os.File
	Max  int64

	mu sync.Mutex
}

// Write never fails: a full file system is no reason to end.
func (l *BoundedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := l.File.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > l.Max {
		_ = l.File.Truncate(0)
		_, _ = l.File.Seek(0, io.SeekStart)
	}
	_, _ = l.File.Write(b)
	return len(b), nil
}

// DropPrivileges keeps of the capabilities those of the mask only, for all threads and for good, and lets
// the process leave no core, which could hold secrets. The error is unix.ENOTSUP in a binary with cgo.
func DropPrivileges(keep uint32) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid cores: %w", err)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	now := have[0].Permitted & keep
	want := [2]unix.CapUserData{{Effective: now, Permitted: now}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0)
	if errno != 0 {
		return fmt.Errorf("set capabilities: %w", errno)
	}
	return nil
}
