// Package supervise has the long-lived processes of this binary that outlive the node service: it starts
// them in a network namespace, finds those of an earlier node service by their sockets, and notices when
// one ends. The other side, what such a process does about itself, is in child.go. It does not know
// what the processes do.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

const (
	// startTimeout bounds how long a process takes until it can be configured.
	startTimeout = 10 * time.Second
	// stopTimeout is how long a process that was told to end may take.
	stopTimeout = 3 * time.Second
	// Soon after its start is what a process ends within that is started again at once a few times, then
	// later and later, up to longestPause.
	Soon         = time.Second
	atOnce       = 3
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// alonePause is how long a keeper whose binary seems to be of an older release is done without.
	alonePause = 5 * time.Minute
)

// keptEnv are the variables that a process takes over; others may be secrets, and it lives long.
var keptEnv = []string{"PATH", "LANG", "TZ", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR"}

// Command is a process as it is wanted.
type Command struct {
	Name    string   // among the processes of one Processes
	What    string   // what it is, in messages: "process of WireGuard device wg0"
	Args    []string // after the name of the binary; they hold no secret
	Socket  string   // that it listens on
	Log     string   // the file of its standard output and error
	Version int      // a process of another version is not adopted but replaced
	// Is reads a command line, with the name of the binary in front: whether it is this command, and of
	// which version.
	Is func(args []string) (version int, ok bool)
	// Help ends the message about somebody else on the socket; empty for nothing more than "end it".
	Help string
}

// Processes are those of one user in one network namespace. Its methods are safe for concurrent use.
type Processes struct {
	Handle     *kernel.Handle
	Log        *slog.Logger
	Executable string   // the weft binary; empty is the one that runs
	Env        []string // further variables; not with a Keeper
	// Keeper is the socket of the keeper that starts the processes, in this network namespace; empty: they are started here.
	Keeper string
	// Died is called when a process ended that was not told to, by a goroutine of its own.
	Died func(p *Process)

	mu      sync.Mutex
	running map[string]*Process // by name
	all     map[*Process]bool   // also those that were told to end
	crashes int                 // processes that ended soon, in a row
	notYet  time.Time           // when the next one may be started
	away    time.Time           // since when the keeper does not answer; zero: it does
	alone   time.Time           // until then the keeper is not asked: what it started did not know its command
	done    sync.WaitGroup
}

// Process is one that runs, or ran.
type Process struct {
	Command
	PID     int
	Far     bool      // it is in the keeper's PID namespace, which has given it the PID
	Since   time.Time // when it was started or adopted
	Adopted bool

	of    *Processes
	fd    *os.File      // pidfd
	ended chan struct{} // closed when it ended, or when nobody waits for it any more
}

// Get returns the live process of a command, started if need be. started tells that it knows nothing yet.
func (ps *Processes) Get(ctx context.Context, c Command) (p *Process, started bool, err error) {
	ps.mu.Lock()
	p = ps.running[c.Name]
	ps.mu.Unlock()
	if p != nil && p.Alive() {
		return p, false, nil
	}
	p, err = ps.Adopt(ctx, c)
	if err != nil || p != nil {
		return p, false, err
	}
	if wait := ps.Wait(); wait > 0 {
		return nil, false, fmt.Errorf("the %s ends soon after its start, again and again: see %s; next try in %v",
			c.What, c.Log, wait.Round(time.Millisecond))
	}
	p, err = ps.start(ctx, c)
	return p, true, err
}

// Wait is how long to wait before a process is started.
func (ps *Processes) Wait() time.Duration {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return max(0, time.Until(ps.notYet))
}

// note notes that a process ended; it is called with mu held.
func (ps *Processes) note(p *Process) {
	switch {
	case time.Since(p.Since) > Soon:
		ps.crashes = 0
	case !p.Adopted:
		ps.crashes++
	}
	if n := ps.crashes - atOnce; n > 0 {
		ps.notYet = time.Now().Add(min(firstPause<<min(n, 10), longestPause))
	}
}

// start runs a process in the network namespace, in a session of its own, and waits until it can be
// configured.
func (ps *Processes) start(ctx context.Context, c Command) (*Process, error) {
	fail := func(err error) (*Process, error) {
		return nil, fmt.Errorf("start the %s: %w", c.What, err)
	}
	p := &Process{Command: c, Since: time.Now(), ended: make(chan struct{})}
	log, err := openLog(c.Log)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	err = ps.spawn(ctx, p, log, w)
	w.Close()
	if err != nil {
		return fail(err)
	}
	ps.follow(p)
	if err := awaitReady(ctx, r); err != nil {
		if ps.Keeper != "" && errors.Is(err, errWordless) {
			ps.mu.Lock()
			ps.alone = time.Now().Add(alonePause) // its binary may be of an older release, which does not know this command as it is now
			ps.mu.Unlock()
		}
		return fail(errors.Join(err, ps.End(context.WithoutCancel(ctx), p)))
	}
	ps.Log.Info("started the "+c.What, "pid", p.PID, "log", log.Name())
	return p, nil
}

// spawn starts a process, by the keeper where there is one.
func (ps *Processes) spawn(ctx context.Context, p *Process, log, ready *os.File) error {
	ps.mu.Lock()
	keeper := ps.Keeper != "" && !time.Now().Before(ps.alone)
	ps.mu.Unlock()
	var err error
	if keeper {
		var f *found
		if f, err = ps.throughKeeper(ctx, p.Command, log, ready); err == nil {
			defer f.close()
			return p.become(f)
		}
		if errors.Is(err, errNoKeeper) && ps.keeperIsAway() {
			return err
		}
	}
	if ps.Keeper != "" {
		ps.Log.Warn("the "+p.What+" is started without the keeper, and ends with this container: delete the keeper's pod, then this one's, to have it kept",
			"err", err)
	}
	executable := ps.Executable
	if executable == "" {
		if executable, err = os.Executable(); err != nil {
			return err
		}
	}
	fd := -1
	cmd := command(executable, p.Args, log, ready, ps.Env)
	cmd.SysProcAttr.PidFD = &fd
	if err := ps.Handle.Do(cmd.Start); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // follow reaps it
	f := &found{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer f.pidfd.Close()
	return p.become(f)
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}

// errWordless: a command line that is not understood ends so, since who reads it tells of it in the log.
var errWordless = errors.New("it ended without a word: see its log")

// awaitReady reads what the process says: that it is ready, or why it cannot be.
func awaitReady(ctx context.Context, r *os.File) error {
	_ = r.SetReadDeadline(time.Now().Add(startTimeout))
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := io.ReadAll(io.LimitReader(r, 1<<16))
	switch text := string(b); {
	case text == Ready:
		return nil
	case strings.HasPrefix(text, Busy):
		return fmt.Errorf("%w: %s", unix.EBUSY, strings.TrimPrefix(text, Busy))
	case text != "":
		return errors.New(text)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("it is not ready: %w", err)
	}
	return errWordless
}

// follow notices the end of a process, and reaps it if it is a child of this one.
func (ps *Processes) follow(p *Process) {
	p.of = ps
	ps.mu.Lock()
	if ps.running == nil {
		ps.running, ps.all = map[string]*Process{}, map[*Process]bool{}
	}
	ps.running[p.Name], ps.all[p] = p, true
	ps.mu.Unlock()
	ps.done.Go(func() {
		ended := p.await() // else the user is closed
		known := false
		if ended {
			p.reap()
			ps.mu.Lock()
			delete(ps.all, p)
			if known = ps.running[p.Name] == p; known {
				delete(ps.running, p.Name)
				ps.note(p)
			}
			ps.mu.Unlock()
		}
		p.fd.Close()
		close(p.ended)
		if known {
			ps.Died(p)
		}
	})
}

// await returns true when the process ended, false when its descriptor was closed.
func (p *Process) await() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(fd uintptr) bool { return readable(int(fd)) }) == nil
}

