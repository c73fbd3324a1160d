package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/encryption/wireguard/userspace"
	"weft/internal/kernel"
)

const (
	// startTimeout bounds how long a process takes until it can be configured.
	startTimeout = 10 * time.Second
	// stopTimeout is how long a process that was told to end may take.
	stopTimeout = 3 * time.Second
	// A process that ends within soon of its start is started again at once a few times, then later and
	// later, up to longestPause.
	soon         = time.Second
	atOnce       = 3
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// keptEnv are the variables that a process takes over; others may be secrets, and it lives long.
var keptEnv = []string{"PATH", "LANG", "TZ", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GOCOVERDIR"}

// processes starts the processes that have devices in user space, finds those of an earlier process of
// ours, and notices when one ends.
type processes struct {
	h          *kernel.Handle
	log        *slog.Logger
	executable string
	socketDir  string
	logDir     string
	env        []string // further variables, of tests
	died       func(p *process)

	mu      sync.Mutex
	running map[string]*process // by device
	all     map[*process]bool   // also those that were told to end
	crashes int                 // processes that ended soon, in a row
	notYet  time.Time           // when the next one may be started
	done    sync.WaitGroup
}

// process is one that runs, or ran.
type process struct {
	userspace.Process
	pid     int
	fd      *os.File // pidfd
	since   time.Time
	adopted bool
	ended   chan struct{} // closed when it ended, or when nobody waits for it any more
}

// get returns the live process of a device, started if need be. started tells that it knows no key and no
// peers.
func (ps *processes) get(ctx context.Context, device string) (p *process, started bool, err error) {
	ps.mu.Lock()
	p = ps.running[device]
	ps.mu.Unlock()
	if p != nil && p.alive() {
		return p, false, nil
	}
	p, err = ps.adopt(ctx, device)
	if err != nil || p != nil {
		return p, false, err
	}
	if wait := ps.wait(); wait > 0 {
		return nil, false, fmt.Errorf("the process of WireGuard device %s ends soon after its start, again and again: see %s; next try in %v",
			device, ps.logPath(device), wait.Round(time.Millisecond))
	}
	p, err = ps.start(ctx, device)
	return p, true, err
}

// wait is how long to wait before a process is started.
func (ps *processes) wait() time.Duration {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return max(0, time.Until(ps.notYet))
}

// note notes that a process ended; it is called with mu held.
func (ps *processes) note(p *process) {
	switch {
	case time.Since(p.since) > soon:
		ps.crashes = 0
	case !p.adopted:
		ps.crashes++
	}
	if n := ps.crashes - atOnce; n > 0 {
		ps.notYet = time.Now().Add(min(firstPause<<min(n, 10), longestPause))
	}
}

func (ps *processes) of(device string) userspace.Process {
	return userspace.Process{Device: device, SocketDir: ps.socketDir, Interface: userspace.Interface}
}

// adopt looks for a process that answers on the device's socket. One that is ours and of another version
// is ended; one of another network namespace, or that is not ours, is an error.
func (ps *processes) adopt(ctx context.Context, device string) (*process, error) {
	want := ps.of(device)
	pid, err := listener(ctx, want.Socket())
	if err != nil || pid == 0 {
		return nil, err
	}
	other := func(what string) error {
		return fmt.Errorf("socket %s of WireGuard device %s: process %d listens there, and %s: end it, or give the device another name", want.Socket(), device, pid, what)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil // it ended just now
	}
	if err != nil {
		return nil, fmt.Errorf("follow process %d of WireGuard device %s: %w", pid, device, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), since: time.Now(), adopted: true, ended: make(chan struct{})}
	// After the descriptor: from here on the process is the one that was asked.
	is, ok, err := ps.look(pid)
	if again, lerr := listener(ctx, want.Socket()); err == nil && (lerr != nil || again != pid) {
		err = errors.Join(lerr, errors.New("it changed meanwhile"))
	}
	switch {
	case err != nil:
	case !ok || is.Device != device || is.SocketDir != ps.socketDir:
		err = other("is not " + userspace.CommandName + " for this device")
	default:
		err = ps.sameNamespace(pid, other)
	}
	if err != nil {
		p.fd.Close()
		return nil, err
	}
	p.Process = is
	ps.follow(p)
	if is.Interface != userspace.Interface {
		ps.log.Info("replacing the process of a WireGuard device", "device", device, "pid", pid, "version", is.Interface, "want", userspace.Interface)
		return nil, ps.end(ctx, p)
	}
	ps.log.Info("adopted the process of a WireGuard device", "device", device, "pid", pid)
	return p, nil
}

// look reads a process's command line.
func (ps *processes) look(pid int) (userspace.Process, bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return userspace.Process{}, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	p, ok := userspace.ParseArgs(strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"))
	return p, ok, nil
}

func (ps *processes) sameNamespace(pid int, other func(string) error) error {
	own, err := ps.h.Namespace()
	if err != nil {
		return err
	}
	defer own.Close()
	mine, err := own.Stat()
	if err != nil {
		return err
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("look at the network namespace of process %d: %w", pid, err)
	}
	if !os.SameFile(mine, its) {
		return other("is in another network namespace")
	}
	return nil
}

// listener returns the process that listens on a socket, by its credentials (unix(7), SO_PEERCRED); 0 when
// nobody does.
func listener(ctx context.Context, socket string) (pid int, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", socket, err)
	}
	if cred.Pid == 0 {
		return 0, fmt.Errorf("socket %s: a process of another PID namespace listens there: end it", socket)
	}
	return int(cred.Pid), nil
}

// start runs a process in the driver's network namespace, in a session of its own, and waits until it can
// be configured.
func (ps *processes) start(ctx context.Context, device string) (*process, error) {
	fail := func(err error) (*process, error) {
		return nil, fmt.Errorf("start the process of WireGuard device %s: %w", device, err)
	}
	executable := ps.executable
	if executable == "" {
		var err error
		if executable, err = os.Executable(); err != nil {
			return fail(err)
		}
	}
	p := &process{Process: ps.of(device), since: time.Now(), ended: make(chan struct{})}
	log, err := ps.openLog(device)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	fd := -1
	cmd := exec.Command(executable, p.Args()...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Dir = log, log, []*os.File{w}, "/"
	cmd.Env = slices.Clone(ps.env)
	for _, k := range keptEnv {
		if v, ok := os.LookupEnv(k); ok {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &fd}
	err = ps.h.Do(cmd.Start)
	w.Close()
	if err != nil {
		return fail(err)
	}
	p.pid = cmd.Process.Pid
	_ = cmd.Process.Release() // follow reaps it
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fail(err)
	}
	p.fd = os.NewFile(uintptr(fd), "pidfd")
	ps.follow(p)
	if err := awaitReady(ctx, r); err != nil {
		return fail(errors.Join(err, ps.end(context.WithoutCancel(ctx), p)))
	}
	ps.log.Info("started the process of a WireGuard device", "device", device, "pid", p.pid, "log", log.Name())
	return p, nil
}

func (ps *processes) openLog(device string) (*os.File, error) {
	if err := os.MkdirAll(ps.logDir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(ps.logPath(device), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}

func (ps *processes) logPath(device string) string {
	return filepath.Join(ps.logDir, "wireguard-"+device+".log")
}

// awaitReady reads what the process says: that it is ready, or why it cannot be.
func awaitReady(ctx context.Context, r *os.File) error {
	_ = r.SetReadDeadline(time.Now().Add(startTimeout))
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := io.ReadAll(io.LimitReader(r, 1<<16))
	switch text := string(b); {
	case text == userspace.Ready:
		return nil
	case strings.HasPrefix(text, userspace.Busy):
		return fmt.Errorf("%w: %s", unix.EBUSY, strings.TrimPrefix(text, userspace.Busy))
	case text != "":
		return errors.New(text)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("it is not ready: %w", err)
	}
	return errors.New("it ended without a word: see its log")
}

// follow notices the end of a process, and reaps it if it is a child of this one.
func (ps *processes) follow(p *process) {
	ps.mu.Lock()
	if ps.running == nil {
		ps.running, ps.all = map[string]*process{}, map[*process]bool{}
	}
	ps.running[p.Device], ps.all[p] = p, true
	ps.mu.Unlock()
	ps.done.Go(func() {
		ended := p.await() // else the driver is closed
		known := false
		if ended {
			_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			ps.mu.Lock()
			delete(ps.all, p)
			if known = ps.running[p.Device] == p; known {
				delete(ps.running, p.Device)
				ps.note(p)
			}
			ps.mu.Unlock()
		}
		p.fd.Close()
		close(p.ended)
		if known {
			ps.died(p)
		}
	})
}

// await returns true when the process ended, false when its descriptor was closed.
func (p *process) await() bool {
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

func (p *process) alive() bool {
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

// take returns the process of a device, or nil; its end is no surprise from then on.
func (ps *processes) take(device string) *process {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.running[device]
	delete(ps.running, device)
	return p
}

// end tells a process to end, and makes it.
func (ps *processes) end(ctx context.Context, p *process) error {
	ps.mu.Lock()
	if ps.running[p.Device] == p {
		delete(ps.running, p.Device)
	}
	ps.mu.Unlock()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := p.signal(s); err != nil && p.alive() {
			return fmt.Errorf("end process %d of WireGuard device %s: %w", p.pid, p.Device, err)
		}
		select {
		case <-p.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("process %d of WireGuard device %s does not end", p.pid, p.Device)
}

func (p *process) signal(s unix.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	return errors.Join(err, inner)
}

// endOthers ends the processes of ours in this network namespace whose device is not wanted.
func (ps *processes) endOthers(ctx context.Context, wanted map[string]bool) (ended int, err error) {
	entries, err := os.ReadDir(ps.socketDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("look for processes of WireGuard devices: %w", err)
	}
	devices := map[string]bool{}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok && userspace.CheckDevice(name) == nil {
			devices[name] = true
		}
	}
	ps.mu.Lock()
	for name := range ps.running {
		devices[name] = true
	}
	ps.mu.Unlock()
	var errs []error
	for name := range devices {
		if wanted[name] {
			continue
		}
		p := ps.take(name)
		if p == nil {
			if p, err = ps.adopt(ctx, name); err != nil || p == nil {
				continue // not ours
			}
		}
		ps.log.Info("ending the process of a WireGuard device", "device", name, "pid", p.pid)
		errs = append(errs, ps.end(ctx, p))
		ended++
	}
	return ended, errors.Join(errs...)
}

// close leaves the processes running, and forgets them.
func (ps *processes) close() {
	ps.mu.Lock()
	for p := range ps.all {
		p.fd.Close()
	}
	ps.running, ps.all = nil, nil
	ps.mu.Unlock()
	ps.done.Wait()
}
