package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
)

const (
	// socketBuffer in bytes bounds one transaction (some 300,000 elements) and its answers.
	socketBuffer = 32 << 20
	// transactionTimeout bounds the wait for the kernel's answers to one transaction.
	transactionTimeout = 60 * time.Second
)

// Owner keeps one owner's part of the table. What it wrote itself it remembers; once somebody else
// touched it, it is written anew as a whole, which needs no reading of rules and elements. Its
// methods may be called by any goroutine; transactions come one after the other.
type Owner struct {
	h      *kernel.Handle
	prefix string
	legacy func(name string) bool

	touch   atomic.Bool // it may not be as we left it: write it anew
	foreign atomic.Bool // somebody else changed it: that is a repair
	look    atomic.Bool // have a look at it, in outline
	watched atomic.Bool // Watch is running, so that nothing changes unnoticed

	mu    sync.Mutex
	nft   *nftables.Conn // nil: not open
	sock  *netlink.Conn  // of nft
	port  uint32         // of sock
	ns    namespace      // of sock
	known bool           // have is in the kernel
	have  func() Program
	empty bool // have is empty
	was   bool // a program has been in the kernel since the start
}

// New returns the owner of what begins with prefix, in the network namespace of h. It touches nothing
// yet. legacy, unless nil, names what earlier versions owned under other names: it is removed by the
// first Apply.
func New(h *kernel.Handle, prefix string, legacy func(name string) bool) *Owner {
	return &Owner{h: h, prefix: prefix, legacy: legacy, have: func() Program { return Program{} }, empty: true}
}

// Name returns the prefix with name behind it.
func (o *Owner) Name(name string) string { return o.prefix + name }

// Close releases the Owner's socket and leaves the kernel as it is.
func (o *Owner) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.close()
}

// Invalidate makes the next Apply or Sync look at what is there: while Watch runs, at chains, sets,
// counters and the number of rules (whoever changes elements is noticed by Watch); otherwise it writes
// all anew.
func (o *Owner) Invalidate() {
	if o.watched.Load() {
		o.look.Store(true)
	} else {
		o.touch.Store(true)
	}
}

// Apply makes the owner's part as want. update says how want differs from what the last call wanted;
// nil says: in nothing. It is used when the last call succeeded and nobody else changed anything;
// otherwise want is written as a whole. After an error the next call writes all.
func (o *Owner) Apply(ctx context.Context, want Program, update func(*Tx) error) (reconcile.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.apply(ctx, func() Program { return want }, want.Empty(), update)
}

// ApplyLazily is Apply for a program that is long to write down and never empty. want is called, within
// this call and later ones, when the whole is needed; it returns what the caller wants at that time.
func (o *Owner) ApplyLazily(ctx context.Context, want func() Program, update func(*Tx) error) (reconcile.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.apply(ctx, want, false, update)
}

// Sync makes the owner's part as want, and finds out itself how that differs from what the last call
// wanted. Its cost is that of comparing both: for big sets that change often, use Apply.
func (o *Owner) Sync(ctx context.Context, want Program) (reconcile.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	want = want.fixed()
	d, ok := diff(o.have(), want)
	update := func(tx *Tx) error { return tx.change(d) }
	switch {
	case !ok:
		update = func(tx *Tx) error { return tx.Replace(want) }
	case d.none():
		update = nil
	}
	return o.apply(ctx, func() Program { return want }, want.Empty(), update)
}

func (o *Owner) apply(ctx context.Context, want func() Program, empty bool, update func(*Tx) error) (res reconcile.Result, err error) {
	defer func() {
		if err != nil {
			o.known = false
		}
	}()
	o.lookAround(ctx)
	if o.touch.Swap(false) {
		o.known = false
	}
	if o.known && update == nil && o.empty == empty {
		return reconcile.Result{}, ctx.Err()
	}
	replace := func(tx *Tx) error { return tx.Replace(want()) }
	repair := o.foreign.Swap(false) && o.was
	if o.known {
		if o.empty || empty {
			update = replace
		}
		if res, err = o.transact(ctx, update); err != nil {
			// What we remember is not what is there. Once more, from what is there.
			o.known = false
			repair = true
		}
	}
	if !o.known {
		if res, err = o.transact(ctx, replace); err != nil {
			return reconcile.Result{}, fmt.Errorf("program %s... in nftables table inet %s%s: %w", o.prefix, kernel.NFTable, o.hint(err), err)
		}
	}
	o.known, o.have, o.empty = true, want, empty
	if repair && !empty {
		res = res.Add(reconcile.Result{Changed: 1, Repaired: 1})
	}
	o.was = !empty
	return res, nil
}

