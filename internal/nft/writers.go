package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// writers are the netlink ports by which the owners of this process write in one network namespace, and the sockets on
// which they watch. An owner writes its own part only (prefixes differ, and none begins with another), so that none has to
// hear of another's writing: the kernel keeps such events from all these sockets.
type writers struct {
	ports    map[uint32]bool
	watchers map[*netlink.Conn]bool
}

// namespace tells network namespaces from each other while something in them is open.
type namespace struct{ dev, inode uint64 }

var (
	writersMu sync.Mutex
	inside    = map[namespace]*writers{}
)

func namespaceOf(f *os.File) (namespace, error) {
	var st unix.Stat_t
	raw, err := f.SyscallConn()
	if err != nil {
		return namespace{}, err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) })
	if err := errors.Join(ctlErr, err); err != nil {
		return namespace{}, fmt.Errorf("identify a network namespace: %w", err)
	}
	return namespace{st.Dev, st.Ino}, nil
}

// maxWriters is how far a jump of a filter goes.
const maxWriters = 255

// enter makes a port one of those that write in the namespace.
func enter(ns namespace, port uint32) error {
	return among(ns, func(w *writers) error {
		if len(w.ports) >= maxWriters {
			return fmt.Errorf("%d owners of parts of nftables write in one network namespace, want %d at most", len(w.ports)+1, maxWriters)
		}
		w.ports[port] = true
		return nil
	})
}

// leave is for a port that is closed next: then it may be anybody's.
func leave(ns namespace, port uint32) {
	_ = among(ns, func(w *writers) error { delete(w.ports, port); return nil })
}

// among changes the writers of a namespace and tells the kernel. A socket whose filter the kernel does not take is closed,
// so that its Watch ends with an error and is begun again by its caller: it would miss events or hear too many.
func among(ns namespace, change func(*writers) error) error {
	writersMu.Lock()
	defer writersMu.Unlock()
	w := inside[ns]
	if w == nil {
		w = &writers{map[uint32]bool{}, map[*netlink.Conn]bool{}}
		inside[ns] = w
	}
	err := change(w)
	if len(w.ports)+len(w.watchers) == 0 {
		delete(inside, ns)
	}
	if err != nil {
		return err
	}
	filter, err := without(slices.Sorted(maps.Keys(w.ports)))
	if err != nil {
		return err
	}
	for c := range w.watchers {
		if err := c.SetBPF(filter); err != nil {
			delete(w.watchers, c)
			_ = c.Close()
		}
	}
	return nil
}

// without is a filter that drops a datagram whose first message carries one of the ports (nlmsg_pid): the kernel tells of
// one transaction in datagrams of its own. It takes maxWriters of them.
func without(ports []uint32) ([]bpf.RawInstruction, error) {
	const offset = 12 // of nlmsg_pid
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}
	for i, p := range ports {
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], p) // the filter's loads are in network order, the header is not
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: uint8(len(ports) - i)})
	}
	return bpf.Assemble(append(program, bpf.RetConstant{Val: 1 << 30}, bpf.RetConstant{Val: 0}))
}
