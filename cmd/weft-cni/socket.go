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

// ask sends b, and with it the descriptor netns unless that is negative, to the Unix socket at path
// and returns all that comes back. It makes the system calls itself: package net, with its
// resolver, makes the process measurably slower to start (docs/cni.md).
func ask(path string, b []byte, netns int, limit time.Duration) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	if err := send(fd, path, b, netns, limit); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return receive(fd, limit)
}

func send(fd int, path string, b []byte, netns int, limit time.Duration) error {
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return fmt.Errorf("set the socket's timeout: %w", err)
	}
	if err := connect(fd, path); err != nil {
		return err
	}
	var rights []byte
	if netns >= 0 {
		rights = unix.UnixRights(netns)
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("send the request: %w", err)
		}
		b, rights = b[n:], nil
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	return nil
}

func connect(fd int, path string) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL):
			return fmt.Errorf("connect: the path has %d bytes, a socket's may have 107", len(path))
		case errors.Is(err, unix.EAGAIN): // its queue was full for as long as we wait
			return fmt.Errorf("connect: %w", os.ErrDeadlineExceeded)
		case err != nil:
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	}
}

// receive reads until the node closes the connection, and closes fd. It waits in the runtime's
// poller: in a blocking system call, Go's monitor thread would wake every 20 µs, some fifty times, to
// see whether it has ended.
func receive(fd int, limit time.Duration) ([]byte, error) {
	_ = unix.SetNonblock(fd, true)
	f := os.NewFile(uintptr(fd), "the node's answer")
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(limit)) // without a poller read blocks, and the node is bounded itself
	answer, buf := []byte(nil), make([]byte, 4<<10)
	for {
		n, err := f.Read(buf)
		answer = append(answer, buf[:max(n, 0)]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("no answer within %v", limit)
		case errors.Is(err, io.EOF):
			if len(answer) == 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return answer, nil
		case err != nil:
			return nil, fmt.Errorf("read the answer: %w", err)
		case len(answer) > rpc.MaxMessage:
			return nil, fmt.Errorf("the answer is larger than %d bytes", rpc.MaxMessage)
		}
	}
}
