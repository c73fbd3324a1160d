package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/encryption/wireguard/userspace"
	"weft/internal/kernel"
	"weft/routing/bgp/speaker"
)

// sabotage is one way to break a node.
type sabotage struct {
	what string
	do   func(context.Context) error
	back func(context.Context) bool // nil: the kernel's state says it all
	// process: it ends processes, and what they keep in the kernel stays.
	process bool
	// only is an encapsulation, and what does it where there is something to break; nil: there always is.
	only *[2]string
}

// changes does a piece where nobody heals. That what is looked at is then as before is an error: it would count as
// healed at once.
func (s sabotage) changes(ctx context.Context, look func(context.Context) (string, error)) error {
	before, err := look(ctx)
	if err != nil {
		return fmt.Errorf("before %s: %w", s.what, err)
	}
	if err := s.do(ctx); err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	after, err := look(ctx)
	if err == nil && after == before {
		err = errors.New("it changed nothing of what is looked at, so that nobody could tell whether it is healed")
	}
	if err != nil {
		return fmt.Errorf("%s, with the node service stopped: %w", s.what, err)
	}
	return nil
}

// healPhase is what nodes are set to, and what can be broken then.
type healPhase struct {
	name       string
	begin, end func(context.Context) error
	pieces     []sabotage
}

func healPhases(h *Heal) []healPhase {
	none := func(context.Context) error { return nil }
	sh := func(what, script string) sabotage {
		return sabotage{what: what, do: func(ctx context.Context) error {
			_, err := run(ctx, h.netns(), "sh", "-c", script)
			return err
		}}
	}
	wireGuard := func(string, string) string { return wireGuardMode }
	wireGuardKilled := h.replacing("process killed", userspace.CommandName, killAll)
	wireGuardKilled.only = &[2]string{"wireguard", "userspace"}
	return []healPhase{
		{"VXLAN", none, none, []sabotage{
			sh("tunnel device deleted", "ip link del "+kernel.VXLANDevice),
			sh("tunnel device down", "ip link set "+kernel.VXLANDevice+" down"),
			{what: "routes flushed", do: h.flushRoutes},
			sh("neighbours flushed", "ip neigh flush dev "+kernel.VXLANDevice+" nud permanent"),
			sh("forwarding entries deleted", "bridge fdb show dev "+kernel.VXLANDevice+" | grep ' dst ' | while read mac _ ip _; do bridge fdb del $mac dev "+kernel.VXLANDevice+" dst $ip; done"),
			sh("nftables table deleted", "nft delete table inet "+kernel.NFTable),
			sh("nftables ruleset flushed", "nft flush ruleset"),
			sh("forwarding turned off", "sysctl -qw net.ipv4.ip_forward=0"),
			h.replacing("node service killed and started", "node", func(ctx context.Context, _ []int) error {
				start, err := h.stopNode(ctx)
				if err != nil {
					return err
				}
				return start()
			}),
		}},
		{"IPIP", func(ctx context.Context) error { return h.comeTo(ctx, demoModes[2]) }, func(ctx context.Context) error { return h.comeTo(ctx, demoModes[0]) }, []sabotage{
			sh("tunnel device deleted", "ip link del "+kernel.IPIPDevice),
			{what: "eBPF programs and clsact filters removed", do: h.detach, only: &[2]string{"ipip", "ebpf"}},
		}},
		{"WireGuard", func(ctx context.Context) error { _, err := h.encrypt(ctx, true, wireGuard); return err },
			func(ctx context.Context) error { _, err := h.encrypt(ctx, false, demoModes[0].reach); return err }, []sabotage{wireGuardKilled}},
		{"BGP", none, none, []sabotage{h.replacing("speaker killed", speaker.CommandName, killAll)}},
	}
}

func (h *Heal) netns() string { return kernel.NetnsPath(h.lab.Netns(healNode)) }

func (h *Heal) flushRoutes(ctx context.Context) error {
	_, err := run(ctx, h.netns(), "ip", "route", "flush", "proto", strconv.Itoa(kernel.RouteProtocol))
	return err
}

// stopNode kills the node service; start starts it again and waits until it is ready.
func (h *Heal) stopNode(ctx context.Context) (start func() error, err error) {
	if _, err := h.lab.Stop(ctx, healNode, unix.SIGKILL); err != nil {
		return nil, err
	}
	return func() error {
		_, err := h.lab.Start(ctx, healNode)
		return err
	}, nil
}

