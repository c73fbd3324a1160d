package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpBuffer in bytes is the most that the kernel fills at once. It begins each part of a set's dump at the
// set's begin, so that small parts of a big set take a time that grows with its square.
const dumpBuffer = 32 << 10

// dump asks for all objects of a kind and calls f with the attributes of each. A dump that something
// changed meanwhile is unix.EINTR.
func (o *Owner) dump(kind int, filter []netlink.Attribute, f func(*netlink.AttributeDecoder) error) error {
	attrs, err := netlink.MarshalAttributes(filter)
	if err != nil {
		return err
	}
	sent, err := o.sock.SendMessages([]netlink.Message{{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attrs...)}})
	if err != nil {
		return err
	}
	interrupted := false
	err = o.receive(func(h header, data []byte) (last bool, err error) {
		const nfgenmsg = 4 // struct nfgenmsg: family, version, resource id
		interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case h.seq != sent[0].Header.Sequence:
			return false, nil
		case h.kind == unix.NLMSG_DONE:
			return true, nil
		case h.kind == unix.NLMSG_ERROR && len(data) >= 4:
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
		case len(data) < nfgenmsg:
			return true, fmt.Errorf("an answer of %d bytes", len(data))
		}
		ad, err := netlink.NewAttributeDecoder(data[nfgenmsg:])
		if err == nil {
			err = f(ad)
		}
		return err != nil, err
	})
	if err == nil && interrupted {
		err = unix.EINTR
	}
	return err
}

// header is what a netlink message says of itself.
type header struct {
	kind, flags uint16
	seq         uint32
}

// receive reads messages and calls f with each, until f says that it was the last.
func (o *Owner) receive(f func(h header, data []byte) (last bool, err error)) error {
	raw, err := o.sock.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, dumpBuffer)
	for {
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, _, readErr = unix.Recvfrom(int(fd), buf, 0)
			return readErr != unix.EAGAIN && readErr != unix.EINTR
		})
		if err = errors.Join(err, readErr); err != nil {
			return fmt.Errorf("receive nftables' answer: %w", err)
		}
		if last, err := split(buf[:n], f); last || err != nil {
			return err
		}
	}
}

// split calls f with each message of what was read at once, until f says that it was the last.
func split(b []byte, f func(h header, data []byte) (last bool, err error)) (last bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return false, fmt.Errorf("nftables' answer: a message of %d bytes in %d", length, len(b))
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		if last, err := f(h, b[unix.SizeofNlMsghdr:length]); last || err != nil {
			return last, err
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return false, nil
}
