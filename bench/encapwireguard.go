package bench

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/internal/byhand"
	"weft/internal/kernel"
)

const (
	wireGuardByHand = "wireguard-by-hand"
	handWireGuard   = "hand-wg"
	handPort        = 51830
	// wireGuardStart is how long such a process may take to have its device.
	wireGuardStart = 10 * time.Second
)

// wireGuardCommand is the process that has a WireGuard device where the kernel has none; it ends with its standard input.
func wireGuardCommand() *cobra.Command {
	return &cobra.Command{Use: wireGuardByHand + " DEVICE", Hidden: true, Args: cobra.ExactArgs(1), SilenceUsage: true,
		Short: "Have a WireGuard device, configured by the standard input, until that ends",
		RunE: func(cmd *cobra.Command, args []string) error {
			return byhand.WireGuard(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		}}
}

// handKey is the private key of a side: nothing that it encrypts leaves this machine.
func handKey(side int) wgtypes.Key {
	k := wgtypes.Key(sha256.Sum256([]byte{'w', 'e', 'f', 't', byte(side)}))
	k[0], k[31] = k[0]&248, k[31]&127|64 // RFC 7748
	return k
}

func (b *byHand) wireGuard(ctx context.Context, side, mtu int, pod netip.Prefix) error {
	private, peer := handKey(side), handKey(1-side).PublicKey()
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%v\nallowed_ip=%v\n\n", hex.EncodeToString(private[:]), handPort,
		hex.EncodeToString(peer[:]), netip.AddrPortFrom(handOuter[1-side], handPort), pod)
	end, err := startWireGuard(place(b.hosts[side]), config)
	if err != nil {
		return fmt.Errorf("start WireGuard by hand: %w", err)
	}
	b.tunnels = append(b.tunnels, end)
	return b.commands(ctx, side, append([]string{fmt.Sprintf("ip link set %s mtu %d up", handWireGuard, mtu)}, byhand.Routes(handWireGuard, netip.Addr{}, pod)...))
}

// startWireGuard starts the process in a namespace and waits until it has its device.
func startWireGuard(netns, config string) (end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "bench", wireGuardByHand, handWireGuard)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as the node service's: fair to each other, and not of the terminal
	var text strings.Builder
	cmd.Stderr = &text
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, kernel.Do(netns, cmd.Start)); err != nil {
		return nil, err
	}
	end = func() {
		_ = in.Close()
		late := time.AfterFunc(wireGuardStart, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	}
	late := time.AfterFunc(wireGuardStart, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_, err = io.WriteString(in, config)
	line, readErr := bufio.NewReader(out).ReadString('\n')
	if err == nil && readErr == nil && strings.TrimSpace(line) == byhand.WireGuardReady {
		return end, nil
	}
	end()
	return nil, fmt.Errorf("it does not say that it is ready: %s", firstLine(text.String()))
}