func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// Alive tells whether the process still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.ended:
		return false
	default:
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Control(func(fd uintptr) { ended = readable(int(fd)) })
	return err == nil && !ended
}

// Take returns the process of a name, or nil; its end is no surprise from then on.
func (ps *Processes) Take(name string) *Process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.running[name]
	delete(ps.running, name)
	return p
}

// Names returns the names of the processes that run, in no order.
func (ps *Processes) Names() []string {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var names []string
	for name := range ps.running {
		names = append(names, name)
	}
	return names
}

// End tells a process to end, and makes it.
func (ps *Processes) End(ctx context.Context, p *Process) error {
	ps.mu.Lock()
	if ps.running[p.Name] == p {
		delete(ps.running, p.Name)
	}
	ps.mu.Unlock()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := ps.signal(ctx, p, s); err != nil && p.Alive() {
			return fmt.Errorf("end process %d, the %s: %w", p.PID, p.What, err)
		}
		select {
		case <-p.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("process %d, the %s, does not end", p.PID, p.What)
}

// reap frees what the kernel keeps of a child that ended; what is no child of this process has another to do it.
func (p *Process) reap() {
	_ = p.withFD(func(fd int) error { return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil) })
}

// signal sends one by the process's descriptor, which the kernel does for processes of this PID namespace and inner ones.
func (ps *Processes) signal(ctx context.Context, p *Process, s unix.Signal) error {
	if p.Far {
		return ps.signalByKeeper(ctx, p, s)
	}
	return p.withFD(func(fd int) error { return unix.PidfdSendSignal(fd, s, nil, 0) })
}

// withFD calls f with the descriptor, which nobody closes meanwhile.
func (p *Process) withFD(f func(fd int) error) error {
	return control(p.fd, f)
}

// Close leaves the processes running, and forgets them.
func (ps *Processes) Close() {
	ps.mu.Lock()
	for p := range ps.all {
		p.fd.Close()
	}
	ps.running, ps.all = nil, nil
	ps.mu.Unlock()
	ps.done.Wait()
}
