package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"weft/internal/kernel"
	"weft/model"
)

// Backend is which of the two machineries of the kernel iptables writes to. Rules of both are in force
// at once, whoever wrote them.
type Backend string

// The backends. Auto takes the one where others have more rules, so that all are seen with one
// command; where there are none, the one that the iptables command uses.
const (
	Auto   Backend = "Auto"
	NFT    Backend = "NFT"    // nf_tables, Linux 4.18 and iptables 1.8 or later
	Legacy Backend = "Legacy" // ip_tables
)

// Other is what a live change of backend leaves behind.
func (b Backend) other() Backend {
	if b == NFT {
		return Legacy
	}
	return NFT
}

// tools are the programs of this machine, by absolute path.
type tools struct {
	ipset   string
	restore map[Backend]map[model.Family]string
	save    map[Backend]map[model.Family]string
	usual   Backend // of the iptables command
}

// findTools looks up programs. Which backend a program is for, its name says, or `iptables --version`.
func findTools(ctx context.Context, r *runner) (*tools, error) {
	t := &tools{restore: map[Backend]map[model.Family]string{}, save: map[Backend]map[model.Family]string{}}
	var err error
	if t.ipset, err = exec.LookPath("ipset"); err != nil {
		return nil, fmt.Errorf("find ipset: %w: install the package ipset", err)
	}
	if path, err := exec.LookPath("iptables"); err == nil {
		out, err := r.run(ctx, nil, path, "--version")
		if err != nil {
			return nil, err
		}
		t.usual = Legacy // versions before 1.8 say nothing
		if strings.Contains(string(out), "(nf_tables)") {
			t.usual = NFT
		}
	}
	for b, infix := range map[Backend]string{NFT: "-nft", Legacy: "-legacy"} {
		if t.find(b, infix) || b == t.usual && t.find(b, "") {
			continue
		}
		delete(t.restore, b)
		delete(t.save, b)
	}
	if len(t.restore) == 0 {
		return nil, errors.New("find iptables-restore, ip6tables-restore and their save commands, for nft or legacy: none is here: install the package iptables")
	}
	return t, nil
}

func (t *tools) find(b Backend, infix string) bool {
	t.restore[b], t.save[b] = map[model.Family]string{}, map[model.Family]string{}
	for f, name := range map[model.Family]string{model.IPv4: "iptables", model.IPv6: "ip6tables"} {
		restore, err1 := exec.LookPath(name + infix + "-restore")
		save, err2 := exec.LookPath(name + infix + "-save")
		if err1 != nil || err2 != nil {
			return false
		}
		t.restore[b][f], t.save[b][f] = restore, save
	}
	return true
}

// has tells whether a backend's programs are here.
func (t *tools) has(b Backend) bool { return t.restore[b] != nil }

// runner starts programs in the handle's network namespace: fixed arguments, no shell.
type runner struct {
	h *kernel.Handle

	mu   sync.Mutex
	ns   *os.File
	last [64]process
	next int
}

// process is a program that we started. Events of nf_tables carry its id, which another program gets
// some day.
type process struct {
	pid  int
	done time.Time // zero: it runs
}

// eventDelay is how long after its end a program's events are taken for ours.
const eventDelay = 2 * time.Second

func (r *runner) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ns != nil {
		r.ns.Close()
		r.ns = nil
	}
}

func (r *runner) namespace() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ns == nil {
		ns, err := r.h.Namespace()
		if err != nil {
			return "", err
		}
		r.ns = ns
	}
	return fmt.Sprintf("/proc/self/fd/%d", r.ns.Fd()), nil
}

// in runs f on a thread that is in the namespace.
func (r *runner) in(f func() error) error {
	ns, err := r.namespace()
	if err != nil {
		return err
	}
	return kernel.Do(ns, f)
}

// run starts a program and returns what it printed.
func (r *runner) run(ctx context.Context, input []byte, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL=C"}
	at := 0
	err := r.in(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		at = r.next % len(r.last)
		r.last[at], r.next = process{pid: cmd.Process.Pid}, r.next+1
		return nil
	})
	if err == nil {
		err = cmd.Wait()
		r.mu.Lock()
		r.last[at].done = time.Now()
		r.mu.Unlock()
	}
	if err != nil {
		return nil, &runError{command: strings.Join(append([]string{path}, args...), " "), err: err, said: strings.TrimSpace(stderr.String()), input: input}
	}
	return stdout.Bytes(), nil
}

// ours tells whether an event of the process id is by a program that we started.
func (r *runner) ours(pid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.last {
		if p.pid != 0 && uint32(p.pid) == pid && (p.done.IsZero() || time.Since(p.done) < eventDelay) {
			return true
		}
	}
	return false
}

// runError is a program that failed. It shows the line of the input that the program complains about.
type runError struct {
	command string
	err     error
	said    string
	input   []byte
}

func (e *runError) Unwrap() error { return e.err }

func (e *runError) Error() string {
	s := fmt.Sprintf("run %s: %v: %s", e.command, e.err, e.said)
	lines := bytes.Split(e.input, []byte("\n"))
	for _, n := range linesOf(e.said) {
		if n <= len(lines) {
			return s + fmt.Sprintf(" (line %d is %q)", n, lines[n-1])
		}
	}
	return s
}
