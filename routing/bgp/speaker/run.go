package speaker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/supervise"
)

const (
	// maxLog is how large the log may grow in bytes before it begins anew.
	maxLog = 4 << 20
	// heapGrowth is by how many percent of what is in use the heap grows between collections.
	heapGrowth = 50
	// softMemory is what the garbage collector tries to keep the process under, and hardMemory what the
	// kernel gives at most: whatever a neighbour sends, the host has the rest.
	softMemory = 2 << 30
	hardMemory = 8 << 30
	// sendTimeout is how long one who watches may take to read an event.
	sendTimeout = 30 * time.Second
	// gather is how long news wait for more after some were sent.
	gather = 5 * time.Millisecond
	// maxRequest bounds a request in bytes: 100,000 advertisements are some 15 MB.
	maxRequest = 256 << 20
)

// keep are the capabilities for what is done while the process lives: port 179.
const keep = 1 << unix.CAP_NET_BIND_SERVICE

// Run speaks BGP until ctx ends. It says on ready, which it closes and which may be nil, when it can be
// configured. Neighbours with graceful restart keep what they learned when it ends.
func Run(ctx context.Context, p Process, ready *os.File) error {
	s, err := start(p)
	supervise.Announce(ready, err)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

type service struct {
	sp   *speaker
	l    *net.UnixListener
	conn sync.WaitGroup
}

func start(p Process) (*service, error) {
	if p.Interface != Interface {
		return nil, fmt.Errorf("BGP speaker: this binary has version %d of the interface to the node service, not %d: use one release for both", Interface, p.Interface)
	}
	// The standard output is nobody's; a terminal that goes takes nothing with it.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	level := &slog.LevelVar{}
	log := slog.New(slog.NewTextHandler(&supervise.BoundedLog{File: os.Stderr, Max: maxLog}, &slog.HandlerOptions{Level: level}))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // nobody set another
		debug.SetMemoryLimit(softMemory)
	}
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: hardMemory, Max: hardMemory}); err != nil {
		log.Warn("memory is not limited", "error", err)
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the BGP speaker's socket: %w", err)
	}
	if err := os.Remove(p.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := listen(p.Socket())
	if err != nil {
		return nil, err
	}
	if err := supervise.DropPrivileges(keep); errors.Is(err, unix.ENOTSUP) {
		log.Warn("privileges are not dropped: this binary was built with cgo", "error", err)
	} else if err != nil {
		l.Close()
		return nil, fmt.Errorf("BGP speaker: drop privileges: %w", err)
	}
	log.Info("BGP speaker ready", "pid", os.Getpid())
	return &service{sp: newSpeaker(p, log, level), l: l}, nil
}

// listen makes a socket that only its owner can use from the first moment.
func listen(path string) (*net.UnixListener, error) {
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the node service: %w", err)
	}
	return l, nil
}

func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.l.Close() })()
	for {
		c, err := s.l.AcceptUnix()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.sp.log.Error("accept", "error", err)
			time.Sleep(time.Second) // file descriptors may come back
			continue
		}
		s.conn.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := s.serve(ctx, c); err != nil && ctx.Err() == nil {
				s.sp.log.Warn("a client is cut off", "error", err)
			}
		})
	}
	s.conn.Wait()
	s.sp.configuring.Lock()
	defer s.sp.configuring.Unlock()
	// Planned or not, whoever starts the next process goes on from here.
	return s.sp.stop(context.WithoutCancel(ctx), true)
}

// serve answers the requests of one client, until it goes.
func (s *service) serve(ctx context.Context, c *net.UnixConn) error {
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 1<<16), maxRequest)
	for in.Scan() {
		var r Request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var reply Reply
		var err error
		switch {
		case r.Configure != nil:
			reply.Changes, err = s.sp.configure(ctx, r.Configure.Open())
		case r.Peers:
			reply.Peers, err = s.sp.peers(ctx)
		case r.Without != nil:
			reply.Lost, err = s.sp.without(r.Without)
		case r.Watch:
			return s.stream(ctx, c)
		default:
			err = errors.New("a request that asks for nothing")
		}
		if err != nil {
			reply.Errors = messages(err)
			s.sp.log.Warn("a request failed", "error", err)
		}
		if err := send(c, reply); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// messages returns the parts of a joined error.
func messages(err error) (out []string) {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			out = append(out, messages(e)...)
		}
		return out
	}
	return []string{err.Error()}
}

func send(c *net.UnixConn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err = c.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// stream sends events until the client goes.
func (s *service) stream(ctx context.Context, c *net.UnixConn) error {
	w := s.sp.hub.watch()
	defer w.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.conn.Go(func() { // notices that the client went
		defer cancel()
		_, _ = c.Read(make([]byte, 1))
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		}
		for {
			e, news := w.next()
			if !news {
				break
			}
			if err := send(c, e); err != nil {
				return err
			}
		}
		// What comes in quick succession goes together.
		select {
		case <-ctx.Done():
		case <-time.After(gather):
		}
	}
}
