package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// NetnsDir is where named network namespaces are mounted, as ip-netns(8) does it.
const NetnsDir = "/run/netns"

const nsfsMagic = 0x6e736673 // linux/magic.h NSFS_MAGIC

// NetnsPath returns the path of the network namespace called name.
func NetnsPath(name string) string { return filepath.Join(NetnsDir, name) }

// checkNetnsName refuses names that would lead out of NetnsDir or that a shell or ip(8) could
// misread.
func checkNetnsName(name string) error {
	if name == "" || len(name) > 255 || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("network namespace name %q: want 1 to 255 of a-z, A-Z, 0-9, '.', '_' and '-', not starting with '.' or '-'", name)
	}
	for _, c := range name {
		ok := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return fmt.Errorf("network namespace name %q: character %q is not allowed; use a-z, A-Z, 0-9, '.', '_' and '-'", name, c)
		}
	}
	return nil
}

// NewNamedNetns creates a network namespace and mounts it at /run/netns/NAME as `ip netns add`
// does, so that it lives until DeleteNamedNetns. It returns that path. An existing name is an error
// that wraps os.ErrExist.
func NewNamedNetns(name string) (path string, err error) {
	if err := checkNetnsName(name); err != nil {
		return "", err
	}
	if err := os.MkdirAll(NetnsDir, 0o755); err != nil {
		return "", fmt.Errorf("create network namespace %s: %w", name, err)
	}
	path = NetnsPath(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return "", fmt.Errorf("create network namespace %s: %w", name, err)
	}
	f.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare (needs root): %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount at %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		os.Remove(path)
		return "", fmt.Errorf("create network namespace %s: %w", name, err)
	}
	return path, nil
}

// DeleteNamedNetns unmounts and removes /run/netns/NAME; an absent one is not an error. The
// namespace itself goes when its last process and socket are gone.
func DeleteNamedNetns(name string) error {
	if err := checkNetnsName(name); err != nil {
		return err
	}
	path := NetnsPath(name)
	for {
		// A crash between two attempts to create may have left mounts on top of each other.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // no mount point, or no file
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", name, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// NetnsExists tells whether a network namespace is mounted at /run/netns/NAME. A plain file of that
// name, as a crash may leave, does not count.
func NetnsExists(name string) (bool, error) {
	if err := checkNetnsName(name); err != nil {
		return false, err
	}
	var st unix.Statfs_t
	err := unix.Statfs(NetnsPath(name), &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at network namespace %s: %w", name, err)
	}
	return st.Type == nsfsMagic, nil
}

// Do runs f in the network namespace at nsPath, on a thread of its own that ends with the call: no
// other goroutine ever runs in that namespace by accident. Goroutines that f starts do not run
// there; processes that f starts do, and so do sockets that f opens, for as long as they live.
func Do(nsPath string, f func() error) error {
	ns, err := os.Open(nsPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", nsPath, err)
	}
	defer ns.Close()
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", nsPath, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that is thrown away afterwards. The process's first thread is
// never used, since the runtime cannot end it and /proc/self shows its namespaces.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine (runtime.Goexit)")
		defer func() { result <- err }()
		runtime.LockOSThread() // and no unlock: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			err = onOwnThread(f) // we hold the first thread, so that this takes another
			return
		}
		err = f()
	}()
	return <-result
}
