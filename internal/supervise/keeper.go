package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where the node service is in a container, what it starts ends with that container. A keeper is in a container of its
// own, which is replaced when its administrator wants it: it starts the processes, on request, and they stay. A request is
// one message, with open files where it needs them, and so is its answer. A keeper has a PID namespace of its own, so that
// what the node service cannot see or signal from its own the keeper finds and signals for it.

const (
	maxRequest = 4096
	// maxKept is how many processes a keeper has at most: a node has three.
	maxKept = 32
	// maxAsking is how many are served at once; further ones wait.
	maxAsking = 16
)

// keepRequest asks for one of four things.
type keepRequest struct {
	Start  []string    `json:"start,omitempty"`  // a process with these arguments; the files are its log and the pipe on which it says that it is ready
	Find   string      `json:"find,omitempty"`   // the process that listens on this socket
	Peer   bool        `json:"peer,omitempty"`   // the process at the other end of the connection that is the file
	Signal unix.Signal `json:"signal,omitempty"` // one for the process whose pidfd is the file
}

// keepReply tells of a process: the files are its pidfd and its network namespace, but of a peer there is only the PID.
// Without one the PID is 0.
type keepReply struct {
	Error string   `json:"error,omitempty"`
	PID   int      `json:"pid,omitempty"` // in the keeper's PID namespace
	Args  []string `json:"args,omitempty"`
}

// Keeper starts processes of one binary for whoever may open its socket, which is root.
type Keeper struct {
	Socket     string
	Commands   []string // the subcommands that it starts; it refuses others
	Executable string   // empty is the one that runs
	Log        *slog.Logger
}

// Run serves the socket until ctx ends. The processes stay until its PID namespace ends.
func (k *Keeper) Run(ctx context.Context) error {
	if c, err := net.Dial("unixpacket", k.Socket); err == nil {
		c.Close()
		return fmt.Errorf("keeper: another one listens on socket %s already: end it first", k.Socket)
	}
	if err := os.Remove(k.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keeper: remove the socket of an earlier one: %w", err)
	}
	old := unix.Umask(0o177) // nobody but root from the first moment on
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: k.Socket, Net: "unixpacket"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	k.Log.Info("keeper ready", "socket", k.Socket)
	slots, asking := make(chan struct{}, maxKept), make(chan struct{}, maxAsking)
	var done sync.WaitGroup
	defer done.Wait()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("keeper: %w", err)
		}
		asking <- struct{}{} // each is given up after some time
		done.Go(func() {
			defer func() { <-asking }()
			k.converse(ctx, c, slots)
		})
	}
}

// converse reads one request and answers it.
func (k *Keeper) converse(ctx context.Context, c *net.UnixConn, slots chan struct{}) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(keeperTimeout))
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	f, err := k.serve(ctx, c, slots)
	if f != nil {
		defer f.close()
	}
	if err != nil {
		k.Log.Warn("keeper: did nothing", "error", err)
	}
	_ = c.SetDeadline(time.Now().Add(keeperTimeout)) // what was asked for may have taken its time
	if err := answer(c, f, err); err != nil {
		k.Log.Warn("keeper: cannot answer", "error", err)
	}
}

// serve does what one request asks for, and returns the process that it told of or started, if any. A process has one of
// the slots.
func (k *Keeper) serve(ctx context.Context, c *net.UnixConn, slots chan struct{}) (*found, error) {
	b := make([]byte, maxRequest)
	n, files, err := readWithFiles(c, b)
	defer closeAll(files)
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	var r keepRequest
	if err := json.Unmarshal(b[:n], &r); err != nil {
		return nil, fmt.Errorf("the request cannot be understood: %w", err)
	}
	switch {
	case r.Find != "" && len(files) == 0:
		ctx, cancel := context.WithTimeout(ctx, keeperTimeout/2) // who asks waits for no longer than keeperTimeout
		defer cancel()
		return find(ctx, r.Find)
	case r.Peer && len(files) == 1:
		pid, err := peerOfFile(files[0])
		return &found{pid: pid}, err
	case r.Signal != 0 && len(files) == 1:
		return nil, sendSignal(files[0], r.Signal)
	case len(r.Start) == 0 || len(files) != 2:
		return nil, fmt.Errorf("the request has %d arguments and %d open files, want some and 2", len(r.Start), len(files))
	case !slices.Contains(k.Commands, r.Start[0]):
		return nil, fmt.Errorf("%.40q is none of the commands that it starts: %q", r.Start[0], k.Commands)
	}
	select {
	case slots <- struct{}{}:
	default:
		return nil, fmt.Errorf("it has %d processes already", maxKept)
	}
	cmd, f, err := k.start(r.Start, files[0], files[1])
	if err != nil {
		<-slots
		return nil, err
	}
	k.Log.Info("keeper: started", "pid", f.pid, "args", r.Start)
	go func() {
		err := cmd.Wait()
		<-slots
		k.Log.Info("keeper: ended", "pid", cmd.Process.Pid, "error", err)
	}()
	return f, nil
}

// sendSignal ends a process of this PID namespace: kill(2) by its pidfd, which works from the process's own or an outer one.
func sendSignal(pidfd *os.File, s unix.Signal) error {
	if s != unix.SIGTERM && s != unix.SIGKILL {
		return fmt.Errorf("signal %d is none that it sends", s)
	}
	if err := unix.PidfdSendSignal(number(pidfd), s, nil, 0); err != nil {
		return fmt.Errorf("send %v: %w", s, err)
	}
	return nil
}

// start starts a process; it is in the keeper's own network namespace.
func (k *Keeper) start(args []string, log, ready *os.File) (*exec.Cmd, *found, error) {
	executable := k.Executable
	if executable == "" {
		var err error
		if executable, err = os.Executable(); err != nil {
			return nil, nil, err
		}
	}
	netns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, nil, err
	}
	cmd := command(executable, args, log, ready, nil)
	if err := cmd.Start(); err != nil {
		netns.Close()
		return nil, nil, err
	}
	// One of its own, since who gets it makes it non-blocking, and Wait has to block. Until then the PID is nobody else's.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		netns.Close()
		_ = cmd.Process.Kill()
		return nil, nil, errors.Join(fmt.Errorf("follow process %d: %w", cmd.Process.Pid, err), cmd.Wait())
	}
	return cmd, &found{pid: cmd.Process.Pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd"), netns: netns}, nil
}

// command is a process in a session of its own.
func command(executable string, args []string, log, ready *os.File, env []string) *exec.Cmd {
	cmd := exec.Command(executable, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Dir = log, log, []*os.File{ready}, "/"
	cmd.Env = slices.Clone(env)
	for _, k := range keptEnv {
		if v, ok := os.LookupEnv(k); ok {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

func answer(c *net.UnixConn, f *found, err error) error {
	switch {
	case err != nil:
		return writeWithFiles(c, keepReply{Error: err.Error()})
	case f == nil:
		return writeWithFiles(c, keepReply{})
	}
	var files []*os.File
	if f.pidfd != nil {
		files = []*os.File{f.pidfd, f.netns}
	}
	return writeWithFiles(c, keepReply{PID: f.pid, Args: f.args}, files...)
}

// writeWithFiles sends one message with open files.
func writeWithFiles(c *net.UnixConn, message any, files ...*os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = number(f)
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	runtime.KeepAlive(files)
	return err
}

// readWithFiles reads one message with the files that came with it.
func readWithFiles(c *net.UnixConn, b []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, ferr := unix.ParseUnixRights(&m)
		err = errors.Join(err, ferr)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.Join(err, errors.New("the message is too long"))
	}
	return n, files, err
}
