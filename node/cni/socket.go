package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/node/cni/rpc"
)

const (
	readTimeout  = 5 * time.Second // the plugin has its request ready when it connects
	writeTimeout = 5 * time.Second
)

// listen makes the socket, for root only. A stale one is replaced; one that answers is somebody's.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, errors.New("another process answers there; is a weft node running already?")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Until this takes effect the peer's credentials, checked at each connection, keep others out.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// accept serves connections until ctx ends, and returns when all of them are done.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, maxCalls)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.log.Warn("cni: accept failed", "err", err) // out of descriptors, say: it may pass
			<-slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		calls.Go(func() {
			defer func() { <-slots }()
			// A call that has begun is finished, bounded by its own time limit: half of it would
			// only have to be undone.
			s.serve(context.WithoutCancel(ctx), c)
		})
	}
}

// serve answers one connection.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("cni: a connection panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := checkPeer(c); err != nil {
		s.log.Warn("cni: refused a connection", "err", err)
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(readTimeout))
	b, netns, err := read(c)
	if netns != nil {
		defer netns.Close()
	}
	if err != nil {
		s.log.Warn("cni: reading a request failed", "err", err)
		s.answer(c, rpc.Response{Error: rpc.Errorf(rpc.CodeIO, "read request: %v", err)})
		return
	}
	r, rerr := rpc.DecodeRequest(b)
	if rerr != nil {
		s.answer(c, rpc.Response{Error: rerr})
		return
	}
	if netns == nil && r.Netns != "" {
		// An older plugin, or one that could not open it: our own view of the path may do.
		netns, _ = os.OpenFile(r.Netns, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if netns != nil {
			defer netns.Close()
		}
	}
	resp := s.call(ctx, r, caller{netns, func() bool { return hungUp(c) }})
	if resp.Error != nil {
		resp.Error.CNIVersion = versionOf(r.Config)
	}
	s.answer(c, resp)
}

// hungUp tells whether the plugin has closed its socket for both directions (unix(7): POLLHUP), as when it was killed.
func hungUp(c *net.UnixConn) (gone bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n == 1 && p[0].Revents&unix.POLLHUP != 0
	})
	return gone || err != nil
}

// versionOf is the version that an error object carries.
func versionOf(config []byte) string {
	var c struct {
		CNIVersion string `json:"cniVersion"`
	}
	if json.Unmarshal(config, &c) != nil || rpc.CheckVersion(c.CNIVersion, "") != nil {
		return rpc.Current
	}
	return c.CNIVersion
}

func (s *Server) answer(c *net.UnixConn, resp rpc.Response) {
	b, err := json.Marshal(resp)
	if err == nil {
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err = c.Write(b)
	}
	if err != nil {
		s.log.Warn("cni: the plugin did not take its answer; the runtime will DEL", "err", err)
	}
}

// checkPeer lets root in only, whatever the modes of socket and directory have become.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("read the peer's credentials: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("process %d of user %d: only root may make CNI calls", cred.Pid, cred.Uid)
	}
	return nil
}

// read takes a request until its end, bounded, and the network namespace that came with it.
func read(c *net.UnixConn) (b []byte, netns *os.File, err error) {
	buf := make([]byte, 16<<10)
	oob := make([]byte, unix.CmsgSpace(4*4)) // one descriptor is expected; more are closed
	for {
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		for _, f := range descriptors(oob[:oobn]) {
			if netns != nil {
				f.Close()
				continue
			}
			netns = f
		}
		b = append(b, buf[:n]...)
		if len(b) > rpc.MaxMessage {
			return nil, netns, fmt.Errorf("it is larger than %d bytes", rpc.MaxMessage)
		}
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return b, netns, nil
		}
		if err != nil {
			return nil, netns, err
		}
	}
}

// descriptors returns the files in a control message; package net asked for close-on-exec.
func descriptors(oob []byte) []*os.File {
	var files []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files
}
