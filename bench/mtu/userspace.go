package mtu

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"weft/internal/kernel"
)

// userspace runs WireGuard in this process: the TUN device is in the end's namespace, the UDP sockets are in the host's,
// which is the one that this process's goroutines run in.
func (e *end) userspace(ctx context.Context, s endSpec) error {
	var t tun.Device
	err := kernel.Do(string(e.place()), func() error {
		f, err := kernel.OpenTUN(ctx, innerDevice)
		if err != nil {
			return err
		}
		defer f.Close()
		fd, err := dup(f)
		if err != nil {
			return err
		}
		t, _, err = tun.CreateUnmonitoredTUNFromFD(fd)
		return err
	})
	if err != nil {
		return fmt.Errorf("open a TUN device: %w", err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	e.closes = append(e.closes, d.Close)
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%v\nallowed_ip=0.0.0.0/0\n",
		hex.EncodeToString(s.Key[:]), WireGuardPort, hex.EncodeToString(s.RemoteKey[:]), netip.AddrPortFrom(s.Remote, WireGuardPort))
	if err := d.IpcSet(config); err != nil {
		return fmt.Errorf("configure WireGuard: %w", err)
	}
	if err := d.Up(); err != nil {
		return fmt.Errorf("open WireGuard's UDP port %d: %w", WireGuardPort, err)
	}
	return e.setMTU(ctx, s.MTU)
}
