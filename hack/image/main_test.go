package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image larger than its limit is an error that says by how much, and leaves no file; one of the limit's size is made.
// What counts is what a node unpacks: zeros are small in the file only.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	random := make([]byte, 1_000_000)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	noise, zeros, out := write("noise", random), write("zeros", make([]byte, 1_000_000)), filepath.Join(dir, "image.tar")
	for _, c := range []struct {
		files []string
		limit float64 // MB
		says  string
	}{
		{[]string{noise}, 1.1, ""},
		{[]string{noise}, 0, ""}, // none
		{[]string{noise}, 0.9, "1.0 MB unpacked, of which noise 1.0 MB, and may have 0.9 MB"},
		{[]string{zeros}, 0.9, "1.0 MB unpacked"},
		{[]string{noise, zeros}, 1.9, "noise 1.0 MB, zeros 1.0 MB"},
	} {
		_ = os.Remove(out)
		err := pack(out, []string{"localhost/test:1"}, c.files, "", c.limit)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%v, limit %v: %v", c.files, c.limit, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%v, limit %v: %v, want an error that says %q", c.files, c.limit, err, c.says)
		}
		if _, there := os.Stat(out); (there == nil) != (c.says == "") {
			t.Errorf("%v, limit %v: the image is there: %v", c.files, c.limit, there == nil)
		}
	}
}
