package ipip

import (
	"net"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
)

func indexOf(device string) (int, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

func linkMAC(t *testing.T, ns testkit.NS, device string) []byte {
	t.Helper()
	f := strings.Fields(testkit.Run(t, ns, "ip", "-o", "link", "show", "dev", device))
	for i, w := range f {
		if w == "link/ether" {
			mac, err := net.ParseMAC(f[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return mac
		}
	}
	t.Fatalf("no MAC of %s", device)
	return nil
}

// sniff returns what arrives at or leaves the device from now on and is IP of the given protocol, from
// the outer header on, until nothing came for 200 ms after done is called.
func sniff(t *testing.T, ns testkit.NS, device string, protocol byte) (done func() [][]byte) {
	t.Helper()
	fd := -1
	ns.Do(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0300); err != nil {
			return err
		}
		index, err := indexOf(device)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index})
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func() [][]byte {
		var out [][]byte
		b := make([]byte, 1<<17)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return out
			}
			if n >= 20 && b[0]>>4 == 4 && b[9] == protocol {
				out = append(out, append([]byte(nil), b[:n]...))
			}
		}
		return out
	}
}

// Commands of linux/ethtool.h.
const (
	setTSO = 0x1f
	setGRO = 0x2c // a device joins the segments that arrive, as network cards do
)

// offload sets an offload of a device.
func offload(t *testing.T, ns testkit.NS, device string, command, on uint32) {
	t.Helper()
	ns.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ command, data uint32 }{command, on}
		request := struct {
			name [16]byte
			data unsafe.Pointer
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], device)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
}
