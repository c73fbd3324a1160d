package keys

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/encryption"
)

func TestGeneratedOnce(t *testing.T) {
	d := In(t.TempDir())
	if _, err := d.Load(3); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an absent key: %v", err)
	}
	k, err := d.Ensure(3)
	if err != nil || k.IsZero() {
		t.Fatal(err)
	}
	for range 3 {
		again, err := d.Ensure(3)
		if err != nil || again != k {
			t.Fatalf("the key is another one, %v", err)
		}
	}
	if other, err := d.Ensure(4); err != nil || other == k {
		t.Errorf("the key of another epoch is the same, %v", err)
	}
	for path, want := range map[string]fs.FileMode{d.Path(3): 0o600, d.path: 0o700 | fs.ModeDir} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if epochs, err := d.Epochs(); err != nil || !cmp.Equal(epochs, []int{3, 4}) {
		t.Errorf("epochs %v, %v", epochs, err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.path, "new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := errors.Join(d.Remove(3), d.Remove(3)); err != nil {
		t.Error(err)
	}
	if epochs, _ := d.Epochs(); !cmp.Equal(epochs, []int{4}) {
		t.Errorf("epochs %v after one was removed", epochs)
	}
}

// TestBadFiles: each is refused with an error that names the file, says what to do and does not show the
// key, and the file is left as it is.
func TestBadFiles(t *testing.T) {
	good := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("secret-k", 4)))
	write := func(text string, mode fs.FileMode) func(string) error {
		return func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode))
		}
	}
	cases := []struct {
		name string
		make func(path string) error
		says string
	}{
		{"readable by others", write(good+"\n", 0o604), "may be read or written by others (mode 0604"},
		{"writable by the group", write(good+"\n", 0o620), "mode 0620"},
		{"empty", write("", 0o600), "has 0 bytes"},
		{"cut short", write(good[:20], 0o600), "has 20 bytes"},
		{"too long", write(good+"\n"+good, 0o600), "want 45"},
		{"not base64", write(strings.Repeat("!", 44)+"\n", 0o600), "corrupt"},
		{"of another length", write(base64.StdEncoding.EncodeToString(make([]byte, 33))+"\n", 0o600), "corrupt"},
		{"zero", write(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 0o600), "32 zero bytes"},
		{"a symbolic link", func(path string) error {
			other := path + "-elsewhere"
			return errors.Join(os.WriteFile(other, []byte(good+"\n"), 0o600), os.Symlink(other, path))
		}, "symbolic link"},
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, "want a file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := In(t.TempDir())
			if err := errors.Join(os.MkdirAll(d.path, 0o700), c.make(d.Path(0))); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(d.Path(0))
			k, err := d.Ensure(0)
			if err == nil || !k.IsZero() {
				t.Fatal("the key is taken")
			}
			for _, want := range []string{c.says, d.Path(0), "remove it"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), good[:10]) || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the key: %v", err)
			}
			if after, err := os.Lstat(d.Path(0)); err != nil || !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
	if _, err := load(writeGood(t, good)); err != nil {
		t.Errorf("the control, a good file: %v", err)
	}
}

func writeGood(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenDirectoryIsRefused(t *testing.T) {
	d := In(t.TempDir())
	if _, err := d.Ensure(0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []int{0, 1} {
		if _, err := d.Ensure(epoch); err == nil || !strings.Contains(err.Error(), "chmod 700 "+d.path) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

func TestFollow(t *testing.T) {
	d := In(t.TempDir())
	state := encryption.KeyState{Wanted: true}
	step := func(epoch int, inUse ...int) map[int]encryption.PrivateKey {
		t.Helper()
		var err error
		state.Epoch, state.InUse = epoch, inUse
		if state.Have, err = d.Epochs(); err != nil {
			t.Fatal(err)
		}
		keys, err := d.Follow(encryption.NextKeys(state))
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	first := step(0)[0]
	both := step(1, 0)
	if both[0] != first || both[1].IsZero() || len(both) != 2 {
		t.Errorf("during the rotation there are %d keys, the old one kept: %v", len(both), both[0] == first)
	}
	last := step(1, 1)
	if len(last) != 1 || last[1] != both[1] {
		t.Errorf("after the rotation there are %d keys, the new one kept: %v", len(last), last[1] == both[1])
	}
	if _, err := os.Lstat(d.Path(0)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old key's file: %v", err)
	}
}
