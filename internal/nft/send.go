package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Refusal is a message that the kernel refused, by what it was about. With it the whole transaction
// was refused.
type Refusal struct {
	Chain string // a chain, or a rule of it; empty when about something else
	Rule  int    // index among Chain's rules; -1: the chain itself
	Set   string // a set, or elements of it
	Flows string // a flow table
	Err   error
}

// Error names the object and the kernel's reason.
func (r *Refusal) Error() string {
	switch {
	case r.Chain != "" && r.Rule >= 0:
		return fmt.Sprintf("rule %d of nftables chain %s: %v", r.Rule, r.Chain, r.Err)
	case r.Chain != "":
		return fmt.Sprintf("nftables chain %s: %v", r.Chain, r.Err)
	case r.Flows != "":
		return fmt.Sprintf("nftables flow table %s: %v", r.Flows, r.Err)
	case r.Set != "":
		return fmt.Sprintf("nftables set %s: %v", r.Set, r.Err)
	}
	return fmt.Sprintf("nftables: %v", r.Err)
}

// Unwrap returns the kernel's error.
func (r *Refusal) Unwrap() error { return r.Err }

// Refusals lists the refusals that err is made of.
func Refusals(err error) []*Refusal {
	var all []*Refusal
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *Refusal:
			all = append(all, e)
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return all
}

// messages returns what the library has collected and not sent, which is a private field of it. Its
// own Flush asks for an answer to each message, and does not tell which one an error is about.
func messages(c *nftables.Conn) (*[]netlink.Message, error) {
	f := reflect.ValueOf(c).Elem().FieldByName("messages")
	if e := reflect.ValueOf(c).Elem().FieldByName("err"); e.IsValid() && !e.IsNil() {
		return nil, errors.New("nftables: something cannot be encoded")
	}
	if !f.IsValid() || f.Type() != reflect.TypeFor[[]netlink.Message]() {
		return nil, errors.New("nftables: cannot send by this version of github.com/google/nftables")
	}
	return (*[]netlink.Message)(unsafe.Pointer(f.UnsafeAddr())), nil
}

// send sends what tx collected as one transaction and waits for the kernel's verdict: nil when all of it
// is in force, else why none is, as Refusals where a message was at fault.
func (o *Owner) send(tx *Tx) error {
	all, err := messages(o.nft)
	if err != nil {
		return err
	}
	body := *all
	*all = nil
	if len(body) == 0 {
		return nil
	}
	mark := func(kind int) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data: []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	for i := range body {
		body[i].Header.Flags &^= netlink.Acknowledge // errors come anyway
	}
	body[len(body)-1].Header.Flags |= netlink.Acknowledge
	batch := make([]netlink.Message, 0, len(body)+2)
	batch = append(append(append(batch, mark(unix.NFNL_MSG_BATCH_BEGIN)), body...), mark(unix.NFNL_MSG_BATCH_END))
	if _, err := o.sock.SendMessages(batch); err != nil {
		return fmt.Errorf("send %d nftables messages: %w", len(batch), err)
	}
	return o.answers(batch, tx)
}

// answers reads until the last message but one was answered, or the transaction as a whole.
func (o *Owner) answers(batch []netlink.Message, tx *Tx) error {
	first, last := batch[0].Header.Sequence, batch[len(batch)-2].Header.Sequence
	var errs []error
	err := o.receive(func(h header, data []byte) (bool, error) {
		if h.kind != unix.NLMSG_ERROR || len(data) < 4 {
			return false, nil
		}
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
		switch {
		case errno != 0 && (h.seq == first || errno == unix.EPERM):
			return true, fmt.Errorf("nftables transaction: %w", errno)
		case errno != 0 && h.seq > first && h.seq <= last:
			errs = append(errs, tx.refusal(int(h.seq-first)-1, errno))
		}
		return h.seq == last, nil
	})
	return errors.Join(append(errs, err)...)
}

// origin says what messages from an index on are about.
type origin struct {
	from int
	what Refusal
}

// about notes what the messages to come are about.
func (tx *Tx) about(what Refusal) {
	n := 0
	if all, err := messages(tx.nft); err == nil {
		n = len(*all)
	}
	tx.origins = append(tx.origins, origin{n, what})
}

func (tx *Tx) refusal(message int, err error) *Refusal {
	r := Refusal{Rule: -1}
	for _, o := range tx.origins { // in order
		if o.from > message {
			break
		}
		r = o.what
	}
	r.Err = err
	return &r
}
