// Package keys keeps this node's WireGuard keys in files, one for each epoch (encryption.NextKeys says
// which there are). It owns the directory encryption below the data directory, and what is in it: nobody
// but root reads it, and no key is ever printed.
package keys

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"weft/encryption"
)

const (
	directory = "encryption"
	prefix    = "key-"
	// length of a key file in bytes: 32 bytes in base64, as wg(8) has them, and a line feed.
	length = 45
)

// Dir is the directory of the key files. Its methods are called by one goroutine.
type Dir struct{ path string }

// In returns the directory below a node's data directory. It touches nothing yet.
func In(dataDir string) Dir { return Dir{filepath.Join(dataDir, directory)} }

// Path is the key file of an epoch.
func (d Dir) Path(epoch int) string { return filepath.Join(d.path, prefix+strconv.Itoa(epoch)) }

// Epochs returns the epochs that there is a key file of, sorted. Whether it can be read is not asked.
func (d Dir) Epochs() ([]int, error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the WireGuard keys: %w", err)
	}
	var out []int
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(name); ok && err == nil && n >= 0 && name == strconv.Itoa(n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Load reads the key of an epoch; absent is an error that wraps fs.ErrNotExist. A file that is not
// whole, not only root's, or no file is an error that says what to do, and is left as it is.
func (d Dir) Load(epoch int) (encryption.PrivateKey, error) {
	if err := checkDir(d.path); err != nil {
		return encryption.PrivateKey{}, fmt.Errorf("WireGuard key of epoch %d: %w", epoch, err)
	}
	key, err := load(d.Path(epoch))
	if err != nil {
		return encryption.PrivateKey{}, fmt.Errorf("WireGuard key of epoch %d: %w", epoch, err)
	}
	return key, nil
}

// remedy is what to do about a key file that cannot be used.
const remedy = "remove it, and the node makes another key that its peers learn by themselves; whoever may have read the old one can no longer use it then"

func load(path string) (encryption.PrivateKey, error) {
	var none encryption.PrivateKey
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return none, fmt.Errorf("%s is a symbolic link, want a file: %s", path, remedy)
	}
	if err != nil {
		return none, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return none, err
	case !info.Mode().IsRegular():
		return none, fmt.Errorf("%s is %v, want a file: %s", path, info.Mode().Type(), remedy)
	case info.Mode().Perm()&0o077 != 0:
		return none, fmt.Errorf("%s may be read or written by others (mode %04o, want 0600): %s", path, info.Mode().Perm(), remedy)
	case !own(info):
		return none, fmt.Errorf("%s belongs to another user than this process's: %s", path, remedy)
	case info.Size() != length:
		return none, fmt.Errorf("%s has %d bytes, want %d: %s", path, info.Size(), length, remedy)
	}
	b, err := io.ReadAll(io.LimitReader(f, length))
	if err != nil {
		return none, err
	}
	defer clear(b)
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(b), "\n"))
	defer clear(raw)
	if err != nil || len(raw) != 32 {
		return none, fmt.Errorf("%s is corrupt: want 32 bytes in base64: %s", path, remedy)
	}
	key, err := encryption.NewPrivateKey([32]byte(raw))
	if err != nil {
		return none, fmt.Errorf("%s: %w: %s", path, err, remedy)
	}
	return key, nil
}

func own(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Ensure loads the key of an epoch, or generates it where there is none.
func (d Dir) Ensure(epoch int) (encryption.PrivateKey, error) {
	key, err := d.Load(epoch)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := d.generate(epoch); err != nil {
		return encryption.PrivateKey{}, fmt.Errorf("make the WireGuard key of epoch %d: %w", epoch, err)
	}
	// What is used is what a restarted node reads.
	return d.Load(epoch)
}

// generate writes a new key so that the file is there whole or not at all, also after a power cut, and
// never replaces one.
func (d Dir) generate(epoch int) (err error) {
	if epoch < 0 {
		return fmt.Errorf("epoch %d: want 0 or more", epoch)
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	if err := checkDir(d.path); err != nil {
		return err
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	key, err := encryption.NewPrivateKey(random)
	if err != nil {
		return err
	}
	raw := key.Bytes()
	text := append(base64.StdEncoding.AppendEncode(nil, raw[:]), '\n')
	defer func() { clear(random[:]); clear(raw[:]); clear(text) }()
	f, err := os.CreateTemp(d.path, "new-") // 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), d.Path(epoch)); err != nil { // fails where there is one
		return err
	}
	return syncDir(d.path)
}

// checkDir refuses a directory in which others could put a file.
func checkDir(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is %v, want a directory: move it away", path, info.Mode().Type())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("directory %s is open to others (mode %04o, want 0700): find out who could read the keys, then chmod 700 %s", path, info.Mode().Perm(), path)
	case !own(info):
		return fmt.Errorf("directory %s belongs to another user than this process's: find out why, then chown it", path)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove removes the key of an epoch; an absent one is not an error.
func (d Dir) Remove(epoch int) error {
	err := os.Remove(d.Path(epoch))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("remove the WireGuard key of epoch %d: %w", epoch, err)
	}
	return nil
}

// Follow does what encryption.NextKeys says and returns the keys in use by epoch. A key that cannot be
// had is an error and missing from the result; the others are there.
func (d Dir) Follow(s encryption.KeySteps) (map[int]encryption.PrivateKey, error) {
	out := make(map[int]encryption.PrivateKey, len(s.Use))
	var errs []error
	for _, epoch := range s.Use {
		get := d.Load
		if slices.Contains(s.Generate, epoch) {
			get = d.Ensure
		}
		key, err := get(epoch)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[epoch] = key
	}
	for _, epoch := range s.Remove {
		errs = append(errs, d.Remove(epoch))
	}
	return out, errors.Join(errs...)
}
