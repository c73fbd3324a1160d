package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds of links that can be a WireGuard device.
const (
	// KindWireGuard is the kernel's own.
	KindWireGuard = "wireguard"
	// KindTUN is the device of a process that speaks WireGuard.
	KindTUN = "tun"
)

// AddWireGuard makes the kernel's WireGuard device, administratively down and without a key; mtu is in
// bytes. A kernel without WireGuard is an error that wraps unix.EOPNOTSUPP, a name that is taken one
// that wraps unix.EEXIST.
func (h *Handle) AddWireGuard(ctx context.Context, name string, mtu int) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	e := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, name).u32(unix.IFLA_MTU, uint32(mtu))
	e.nest(unix.IFLA_LINKINFO, func(e *encoder) { e.str(unix.IFLA_INFO_KIND, KindWireGuard) })
	err := h.execOne(ctx, request{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, e.b})
	if err != nil {
		return fmt.Errorf("make WireGuard device %s: %w", name, err)
	}
	// The kernel takes these for a link that exists only.
	err = h.MarkTunnel(ctx, name)
	if err == nil {
		err = h.noLinkLocal(ctx, name)
	}
	if err != nil {
		return errors.Join(err, h.LinkDelete(ctx, name))
	}
	return nil
}

// OpenTUN attaches to the TUN device called name in the calling thread's network namespace, and makes
// it if it is not there: for packets without an Ethernet header, with the offload header of virtio. It
// is marked as ours and stays, without a carrier and dropping what is sent to it, when the file is
// closed: addresses and routes hang from it. A device that another process has is an error that wraps
// unix.EBUSY, a name that another kind of link has one that wraps unix.EINVAL.
func OpenTUN(ctx context.Context, name string) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("open TUN device %s: %w", name, err) }
	f, err := openTUN(name)
	if err != nil {
		return fail(err)
	}
	h, err := Open()
	if err == nil {
		defer h.Close()
		if err = h.MarkTunnel(ctx, name); err == nil {
			err = h.noLinkLocal(ctx, name)
		}
	}
	// Last: without it the device goes with the file, and nothing is left that nobody owns.
	if err == nil {
		err = control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) })
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}

func openTUN(name string) (*os.File, error) {
	if err := checkLinkName(name); err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd, err := openTUNNode()
	if err != nil {
		return nil, err
	}
	// Before the runtime's poller sees the file: until then it reports an error.
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), tunNode), nil
}

const tunNode = "/dev/net/tun"

// openTUNNode opens the device node by which TUN devices are made. Where there is none, as in a container
// or before the module was ever loaded, it opens one of its own, which is gone again at once.
func openTUNNode() (int, error) {
	const flags = unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Open(tunNode, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		own := fmt.Sprintf("/dev/weft-tun-%d", unix.Gettid())
		// Documentation/admin-guide/devices.txt
		if err := unix.Mknod(own, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
			return -1, fmt.Errorf("open %s: there is none (mknod %s c 10 200 makes one), and no other can be made: %w", tunNode, tunNode, err)
		}
		fd, err = unix.Open(own, flags, 0)
		err = errors.Join(err, unix.Unlink(own))
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", tunNode, err)
	}
	return fd, nil
}

// CheckTUN tells why the calling thread's network namespace cannot have TUN devices; nil when it can.
func CheckTUN() error {
	f, err := openTUN("weft-tun-probe")
	if err != nil {
		return fmt.Errorf("try a TUN device: %w", err)
	}
	return f.Close()
}

func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = do(int(fd)) })
	return errors.Join(err, inner)
}

// LinkSetThreaded lets the kernel poll the interface in threads of its own (NAPI threads), or no longer.
// It asks by a view of sysfs that nobody else sees, because a mounted one shows the namespace that it
// was mounted in.
func (h *Handle) LinkSetThreaded(name string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	err := h.inSysfs(name, "threaded", func(f int) error {
		_, err := unix.Write(f, []byte(value))
		return err
	})
	if err != nil {
		return fmt.Errorf("set threaded %s of link %s: %w", value, name, err)
	}
	return nil
}

// LinkThreaded tells whether the kernel polls the interface in threads of its own.
func (h *Handle) LinkThreaded(name string) (bool, error) {
	var text string
	err := h.inSysfs(name, "threaded", func(f int) error {
		b := make([]byte, 16)
		n, err := unix.Read(f, b)
		text = strings.TrimSpace(string(b[:max(n, 0)]))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read threaded of link %s: %w", name, err)
	}
	return text == "1", nil
}

func (h *Handle) inSysfs(link, attribute string, do func(file int) error) error {
	if err := checkLinkName(link); err != nil || strings.Contains(link, "/") {
		return errors.Join(err, errors.New("want a link name without a slash"))
	}
	return h.Do(func() error {
		fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open sysfs: %w", err)
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return fmt.Errorf("make a view of sysfs: %w", err)
		}
		root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make a view of sysfs: %w", err)
		}
		defer unix.Close(root)
		f, err := unix.Openat(root, path.Join("class/net", link, attribute), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(f)
		return do(f)
	})
}
