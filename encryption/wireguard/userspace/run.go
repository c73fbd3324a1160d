package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"weft/internal/kernel"
	"weft/internal/supervise"
)

// kept are the capabilities for what is done while the device lives: marks and buffers of sockets, and
// ports below 1024.
const kept = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE

// Run has the device until ctx ends or the TUN device is deleted, both without an error. It says on
// ready, which it closes and which may be nil, when it can be configured.
func Run(ctx context.Context, p Process, ready *os.File) error {
	s, err := start(ctx, p)
	supervise.Announce(ready, err)
	if err != nil {
		return err
	}
	defer s.close()
	return s.run(ctx)
}

type service struct {
	log    *slog.Logger
	device *device.Device
	uapi   *server
}

func start(ctx context.Context, p Process) (*service, error) {
	if err := CheckDevice(p.Device); err != nil {
		return nil, err
	}
	if p.Interface != Interface {
		return nil, fmt.Errorf("WireGuard device %s: this binary has version %d of the interface to the node service, not %d: use one release for both", p.Device, Interface, p.Interface)
	}
	log := newLog()
	// The standard output is nobody's; a terminal that goes takes nothing with it.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	if err := unix.Chdir("/"); err != nil {
		return nil, fmt.Errorf("change to /: %w", err)
	}
	t, err := openTUN(ctx, p.Device)
	if err != nil {
		return nil, err
	}
	s := &service{log: log}
	s.device = device.NewDevice(t, newCrossing(conn.NewDefaultBind()), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Error(fmt.Sprintf(format, args...)) },
	})
	// The sockets are open whatever the state of the interface: a port that is taken is then the answer to
	// whoever sets it.
	if err := s.device.Up(); err != nil {
		s.device.Close()
		return nil, fmt.Errorf("WireGuard device %s: open its UDP sockets: %w", p.Device, err)
	}
	if s.uapi, err = listen(p.Socket(), s.device, log); err != nil {
		s.device.Close()
		return nil, err
	}
	if err := supervise.DropPrivileges(kept); errors.Is(err, unix.ENOTSUP) {
		log.Warn("privileges are not dropped: this binary was built with cgo", "error", err)
	} else if err != nil {
		s.close()
		return nil, fmt.Errorf("WireGuard device %s: drop privileges: %w", p.Device, err)
	}
	log.Info("WireGuard device ready", "device", p.Device, "pid", os.Getpid())
	return s, nil
}

func (s *service) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.device.Wait():
		s.log.Info("the TUN device is gone")
		return nil
	case err := <-s.uapi.failed:
		return err
	}
}

func (s *service) close() {
	s.uapi.close()
	s.device.Close()
}

func openTUN(ctx context.Context, name string) (tun.Device, error) {
	f, err := kernel.OpenTUN(ctx, name)
	if err != nil {
		return nil, err
	}
	h, err := kernel.Open()
	if err != nil {
		f.Close()
		return nil, err
	}
	defer h.Close()
	link, ok, err := h.LinkByName(ctx, name)
	if err != nil || !ok {
		f.Close()
		return nil, errors.Join(fmt.Errorf("look at TUN device %s", name), err)
	}
	// It sets the MTU that it is told: the one that the device has.
	t, err := tun.CreateTUNFromFile(f, link.MTU)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("use TUN device %s: %w", name, err)
	}
	return follow(t), nil
}

// steady is a TUN device whose being up or down does not open and close the UDP sockets, and whose packets
// have valid checksums.
type steady struct {
	tun.Device
	events chan tun.Event
}

func follow(t tun.Device) steady {
	s := steady{t, make(chan tun.Event, 1)}
	go func() {
		defer close(s.events)
		for e := range t.Events() {
			if e&tun.EventMTUUpdate != 0 {
				s.events <- tun.EventMTUUpdate
			}
		}
	}()
	return s
}

// Events are changes of the MTU.
func (s steady) Events() <-chan tun.Event { return s.events }

// Read reads packets of this host.
func (s steady) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := s.Device.Read(bufs, sizes, offset)
	for i := range n {
		mendChecksum(bufs[i][offset : offset+sizes[i]])
	}
	return n, err
}
