package userspace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
)

// RevisionStep is by how much the revision grows with each change.
const RevisionStep = 2

// server speaks the configuration protocol (https://www.wireguard.com/xplatform/) on a Unix socket, with
// one operation more: "revision=1" answers a number that grows by RevisionStep whenever the configuration
// was set, by anybody.
type server struct {
	path   string
	device *device.Device
	log    *slog.Logger
	failed chan error

	revision atomic.Uint64
	done     sync.WaitGroup

	mu       sync.Mutex
	listener *net.UnixListener
	watch    *os.File // inotify
	closed   bool
	conns    map[net.Conn]bool
}

func listen(path string, d *device.Device, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	s := &server{path: path, device: d, log: log, failed: make(chan error, 1), conns: map[net.Conn]bool{}}
	l, err := bind(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	s.watch, s.listener = os.NewFile(uintptr(fd), "inotify"), l
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		s.close()
		return nil, fmt.Errorf("watch socket %s: %w", path, err)
	}
	s.done.Go(func() { s.accept(l) })
	s.done.Go(s.keep)
	return s, nil
}

// bind takes over a socket that nobody listens on any more.
func bind(path string) (*net.UnixListener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another process does: two devices cannot have one name", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove a socket that nobody listens on: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// keep makes the socket anew when somebody deleted it.
func (s *server) keep() {
	b := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := s.watch.Read(b)
		if err != nil {
			return
		}
		if !names(b[:n], filepath.Base(s.path)) {
			continue
		}
		if _, err := os.Lstat(s.path); err == nil {
			continue
		}
		if err := s.renew(); err != nil {
			s.fail(fmt.Errorf("the socket was deleted: %w", err))
			return
		}
	}
}

// fail ends the process, with the first error.
func (s *server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *server) renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.listener.SetUnlinkOnClose(false)
	s.listener.Close()
	l, err := bind(s.path)
	if err != nil {
		return err
	}
	s.log.Warn("somebody deleted the socket", "socket", s.path)
	s.listener = l
	s.done.Go(func() { s.accept(l) })
	return nil
}

// names tells whether inotify events tell of a name.
func names(b []byte, name string) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := unix.SizeofInotifyEvent + int(e.Len)
		if end > len(b) {
			return false
		}
		if unix.ByteSliceToString(b[unix.SizeofInotifyEvent:end]) == name {
			return true
		}
		b = b[end:]
	}
	return false
}

func (s *server) accept(l *net.UnixListener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.fail(fmt.Errorf("accept on %s: %w", s.path, err))
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		} else {
			s.conns[c] = true
			s.done.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *server) serve(c net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.Close()
	}()
	rw := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
	for {
		op, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		err, ok := s.operate(op, rw)
		if !ok {
			return
		}
		if _, err := fmt.Fprintf(rw, "errno=%d\n\n", code(err)); err != nil {
			return
		}
		if err := rw.Flush(); err != nil {
			return
		}
	}
}

// operate does one operation; ok is false when the peer does not speak the protocol.
func (s *server) operate(op string, rw *bufio.ReadWriter) (err error, ok bool) {
	if op == "set=1\n" {
		// Before and after: whoever read the configuration meanwhile sees that it changed since.
		s.revision.Add(1)
		err := s.device.IpcSetOperation(rw.Reader)
		s.revision.Add(1)
		return err, true
	}
	if blank, err := rw.ReadByte(); err != nil || blank != '\n' {
		return nil, false
	}
	switch op {
	case "get=1\n":
		return s.device.IpcGetOperation(rw.Writer), true
	case "revision=1\n":
		_, err := fmt.Fprintf(rw, "revision=%d\n", s.revision.Load())
		return err, true
	}
	return nil, false
}

// code is the number that the protocol has for an error.
func code(err error) int64 {
	var known *device.IPCError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known):
		return known.ErrorCode()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ipc.IpcErrorIO
	}
	return ipc.IpcErrorUnknown
}

func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	s.watch.Close()
	s.listener.Close() // removes the socket
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}
