package wireguard

import (
	"bufio"
	"fmt"
	"os"

	"golang.zx2c4.com/wireguard/conn"
	wgo "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	bareCommand  = "bare-wireguard"
	agentCommand = "agent"
)

// bare is wireguard-go's own main without its socket: it reads its configuration from the standard input,
// up to an empty line, and runs until that ends.
func bare() error {
	t, err := tun.CreateTUN(os.Args[2], wgo.DefaultMTU)
	if err != nil {
		return err
	}
	d := wgo.NewDevice(t, conn.NewDefaultBind(), wgo.NewLogger(wgo.LogLevelError, "bare "))
	in := bufio.NewReader(os.Stdin)
	var cfg string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if line == "\n" {
			break
		}
		cfg += line
	}
	if err := d.IpcSet(cfg); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = in.ReadString('\n')
	d.Close()
	return nil
}

func agent() error { return nil }
