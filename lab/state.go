package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What a lab knows about itself lies in small files, each written before the thing that it speaks
// of is made, so that `down` finds everything after a crash at any point:
//
//	state.json        the Config and the lab's id
//	.netns/NAME       empty; we make (or made) the namespace /run/netns/NAME
//	.proc/NAME.json   a process and its start time
//	.pods/NS.POD.json a pod; ID.json for an attachment whose release is still owed
//
// They lie under /run: nothing of a lab outlives a reboot, so that they are not synced to disk.

const stateVersion = 1

// state is state.json.
type state struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // random; processes of this lab carry it in their environment
	Config  Config    `json:"config"`
	Created time.Time `json:"created"`
	Up      bool      `json:"up"` // every node has been ready
}

// procRecord is .proc/NAME.json. A pid alone says nothing once the process has ended: its start
// time and the boot make it unique.
type procRecord struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

// podRecord is .pods/NS.POD.json.
type podRecord struct {
	Namespace   string    `json:"namespace"`
	Name        string    `json:"name"`
	Node        string    `json:"node"`
	Netns       string    `json:"netns"` // name
	ContainerID string    `json:"containerID"`
	UID         string    `json:"uid"`
	Addresses   []string  `json:"addresses,omitempty"` // once attached
	Args        podArgs   `json:"args"`
	Created     time.Time `json:"created"`
	// Owed: the namespace is gone, but the node has not been told yet (CNI DEL).
	Owed bool `json:"owed,omitempty"`
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func markDir(dir string) string { return filepath.Join(dir, ".netns") }

func procPath(dir, name string) string { return filepath.Join(dir, ".proc", name+".json") }

func podsDir(dir string) string { return filepath.Join(dir, ".pods") }

func podPath(dir string, r podRecord) string {
	if r.Owed {
		return filepath.Join(podsDir(dir), r.ContainerID+".json")
	}
	return filepath.Join(podsDir(dir), r.Namespace+"."+r.Name+".json")
}

// writeJSON replaces path in one step.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// readState reads the state of a lab that is up. A lab that is not up is an error that says so.
func (l *Lab) readState() (state, error) {
	var s state
	err := readJSON(statePath(l.dir), &s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("lab %s is not up: start it with weft lab up%s", l.name, l.nameFlag())
	case err != nil:
		return s, fmt.Errorf("lab %s: %w; remove what is left with weft lab down%s", l.name, err, l.nameFlag())
	case s.Version != stateVersion:
		return s, fmt.Errorf("lab %s was made by another version (state version %d, this one has %d): remove it with weft lab down%s",
			l.name, s.Version, stateVersion, l.nameFlag())
	}
	return s, nil
}

// nameFlag is what a hint must add to a command so that it means this lab.
func (l *Lab) nameFlag() string {
	if l.name == DefaultName {
		return ""
	}
	return " --name " + l.name
}

// readPods returns the records of pods, or of owed releases, sorted by namespace and name.
func readPods(dir string, owed bool) ([]podRecord, error) {
	entries, err := os.ReadDir(podsDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var pods []podRecord
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var p podRecord
		err := readJSON(filepath.Join(podsDir(dir), e.Name()), &p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		if p.Owed == owed {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b podRecord) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+a.ContainerID, b.Namespace+"/"+b.Name+"/"+b.ContainerID)
	})
	return pods, nil
}

// randomHex returns n random bytes as hex digits.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// randomUUID returns a version 4 UUID (RFC 9562 section 5.4).
func randomUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// sleep waits d or until ctx ends; it tells whether it waited.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
