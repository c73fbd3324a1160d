package bgp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"weft/routing/bgp/speaker"
)

// tcpListen is the state of a listening socket (TCP_LISTEN of Linux's tcp_states.h).
const tcpListen = 10

// taken adds to an error of listening on port who has it, as far as /proc tells: in the network namespace of process
// near, and of the processes that this one sees.
func taken(err error, near int, port uint16) error {
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		return err
	}
	pid, args := holder(near, port)
	if pid == 0 {
		return fmt.Errorf("%w; who has the port is not to be seen from here: `ss -ltnp 'sport = :%d'` on the host tells; end it, or run `weft node --bgp=false`", err, port)
	}
	who := fmt.Sprintf("process %d (%s)", pid, strings.Join(args, " "))
	if p, ok := speaker.ParseArgs(args); ok {
		return fmt.Errorf("%w; %s has the port, the BGP speaker of a node service with --run-dir %s: if that one is gone for good, end it with `kill %d`", err, who, p.Dir, pid)
	}
	return fmt.Errorf("%w; %s has the port: stop it, or run `weft node --bgp=false`", err, who)
}

// holder returns the process that listens on a TCP port, with its arguments; 0 where that is not to be seen.
func holder(near int, port uint16) (pid int, args []string) {
	sockets := map[string]bool{}
	fs, err := procfs.NewFS("/proc/" + strconv.Itoa(near))
	if err != nil {
		return 0, nil
	}
	// Netlink would have to enter the network namespace of that process; and one of the families may not be there.
	four, _ := fs.NetTCP() //nolint:staticcheck // deprecated for netlink
	six, _ := fs.NetTCP6() //nolint:staticcheck // the same
	for _, s := range slices.Concat(four, six) {
		if s.St == tcpListen && s.LocalPort == uint64(port) {
			sockets[fmt.Sprintf("socket:[%d]", s.Inode)] = true
		}
	}
	if len(sockets) == 0 {
		return 0, nil
	}
	all, _ := procfs.AllProcs()
	for _, p := range all {
		files, _ := p.FileDescriptorTargets() // it may have ended
		if !slices.ContainsFunc(files, func(f string) bool { return sockets[f] }) {
			continue
		}
		args, _ := p.CmdLine()
		return p.PID, args
	}
	return 0, nil
}
