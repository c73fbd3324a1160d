package byhand

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// WireGuardReady is the line that WireGuard writes once the device is up.
const WireGuardReady = "ready"

// WireGuard is wireguard-go's own main without its socket: it reads the device's configuration up to an empty line,
// writes WireGuardReady, and keeps the device until in ends. It works in the network namespace of its process.
func WireGuard(name string, in io.Reader, out io.Writer) error {
	config, rest := "", bufio.NewReader(in)
	for {
		line, err := rest.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read the configuration of %s: %w", name, err)
		}
		if line == "\n" {
			break
		}
		config += line
	}
	t, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return fmt.Errorf("make TUN device %s: %w", name, err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "bare "))
	defer d.Close()
	if err := errors.Join(d.IpcSet(config), d.Up()); err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	fmt.Fprintln(out, WireGuardReady)
	_, _ = rest.ReadString('\n')
	return nil
}
