package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weft/encryption"
	"weft/encryption/guard"
	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/supervise"
	"weft/model/topology"
	"weft/nat"
	"weft/nat/nftables"
	"weft/node/cni/install"
	"weft/node/config"
	"weft/policy"
	"weft/policy/iptables"
	"weft/routing"
	"weft/routing/bgp"
	"weft/routing/fib"
	"weft/tunnel"
	"weft/tunnel/ipip"
)

// CleanupOptions say what Cleanup does.
type CleanupOptions struct {
	DataDir, RunDir string
	CNI             install.Options
	DryRun          bool // only tell what there is
	Pods            bool // take attached pods off the network as well; without, they are an error
	Data            bool // remove the data directory as well: keys, the journal of pods, an embedded store
}

// originalsFile is the name, in the run directory, of what the host's settings were before.
const originalsFile = "sysctls.json"

// trace is one kind of what nodes leave on a host: what there is of it, a line each, and what takes it away.
type trace struct {
	find   func(context.Context) ([]string, error)
	remove func(context.Context) error
}

// Cleanup makes the host as it was before weft was installed, and tells on out what it removed. It uses no store. It
// removes in the reverse order of making: what attracts traffic goes before what carries it. What could not be removed
// is in the error; a second call goes on.
func Cleanup(ctx context.Context, o CleanupOptions, out io.Writer, log *slog.Logger) error {
	cfg := &config.Config{DataDir: o.DataDir, RunDir: o.RunDir, IPIPDriver: config.IPIPAuto, WireGuardDriver: config.WireGuardAuto}
	if _, err := os.Stat(filepath.Join(o.RunDir, lockName)); err == nil && !o.DryRun {
		f, err := lockDir("run-dir", o.RunDir)
		if err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
		defer f.Close()
	}
	s := &service{cfg: cfg, log: log, ways: map[string]string{}}
	var err error
	if s.handle, err = kernel.Open(); err != nil {
		return fmt.Errorf("open netlink: %w; weft cleanup needs CAP_NET_ADMIN", err)
	}
	defer s.handle.Close()
	if s.originals, err = kernel.OpenOriginals(filepath.Join(o.RunDir, originalsFile)); err != nil {
		return err
	}
	if !o.Pods && !o.DryRun {
		if err := s.noPods(ctx); err != nil {
			return err
		}
	}
	var errs []error
	removed := 0
	for _, t := range s.traces(o.CNI) {
		n, err := t.clean(ctx, o.DryRun, out)
		if removed += n; err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil { // what is known of the host stays for the next call
		return err
	}
	for _, t := range directories(o) {
		n, err := t.clean(ctx, o.DryRun, out)
		if removed += n; err != nil {
			return err
		}
	}
	switch {
	case removed == 0:
		fmt.Fprintln(out, "nothing of weft is on this host")
	case o.DryRun:
		fmt.Fprintf(out, "%d things would be removed; this was a dry run\n", removed)
	default:
		fmt.Fprintf(out, "%d things removed\n", removed)
	}
	return nil
}

// clean tells what there is, removes it, and looks whether it is gone.
func (t trace) clean(ctx context.Context, dry bool, out io.Writer) (removed int, err error) {
	have, err := t.find(ctx)
	if err != nil || len(have) == 0 {
		return 0, err
	}
	for _, l := range have {
		fmt.Fprintln(out, l)
	}
	if dry {
		return len(have), nil
	}
	err = t.remove(ctx)
	left, err2 := t.find(ctx)
	if err = errors.Join(err, err2); err == nil && len(left) > 0 {
		err = fmt.Errorf("removed, and there again: %s: something else on this host makes it", strings.Join(left, ", "))
	}
	return len(have) - len(left), err
}

func (s *service) noPods(ctx context.Context) error {
	links, err := s.handle.Links(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, l := range links {
		if kernel.IsPodDevice(l) {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("clean up: %d pods are attached to this host: drain it first, or take the network from them by --pods", n)
	}
	return nil
}

// traces lists what a node leaves outside of its directories, in the order in which it goes.
func (s *service) traces(cni install.Options) []trace {
	return slices.Concat([]trace{
		{cni.Present, cni.Remove},
		s.speakerTrace(),
		s.linkTrace("pod link", kernel.IsPodDevice, nil),
		s.routeTrace(),
	}, s.policyTraces(), []trace{
		s.linkTrace("device", isTunnel, s.removeTunnels),
		s.programTrace(),
		s.tableTrace(),
		{func(context.Context) ([]string, error) { return s.settings() }, func(context.Context) error { return s.originals.Restore() }},
	})
}

// isTunnel tells whether a link is a tunnel's device, by name and kind.
func isTunnel(l kernel.Link) bool {
	named := slices.ContainsFunc([]string{kernel.VXLANDevice, kernel.IPIPDevice, kernel.WireGuardDevice}, func(p string) bool { return strings.HasPrefix(l.Name, p) })
	kinds := []string{"vxlan", kernel.KindIPIP, kernel.KindDummy, kernel.KindIFB, kernel.KindWireGuard, kernel.KindTUN}
	return named && slices.Contains(kinds, l.Kind)
}

// directories are those of the node service, with what it keeps there.
func directories(o CleanupOptions) []trace {
	list := []trace{directory(o.RunDir, "*.sock", "*.sock.lock", "bgp-speaker.*", "wireguard-"+kernel.WireGuardDevice+"*", originalsFile, originalsFile+".new", lockName)}
	if o.Data {
		list = append(list, directory(o.DataDir, "endpoints", "encryption", "etcd", policyFile+"*", lockName))
	}
	return list
}

func (s *service) speakerTrace() trace {
	d := bgp.New(s.handle, s.log, bgp.Options{Dir: s.cfg.RunDir, LogDir: s.cfg.RunDir})
	return trace{
		func(ctx context.Context) ([]string, error) {
			socket := filepath.Join(s.cfg.RunDir, "bgp-speaker.sock")
			pid, err := supervise.Listener(ctx, socket)
			if err != nil || pid == 0 {
				return nil, err
			}
			return []string{fmt.Sprintf("process %d: the BGP speaker", pid)}, nil
		},
		func(ctx context.Context) error {
			defer d.Close()
			_, err := d.Apply(ctx, routing.Speaker{})
			return err
		},
	}
}

// linkTrace is of the devices that is tells of; without a remove of their own they are deleted one by one.
func (s *service) linkTrace(what string, is func(kernel.Link) bool, remove func(context.Context) error) trace {
	names := func(ctx context.Context) (out []string, err error) {
		links, err := s.handle.Links(ctx)
		for _, l := range links {
			if is(l) {
				out = append(out, l.Name)
			}
		}
		return out, err
	}
	return trace{
		func(ctx context.Context) ([]string, error) {
			all, err := names(ctx)
			for i := range all {
				all[i] = what + " " + all[i]
			}
			return all, err
		},
		func(ctx context.Context) error {
			var errs []error
			if remove != nil {
				errs = append(errs, remove(ctx))
			}
			all, err := names(ctx) // of any driver's that this host cannot serve now
			errs = append(errs, err)
			for _, n := range all {
				errs = append(errs, s.handle.LinkDelete(ctx, n))
			}
			return errors.Join(errs...)
		},
	}
}

// removeTunnels has the tunnel drivers remove their devices, and end the processes behind them.
func (s *service) removeTunnels(ctx context.Context) error {
	var errs []error
	if d := s.wireguardDriver(ctx); d != nil {
		_, err := d.Apply(ctx, encryption.Plan{})
		d.Close()
		errs = append(errs, err)
	}
	for _, d := range s.tunnelDrivers(ctx) {
		_, err := d.Apply(ctx, tunnel.Plan{})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ruledTables are the tables of ours that rules of ours lead to.
func ruledTables() []int { return []int{kernel.HostTable, kernel.ServiceTable} }

func (s *service) routeTrace() trace {
	return trace{
		func(ctx context.Context) (out []string, err error) {
			routes, err := kernel.RouteTable(s.handle, kernel.MainTable, kernel.HostTable, kernel.ServiceTable).List(ctx)
			if err != nil {
				return nil, err
			}
			if n := len(routes); n > 0 {
				out = append(out, fmt.Sprintf("%d routes of protocol %d", n, kernel.RouteProtocol))
			}
			n := 0
			for _, table := range ruledTables() {
				rules, err := kernel.RuleTable(s.handle, table).List(ctx)
				if err != nil {
					return nil, err
				}
				n += len(rules)
			}
			if n > 0 {
				out = append(out, fmt.Sprintf("%d routing rules of protocol %d", n, kernel.RouteProtocol))
			}
			return out, nil
		},
		func(ctx context.Context) error {
			var errs []error
			for _, table := range ruledTables() {
				_, err := fib.NewRuled(s.handle, s.log, table).Apply(ctx, routing.Ruled{})
				errs = append(errs, err)
			}
			_, err := fib.New(s.handle, s.log).Apply(ctx, routing.Plan{})
			return errors.Join(append(errs, err)...)
		},
	}
}

// policyTraces are of the drivers that keep something outside of our table.
func (s *service) policyTraces() []trace {
	d := iptables.New(s.handle, s.log, iptables.Auto)
	return []trace{{d.Remains, func(ctx context.Context) error {
		defer d.Close()
		_, err := d.Apply(ctx, policy.Update{})
		return err
	}}}
}

// programTrace is of eBPF programs on links that are not ours.
func (s *service) programTrace() trace {
	d := ipip.New(s.handle, ipip.Kernel, s.log) // the way in which a kernel without eBPF is no error
	return trace{d.Remains, func(ctx context.Context) error {
		defer d.Close()
		_, err := d.Apply(ctx, tunnel.Plan{})
		return err
	}}
}

// tableTrace is of the nftables table: each owner takes its part, and what nobody claims goes with the table.
func (s *service) tableTrace() trace {
	return trace{
		func(ctx context.Context) ([]string, error) {
			there, err := nft.TablePresent(s.handle)
			if err != nil || !there {
				return nil, err
			}
			return []string{"nftables table inet " + kernel.NFTable}, nil
		},
		func(ctx context.Context) error {
			g, n := guard.New(s.handle), nftables.New(s.handle, s.log)
			defer g.Close()
			defer n.Close()
			_, err := g.Apply(ctx, topology.Guard{})
			_, err2 := n.Apply(ctx, nat.Plan{})
			return errors.Join(err, err2, nft.DropTable(s.handle))
		},
	}
}

func (s *service) settings() ([]string, error) {
	all, err := s.originals.Changed()
	for i := range all {
		all[i] = "sysctl " + all[i]
	}
	return all, err
}

// directory is of what is in a directory by these names; the directory itself goes when nothing else is in it.
func directory(path string, names ...string) trace {
	ours := func() (out []string) {
		for _, n := range names {
			found, _ := filepath.Glob(filepath.Join(path, n)) // the pattern is sound
			out = append(out, found...)
		}
		return out
	}
	return trace{
		func(context.Context) ([]string, error) {
			n := len(ours())
			if n == 0 {
				return nil, nil
			}
			return []string{fmt.Sprintf("directory %s (%d entries of the node service)", path, n)}, nil
		},
		func(context.Context) error {
			var errs []error
			for _, f := range ours() {
				errs = append(errs, os.RemoveAll(f))
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// loggerSysctl is the setting that says where the kernel logs packets to. Reading our log group sets it.
const loggerSysctl, netlinkLogger = "net/netfilter/nf_log/0", "nfnetlink_log"

// noteLogger remembers what that setting was.
func (s *service) noteLogger() {
	was, err := kernel.GetSysctl(loggerSysctl)
	if err == nil && was != netlinkLogger {
		err = s.originals.Note(loggerSysctl, was, netlinkLogger)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a setting of the host will not be put back", "err", err)
	}
}
