package sctp

import (
	"net"
	"os"
	"syscall"
)

func socket() (int, error) {
	return syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, syscall.IPPROTO_SCTP)
}

// inKernel says whether the kernel has SCTP.
func inKernel() bool {
	fd, err := socket()
	if err != nil {
		return false
	}
	_ = syscall.Close(fd)
	return true
}

func dialKernel(ip [4]byte, to *SCTPAddr) (*SCTPConn, error) {
	fd, err := socket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: ip}); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return &SCTPConn{os.NewFile(uintptr(fd), "sctp"), to}, nil
}

func listenKernel(at *SCTPAddr) (*SCTPListener, error) {
	fd, err := socket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: at.Port}); err == nil {
		err = syscall.Listen(fd, 128)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	accept := func() (*SCTPConn, error) {
		one, from, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("accept", err)
		}
		peer := &SCTPAddr{}
		if a, ok := from.(*syscall.SockaddrInet4); ok {
			peer = &SCTPAddr{[]net.IPAddr{{IP: a.Addr[:]}}, a.Port}
		}
		return &SCTPConn{os.NewFile(uintptr(one), "sctp"), peer}, nil
	}
	return &SCTPListener{accept, func() error { return syscall.Close(fd) }}, nil
}
