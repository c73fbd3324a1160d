package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// killRounds bounds how often the lab's processes are looked for: one may start another while it
// is being killed.
const killRounds = 20

// Removed counts what Down removed.
type Removed struct {
	Processes  int
	Namespaces int
}

// Down removes the lab: its processes, namespaces with all links in them, mounts and files. It
// works on what an interrupted Up left, and on nothing at all.
func (l *Lab) Down(ctx context.Context) (Removed, error) {
	if _, err := os.Lstat(l.lockPath()); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(l.dir); errors.Is(err, fs.ErrNotExist) {
			return Removed{}, nil
		}
	}
	k, err := l.lockAlone(ctx)
	if err != nil {
		return Removed{}, err
	}
	defer k.release()
	r, err := l.remove(ctx)
	if err != nil {
		return r, fmt.Errorf("take down lab %s: %w", l.name, err)
	}
	return r, nil
}

// remove does Down's work with the lock held, and removes the lock's file in the end.
func (l *Lab) remove(ctx context.Context) (Removed, error) {
	var r Removed
	names, err := l.markedNamespaces()
	if err != nil {
		return r, err
	}
	if r.Processes, err = l.killAll(ctx, names); err != nil {
		return r, err // its namespace would live on without a name
	}
	for _, n := range names {
		there, err := kernel.NetnsExists(n)
		if err != nil {
			return r, err
		}
		if err := kernel.DeleteNamedNetns(n); err != nil {
			return r, err
		}
		if there {
			r.Namespaces++
		}
		if err := l.fault("removed namespace " + n); err != nil {
			return r, err
		}
	}
	if err := detachBelow(l.dir); err != nil {
		return r, err
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return r, fmt.Errorf("remove the lab's files: %w", err)
	}
	if err := l.fault("removed files"); err != nil {
		return r, err
	}
	return r, l.removeRoot(ctx)
}

// removeRoot removes what the labs of this machine share, if this was the last one.
func (l *Lab) removeRoot(ctx context.Context) error {
	k, err := l.lockRoot(ctx)
	if err != nil {
		return err
	}
	defer k.release()
	if err := l.unshareNetnsDir(); err != nil {
		return err
	}
	if err := os.Remove(l.lockPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Remove(l.root)
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

// markedNamespaces returns the names of the namespaces that this lab made, or was about to.
func (l *Lab) markedNamespaces() ([]string, error) {
	entries, err := os.ReadDir(markDir(l.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), l.name+".") { // a foreign file there names nothing of ours
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// killAll ends every process of the lab: those on record, and whatever runs in its namespaces or
// carries its id.
func (l *Lab) killAll(ctx context.Context, namespaces []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	inodes := map[[2]uint64]bool{}
	for _, n := range namespaces {
		there, err := kernel.NetnsExists(n)
		if err != nil {
			return 0, err
		}
		id, err := inode(kernel.NetnsPath(n))
		if there && err == nil {
			inodes[id] = true
		}
	}
	targets, err := l.recorded()
	if err != nil {
		return 0, err
	}
	// A state that cannot be read has no id; the namespaces and the records still lead to all.
	var s state
	id := ""
	if err := readJSON(statePath(l.dir), &s); err == nil && s.ID != "" {
		id = l.name + "@" + s.ID
	}
	killed := 0
	for range killRounds {
		found, err := strays(inodes, id)
		if err != nil {
			return killed, err
		}
		targets = append(targets, adopt(found, targets)...)
		n, err := killEach(ctx, targets)
		killed += n
		if err != nil || len(found) == 0 {
			return killed, err
		}
		targets = nil
	}
	return killed, fmt.Errorf("processes of the lab keep starting: %d killed in %d rounds", killed, killRounds)
}

// killEach kills the processes that still run and waits for their end.
func killEach(ctx context.Context, targets []procRecord) (int, error) {
	var running []procRecord
	for _, t := range targets {
		if !t.alive() {
			continue
		}
		if err := t.signal(unix.SIGKILL); err != nil {
			return 0, err
		}
		running = append(running, t)
	}
	for _, t := range running {
		if err := t.waitGone(ctx); err != nil {
			return 0, err
		}
	}
	return len(running), nil
}

// recorded returns the processes on record.
func (l *Lab) recorded() ([]procRecord, error) {
	paths, err := filepath.Glob(procPath(l.dir, "*"))
	if err != nil {
		return nil, err
	}
	var out []procRecord
	for _, p := range paths {
		var r procRecord
		if err := readJSON(p, &r); err != nil {
			continue // a record that cannot be read: the process is found by its namespace
		}
		out = append(out, r)
	}
	return out, nil
}

// adopt makes records of running processes that have none yet.
func adopt(pids []int, known []procRecord) []procRecord {
	var out []procRecord
	for _, pid := range pids {
		if slices.ContainsFunc(known, func(r procRecord) bool { return r.PID == pid && r.alive() }) {
			continue
		}
		if start, dead, err := procStat(pid); err == nil && !dead {
			out = append(out, procRecord{Name: "stray", PID: pid, Start: start, Boot: bootID()})
		}
	}
	return out
}

// StopTimeout is how long a signalled node may take to end.
const StopTimeout = 30 * time.Second
