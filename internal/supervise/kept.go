package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keeperPatience is how long a keeper is waited for before a process is started without it.
	keeperPatience = 15 * time.Second
	keeperTimeout  = 5 * time.Second
)

// errNoKeeper: nobody answers on the keeper's socket.
var errNoKeeper = errors.New("the keeper does not answer")

// toKeeper sends one request with open files, and returns the answer with those that came with it.
func (ps *Processes) toKeeper(ctx context.Context, request keepRequest, send ...*os.File) (r keepReply, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			err = fmt.Errorf("ask the keeper at %s: %w", ps.Keeper, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, keeperTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", ps.Keeper)
	if err != nil {
		return r, nil, errors.Join(errNoKeeper, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	u := conn.(*net.UnixConn)
	if err := writeWithFiles(u, request, send...); err != nil {
		return r, nil, err
	}
	b := make([]byte, maxRequest)
	n, files, err := readWithFiles(u, b)
	if err == nil {
		err = json.Unmarshal(b[:n], &r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r, files, err
}

// processOf is the process that a keeper told of: its pidfd and its network namespace came with the answer.
func processOf(r keepReply, files []*os.File) (*found, error) {
	if len(files) != 2 {
		closeAll(files)
		return nil, fmt.Errorf("the keeper sent %d files, want the process's and its network namespace's", len(files))
	}
	f := &found{pid: r.PID, args: r.Args, pidfd: files[0], netns: files[1]}
	here, err := pidOf(f.pidfd)
	switch {
	case err != nil:
	case here < 0:
		err = errors.New("the process that it told of has ended")
	case here == 0:
		f.far = true
	default:
		f.pid = here
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// throughKeeper lets the keeper start a process, in the keeper's network namespace.
func (ps *Processes) throughKeeper(ctx context.Context, c Command, log, ready *os.File) (*found, error) {
	r, files, err := ps.toKeeper(ctx, keepRequest{Start: c.Args}, log, ready)
	if err != nil {
		return nil, err
	}
	f, err := processOf(r, files)
	if err != nil {
		return nil, err
	}
	err = ps.sameNamespace(f.netns, func(what string) error {
		return fmt.Errorf("process %d, which the keeper at %s started, %s: let it have hostNetwork", f.pid, ps.Keeper, what)
	})
	if err != nil {
		if p := (&Process{}); p.become(f) == nil {
			_ = ps.signal(ctx, p, unix.SIGKILL)
			p.fd.Close()
		}
		f.close()
		return nil, err
	}
	ps.mu.Lock()
	ps.away = time.Time{}
	ps.mu.Unlock()
	return f, nil
}

// findByKeeper is find, done by the keeper in its own PID namespace.
func (ps *Processes) findByKeeper(ctx context.Context, socket string) (*found, error) {
	r, files, err := ps.toKeeper(ctx, keepRequest{Find: socket})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w, which only its keeper can tell about: if that is of an older release, delete its pod: %w",
			socket, errElsewhere, err)
	}
	if r.PID == 0 {
		closeAll(files)
		return nil, nil // it ended just now
	}
	return processOf(r, files)
}

// signalByKeeper sends a signal to a process in the keeper's PID namespace.
func (ps *Processes) signalByKeeper(ctx context.Context, p *Process, s unix.Signal) error {
	own := -1
	if err := p.withFD(func(fd int) (err error) { own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); return err }); err != nil {
		return err
	}
	pidfd := os.NewFile(uintptr(own), "pidfd")
	defer pidfd.Close()
	_, files, err := ps.toKeeper(ctx, keepRequest{Signal: s}, pidfd)
	closeAll(files)
	return err
}

// number is a file's descriptor, -1 when it is closed. File.Fd would take it from the runtime's poller.
func number(f *os.File) int {
	n := -1
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// pidOf reads which process a pidfd is of, by the number that it has here (proc(5), fdinfo): 0 when it is in a PID
// namespace that cannot be seen from here, -1 when it has ended.
func pidOf(pidfd *os.File) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", number(pidfd)))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("what it sent is no process")
}

// keeperIsAway tells whether to wait for the keeper, rather than to start a process without it.
func (ps *Processes) keeperIsAway() (wait bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.away.IsZero() {
		ps.away = time.Now()
	}
	return time.Since(ps.away) < keeperPatience
}
