package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlPath turns "net/ipv4/ip_forward" into its file. Elements are separated by slashes, so that
// a device name may hold dots.
func sysctlPath(path string) (string, error) {
	if !strings.HasPrefix(path, "net/") || filepath.Clean(path) != path || strings.Contains(path, "..") {
		return "", fmt.Errorf("sysctl %q: want a path below net/, such as net/ipv4/ip_forward", path)
	}
	// /proc/sys/net shows the network namespace of the thread that opens the file, so that this
	// works inside Do as well.
	return filepath.Join("/proc/sys", path), nil
}

// containerSysctls is where a container that is not privileged has the host's /proc/sys/net mounted: its own is read-only.
const containerSysctls = "/host/proc/sys"

// writeSysctl writes a sysctl, as sysctlPath takes it, of the calling thread's network namespace.
func writeSysctl(path, value string) error {
	file, err := sysctlPath(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, unix.EROFS) {
		var there error
		if f, there = os.OpenFile(filepath.Join(containerSysctls, path), os.O_WRONLY, 0); there == nil {
			err = nil
		} else {
			err = errors.Join(err, there)
		}
	}
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("write sysctl %s = %s (it needs root and a writable /proc/sys/net; in a container the host's, mounted at %s/net): %w",
			path, value, containerSysctls, err)
	}
	return nil
}

// GetSysctl reads a network sysctl, such as "net/ipv4/ip_forward", of the calling thread's network
// namespace. An absent one is an error that wraps os.ErrNotExist.
func GetSysctl(path string) (string, error) {
	file, err := sysctlPath(path)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", path, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// SetSysctl gives a network sysctl of the calling thread's network namespace a value: it writes
// only when the value differs, and reads it back.
func SetSysctl(path, value string) error {
	have, err := GetSysctl(path)
	if err != nil {
		return err
	}
	if have == value {
		return nil
	}
	if err := writeSysctl(path, value); err != nil {
		return err
	}
	if have, err = GetSysctl(path); err != nil {
		return err
	}
	if have != value {
		return fmt.Errorf("write sysctl %s = %s: the kernel kept %s", path, value, have)
	}
	return nil
}

// GetSysctlAt is GetSysctl in the network namespace at nsPath.
func GetSysctlAt(nsPath, path string) (string, error) {
	var v string
	err := Do(nsPath, func() (err error) {
		v, err = GetSysctl(path)
		return err
	})
	return v, err
}

// SetSysctlAt is SetSysctl in the network namespace at nsPath.
func SetSysctlAt(nsPath, path, value string) error {
	return Do(nsPath, func() error { return SetSysctl(path, value) })
}