// processes are those of the node that run a subcommand of weft.
func (h *Heal) processes(command string) (pids []int) {
	var own unix.Stat_t
	if unix.Stat(h.netns(), &own) != nil {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var st unix.Stat_t
		args, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || unix.Stat(filepath.Join(d, "ns/net"), &st) != nil || st.Ino != own.Ino || st.Dev != own.Dev {
			continue
		}
		if slices.Contains(strings.Split(string(args), "\x00"), command) {
			var pid int
			if _, err := fmt.Sscanf(filepath.Base(d), "%d", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// replacing ends the processes of the node, which are in its network namespace, that run a subcommand of weft. It is
// healed when as many others run.
func (h *Heal) replacing(what, command string, end func(ctx context.Context, pids []int) error) sabotage {
	var ended []int
	return sabotage{what: what, process: true,
		do: func(ctx context.Context) error {
			if ended = h.processes(command); len(ended) == 0 {
				return fmt.Errorf("no process of %s runs weft %s", healNode, command)
			}
			return end(ctx, ended)
		},
		back: func(context.Context) bool { return replaced(ended, h.processes(command)) }}
}

// replaced tells whether now are as many processes as those that were ended, and none of them.
func replaced(ended, now []int) bool {
	return len(now) >= len(ended) && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(ended, pid) })
}

func killAll(_ context.Context, pids []int) error {
	var errs []error
	for _, pid := range pids {
		errs = append(errs, unix.Kill(pid, unix.SIGKILL))
	}
	return errors.Join(errs...)
}

// hooks calls f for each TCX hook of the tunnel's and the underlay's links. A kernel without TCX has none.
func (h *Heal) hooks(f func(l net.Interface, at ebpf.AttachType, there []link.AttachedProgram)) error {
	return kernel.Do(h.netns(), func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Name != "eth0" && !strings.HasPrefix(l.Name, "weft-") {
				continue
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				if there, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: at}); err == nil {
					f(l, at, there.Programs)
				}
			}
		}
		return nil
	})
}

// detach takes away whatever programs are attached to the tunnel's and the underlay's links.
func (h *Heal) detach(ctx context.Context) error {
	detached := 0
	err := h.hooks(func(l net.Interface, at ebpf.AttachType, there []link.AttachedProgram) {
		for _, p := range there {
			if detachProgram(l.Index, at, p.ID) == nil {
				detached++
			}
		}
	})
	if err != nil || detached > 0 {
		return err
	}
	const clsact = "none=1; for d in eth0 " + kernel.IPIPDevice + "; do tc qdisc del dev $d clsact 2>/dev/null && none=0; done; exit $none"
	if _, err := run(ctx, h.netns(), "sh", "-c", clsact); err != nil {
		return fmt.Errorf("neither programs nor filters are at the links of %s: %w", healNode, err)
	}
	return nil
}

func detachProgram(index int, at ebpf.AttachType, id ebpf.ProgramID) error {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer p.Close()
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: index, Program: p, Attach: at})
}

// stateScript prints what a node keeps in the kernel, as the tools of the system see it.
var stateScript = strings.NewReplacer("PROTO", strconv.Itoa(kernel.RouteProtocol), "IPIP", kernel.IPIPDevice, "TABLE", kernel.NFTable).Replace(`
ip -4 -o route show table all proto PROTO; ip -6 -o route show table all proto PROTO; ip -4 rule
ip -d -o link show | grep -o 'weft-[^:]*:.*'
ip -o addr show | grep weft
ip -4 neigh show nud permanent
bridge fdb show | grep dst
for d in eth0 IPIP; do tc filter show dev $d ingress; tc filter show dev $d egress; done 2>/dev/null
sysctl net.ipv4.ip_forward
echo ==nft
nft -s list table inet TABLE 2>/dev/null || echo none
`)

var (
	stateNoise    = regexp.MustCompile(`(?m)^\d+: |\\ |pref medium|@if\d+|state \w+|qlen \d+|valid_lft.*|expires \w+|linkdown|dead|ifindex \d+|id \d+ tag \w+|link-netnsid \d+`)
	stateElements = regexp.MustCompile(`(?s)elements = \{[^}]*\}`)
)

// state is what the node keeps in the kernel, and which programs run at its links: the same state is the same text.
func (h *Heal) state(ctx context.Context) (string, error) {
	out, err := run(ctx, h.netns(), "sh", "-c", stateScript)
	if err != nil {
		return "", err
	}
	tables, nft, _ := strings.Cut(string(out), "==nft\n")
	var lines []string
	for l := range strings.Lines(tables) {
		lines = append(lines, strings.Join(strings.Fields(stateNoise.ReplaceAllString(l, " ")), " "))
	}
	nft = stateElements.ReplaceAllStringFunc(nft, func(s string) string {
		words := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(",{}\n\t", r) })
		slices.Sort(words)
		return strings.Join(words, ",")
	})
	blocks := strings.Split(nft, "\n\n")
	for i, b := range blocks { // whose order is that in which they were made
		blocks[i] = strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(b, "table inet "+kernel.NFTable+" {\n")), "\n}")
	}
	lines = append(lines, blocks...)
	programs, err := h.programs()
	lines = append(lines, programs...)
	slices.Sort(lines)
	return strings.Join(lines, "\n"), err
}

// programs are the names of those that are attached to the tunnel's and the underlay's links.
func (h *Heal) programs() (out []string, err error) {
	err = h.hooks(func(l net.Interface, at ebpf.AttachType, there []link.AttachedProgram) {
		out = append(out, fmt.Sprintf("%d programs at %v of %s", len(there), at, l.Name))
	})
	return out, err
}
