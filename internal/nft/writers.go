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
// which they watch. An owner writes its own part only, so that none has to hear of another's: the kernel keeps such events
// from all these sockets.
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

// among changes the writers of a namespace and tells the kernel.
func among(ns namespace, change func(*writers)) error {
	writersMu.Lock()
	defer writersMu.Unlock()
	w := inside[ns]
	if w == nil {
		w = &writers{map[uint32]bool{}, map[*netlink.Conn]bool{}}
		inside[ns] = w
	}
	change(w)
	if len(w.ports)+len(w.watchers) == 0 {
		delete(inside, ns)
		return nil
	}
	filter, err := without(slices.Sorted(maps.Keys(w.ports)))
	for c := range w.watchers {
		err = errors.Join(err, c.SetBPF(filter))
	}
	return err
}

// without is a filter that takes events, and of one transaction those of one datagram, unless they carry one of the ports
// (nlmsg_pid of the first message).
func without(ports []uint32) ([]bpf.RawInstruction, error) {
	const offset, most = 12, 255 // a jump has 8 bits
	if len(ports) > most {
		return nil, fmt.Errorf("%d owners of parts of nftables in one network namespace, want %d at most", len(ports), most)
	}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}
	for i, p := range ports {
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], p) // the filter's loads are in network order, the header is not
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: uint8(len(ports) - i)})
	}
	return bpf.Assemble(append(program, bpf.RetConstant{Val: 1 << 30}, bpf.RetConstant{Val: 0}))
}
