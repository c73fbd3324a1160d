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
			{what: "node service killed and started", do: func(ctx context.Context) error {
				start, err := h.stopNode(ctx)
				if err != nil {
					return err
				}
				return start()
			}},
		}},
		{"IPIP", func(ctx context.Context) error { return h.comeTo(ctx, demoModes[2]) }, func(ctx context.Context) error { return h.comeTo(ctx, demoModes[0]) }, []sabotage{
			sh("tunnel device deleted", "ip link del "+kernel.IPIPDevice),
			{what: "eBPF programs and clsact filters removed", do: h.detach},
		}},
		{"WireGuard", func(ctx context.Context) error { _, err := h.encrypt(ctx, true, wireGuard); return err },
			func(ctx context.Context) error { _, err := h.encrypt(ctx, false, demoModes[0].reach); return err }, []sabotage{
				h.killing("process killed", userspace.CommandName),
			}},
		{"BGP", none, none, []sabotage{h.killing("speaker killed", speaker.CommandName)}},
	}
}

func (h *Heal) netns() string { return kernel.NetnsPath(h.lab.Netns(healNode)) }

func (h *Heal) flushRoutes(ctx context.Context) error {
	_, err := run(ctx, h.netns(), "ip", "route", "flush", "proto", "87")
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

// killing kills the processes of the node, which are in its network namespace, that run a subcommand of weft. It is
// healed when others run.
func (h *Heal) killing(what, command string) sabotage {
	var killed []int
	return sabotage{what: what,
		do: func(context.Context) error {
			if killed = h.processes(command); len(killed) == 0 {
				return fmt.Errorf("no process of %s runs weft %s", healNode, command)
			}
			var errs []error
			for _, pid := range killed {
				errs = append(errs, unix.Kill(pid, unix.SIGKILL))
			}
			return errors.Join(errs...)
		},
		back: func(context.Context) bool {
			return slices.ContainsFunc(h.processes(command), func(pid int) bool { return !slices.Contains(killed, pid) })
		}}
}

// detach takes away whatever programs are attached to the tunnel's and the underlay's links.
func (h *Heal) detach(ctx context.Context) error {
	detached := 0
	err := kernel.Do(h.netns(), func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Name != "eth0" && !strings.HasPrefix(l.Name, "weft-") {
				continue
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				there, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: at})
				if err != nil {
					continue // this kernel has no such hook
				}
				for _, p := range there.Programs {
					if detachProgram(l.Index, at, p.ID) == nil {
						detached++
					}
				}
			}
		}
		return nil
	})
	if err != nil || detached > 0 {
		return err
	}
	_, err = run(ctx, h.netns(), "sh", "-c", "for d in eth0 "+kernel.IPIPDevice+"; do tc qdisc del dev $d clsact; done 2>/dev/null; true")
	return err
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
const stateScript = `
ip -4 -o route show table all proto 87; ip -6 -o route show table all proto 87; ip -4 rule
ip -d -o link show | grep -o 'weft-[^:]*:.*'
ip -o addr show | grep weft
ip -4 neigh show nud permanent
bridge fdb show | grep dst
for d in eth0 weft-ipip; do tc filter show dev $d ingress; tc filter show dev $d egress; done 2>/dev/null
sysctl net.ipv4.ip_forward
echo ==nft
nft -s list table inet ` + kernel.NFTable

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
	err = kernel.Do(h.netns(), func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Name != "eth0" && !strings.HasPrefix(l.Name, "weft-") {
				continue
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				there, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: at})
				if err != nil {
					continue
				}
				out = append(out, fmt.Sprintf("%d programs at %v of %s", len(there.Programs), at, l.Name))
			}
		}
		return nil
	})
	return out, err
}
