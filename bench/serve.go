package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/load"
	"weft/bench/mtu"
)

// servePort is the TCP and UDP port of `weft bench serve`.
const servePort = 7464

// Serve is the other end of `weft bench mtu HOST`.
type Serve struct {
	Listen string
	Token  string
	Idle   time.Duration
	Out    io.Writer
	Log    io.Writer
}

func serveCommand() *cobra.Command {
	s := &Serve{}
	cmd := &cobra.Command{
		Use:   "serve --listen ADDRESS",
		Short: "Be the other end of weft bench mtu on another host",
		Long: `Answer and count for weft bench mtu HOST, which whoever knows the token may run. Tunnel devices and their addresses are in
network namespaces without a name, which are gone when the session or this process ends, however it ends. While a session
measures, the host takes VXLAN at UDP 14789 and WireGuard at UDP 14820, at all its addresses, and IPIP from the client, unless it
has IPIP already; what they carry reaches nothing but this command. Sessions are not encrypted. It ends by itself when nobody used it for --idle.`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if _, err := serveAddress(s.Listen); err != nil {
				return fmt.Errorf("--listen: %w", err)
			}
			if s.Token != "" && len(s.Token) < 16 {
				return errors.New("--token: want 16 characters or more, or none: then one is made")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				s.Out, s.Log = out, log
				return s.Run(ctx)
			})
		},
	}
	cmd.Flags().StringVar(&s.Listen, "listen", "", "`address` of this host to listen at, with a port or without (7464)")
	cmd.Flags().StringVar(&s.Token, "token", "", "`token` that clients must know; one is made and printed when there is none")
	cmd.Flags().DurationVar(&s.Idle, "idle", 10*time.Minute, "end after so long without a session")
	return cmd
}

// serveAddress reads ADDRESS or ADDRESS:PORT.
func serveAddress(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return at, fmt.Errorf("%q is no IP address, with a port or without", text)
		}
		at = netip.AddrPortFrom(a, servePort)
	}
	if at.Addr().IsUnspecified() {
		return at, fmt.Errorf("%v: want one address, not all of them", at.Addr())
	}
	return at, nil
}

// Run serves until ctx ends or nobody uses it any more.
func (s *Serve) Run(ctx context.Context) error {
	at, err := serveAddress(s.Listen)
	if err != nil {
		return err
	}
	if s.Token == "" {
		s.Token = strings.ToLower(rand.Text())
	}
	l, err := load.Listen(ctx, "", at)
	if err != nil {
		return err
	}
	ends := &mtu.Ends{Local: at.Addr()}
	server := &load.Server{Token: s.Token, Log: func(format string, args ...any) { fmt.Fprintf(s.Log, format+"\n", args...) }, Setup: ends.Setup}
	ends.Server = server
	fmt.Fprintf(s.Out, "serving at %v; on the other host, as root:\n  weft bench mtu %v --token %s\n", l.Addr(), l.Addr(), s.Token)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if server.Unused() > s.Idle {
					fmt.Fprintf(s.Log, "nobody used it for %v: ended\n", s.Idle)
					stop()
					return
				}
			}
		}
	}()
	err = server.Serve(ctx, l)
	stop()
	<-idle
	return err
}
