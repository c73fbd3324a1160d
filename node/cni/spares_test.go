package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Files of attachments that are gone serve new ones, whatever they held, and none is taken for an
// attachment after a crash.
func TestSpareFiles(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRegistry(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 100
	for i := range rounds { // one file serves until it is too large
		a := testAttachment(fmt.Sprintf("c%d", i), "p", "10.0.0.1")
		if err := r.save(a); err != nil {
			t.Fatal(err)
		}
		if i == rounds-1 {
			break
		}
		if err := r.remove(a.key()); err != nil {
			t.Fatal(err)
		}
		if err := r.remove(a.key()); err != nil {
			t.Errorf("removed twice: %v", err)
		}
	}
	spare := testAttachment("spare", "q", "10.0.0.2")
	if err := r.save(spare); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(spare.key()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, ".spare-*"))
	if err != nil || len(files) == 0 {
		t.Errorf("spare files are %v (%v), want some", files, err)
	}
	last := testAttachment(fmt.Sprintf("c%d", rounds-1), "p", "10.0.0.1")
	if st, err := os.Stat(filepath.Join(dir, last.key().file())); err != nil || st.Size() > maxJournalFile {
		t.Errorf("got %v, %v", st, err)
	}
	if r, err = OpenRegistry(dir, nil); err != nil { // as after a crash
		t.Fatal(err)
	}
	if got, ok := r.get(last.key()); !ok || got.ContainerID != last.ContainerID || len(r.list()) != 1 {
		t.Errorf("got %v of %v, want the last attachment alone", got, r.list())
	}
	if bad, err := r.Quarantined(); err != nil || len(bad) > 0 {
		t.Errorf("set aside: %v, %v", bad, err)
	}
	if files, _ = filepath.Glob(filepath.Join(dir, ".spare-*")); len(files) > 0 {
		t.Errorf("%v stay after a restart", files)
	}
}