// Rewrite writes what the last Apply or Sync wanted anew, as one transaction: flow tables begin empty. Before the first it
// removes what an earlier process left.
func (o *Owner) Rewrite(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known && o.empty && !o.touch.Load() {
		return ctx.Err()
	}
	o.known = false
	_, err := o.apply(ctx, o.have, o.empty, nil)
	return err
}

// Look does what Invalidate asked for, before the caller changes what ApplyLazily's want returns.
func (o *Owner) Look(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lookAround(ctx)
}

func (o *Owner) lookAround(ctx context.Context) {
	if o.look.Swap(false) && o.known && !o.intact(ctx) {
		o.foreign.Store(true)
		o.known = false
	}
}

// hint says what to do about errors that have one usual cause.
func (o *Owner) hint(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY): // first: other messages of the batch then fail for it
		return " (a rule of somebody else jumps to a chain or uses a set named " + o.prefix + "...: remove it)"
	case errors.Is(err, unix.EPERM):
		return " (needs CAP_NET_ADMIN)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return " (the kernel needs NF_TABLES and NF_TABLES_INET)"
	}
	return ""
}

// Counter returns what a counter of the owner counted; zero when there is none of that name.
func (o *Owner) Counter(ctx context.Context, name string) (packets uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := o.open(); err != nil {
		return 0, err
	}
	obj, err := o.nft.GetObject(&nftables.CounterObj{Table: table(), Name: name})
	if c, ok := obj.(*nftables.CounterObj); ok && err == nil {
		return c.Packets, nil
	}
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return 0, fmt.Errorf("read nftables counter %s: %w", name, err)
}

// transact sends what f puts together as one transaction.
func (o *Owner) transact(ctx context.Context, f func(*Tx) error) (reconcile.Result, error) {
	if err := ctx.Err(); err != nil {
		return reconcile.Result{}, err
	}
	if err := o.open(); err != nil {
		return reconcile.Result{}, err
	}
	tx := &Tx{nft: o.nft, owner: o, table: table()}
	err := errors.Join(f(tx), tx.err)
	if err == nil {
		_ = o.sock.SetDeadline(time.Now().Add(transactionTimeout))
		err = o.send(tx)
		if err == nil && tx.mayDropTable {
			err = dropEmptyTable(o.sock)
		}
		_ = o.sock.SetDeadline(time.Time{})
	}
	if err != nil {
		o.close() // answers may still be under way on this socket
		return reconcile.Result{}, err
	}
	return tx.res, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: kernel.NFTable, Family: nftables.TableFamilyINet}
}

// dropEmptyTable removes the table unless somebody has something in it, which the kernel judges.
func dropEmptyTable(sock *netlink.Conn) error {
	const nonRecursive = 0x100 // NLM_F_NONREC: refuse to delete what is not empty (Linux 4.15)
	batch := func(kind int) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data: []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(kernel.NFTable), 0)}})
	if err != nil {
		return err
	}
	_, err = sock.SendMessages([]netlink.Message{
		batch(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE,
				Flags: netlink.Request | netlink.Acknowledge | nonRecursive},
			Data: append([]byte{unix.NFPROTO_INET, 0, 0, 0}, name...),
		},
		batch(unix.NFNL_MSG_BATCH_END),
	})
	if err == nil {
		_, err = sock.Receive()
	}
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the empty table inet %s: %w", kernel.NFTable, err)
	}
	return nil
}

// open dials nftables in the handle's namespace.
func (o *Owner) open() error {
	if o.nft != nil {
		return nil
	}
	ns, err := o.h.Namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	var sock *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())), nftables.WithSockOptions(func(c *netlink.Conn) error {
		sock = c
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	o.port, err = portOf(sock)
	if err == nil {
		o.ns, err = namespaceOf(ns)
	}
	if err == nil {
		err = enter(o.ns, o.port)
	}
	if err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	o.nft, o.sock = conn, sock
	return nil
}

func (o *Owner) close() {
	if o.nft != nil {
		leave(o.ns, o.port)
		_ = o.nft.CloseLasting()
		o.nft, o.sock = nil, nil
	}
}
