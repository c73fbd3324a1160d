package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"weft/node/cni/rpc"
)

// ask sends b, and with it the descriptor of netns unless that is nil, to the Unix socket at path
// and returns all that comes back. It makes the system calls itself: package net, with its
// resolver, makes the process measurably slower to start (docs/cni.md).
func ask(path string, b []byte, netns *os.File, limit time.Duration) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)); err != nil {
		return nil, fmt.Errorf("set the socket's timeout: %w", err)
	}
	if err := connect(fd, path); err != nil {
		return nil, err
	}
	var rights []byte
	if netns != nil {
		rights = unix.UnixRights(int(netns.Fd()))
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("send the request: %w", err)
		}
		b, rights = b[n:], nil
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return nil, fmt.Errorf("send the request: %w", err)
	}
	return receive(fd, limit)
}

func connect(fd int, path string) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("connect: the path has %d bytes, a socket's may have 107", len(path))
		case err != nil:
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	}
}

// receive reads until the node closes the connection.
func receive(fd int, limit time.Duration) ([]byte, error) {
	var answer []byte
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("no answer within %v", limit)
		case err != nil:
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		answer = append(answer, buf[:max(n, 0)]...)
		if n <= 0 {
			break
		}
		if len(answer) > rpc.MaxMessage {
			return nil, fmt.Errorf("the answer is larger than %d bytes", rpc.MaxMessage)
		}
	}
	if len(answer) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return answer, nil
}
