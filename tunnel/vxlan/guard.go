package vxlan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/tunnel"
)

const (
	// elementsPerMessage keeps one message's attribute far below the 64 KiB that its length field
	// can tell.
	elementsPerMessage = 500
	// socketBuffer in bytes holds one transaction of some 100,000 elements.
	socketBuffer = 16 << 20
	// transactionTimeout bounds the wait for the kernel's answers to one transaction.
	transactionTimeout = 10 * time.Second
)

// guard keeps the program in nftables. Each change is one transaction: there is no moment in which
// a packet meets half of it. What the guard wrote itself it remembers; once somebody else touched
// it, it is written anew as a whole, which needs no reading of rules and elements.
type guard struct {
	h       *kernel.Handle
	touch   atomic.Bool   // it may not be as we left it: write it anew
	foreign atomic.Bool   // somebody else changed it: that is a repair
	look    atomic.Bool   // have a look at it, in outline
	watched atomic.Bool   // watch is running, so that nothing changes unnoticed
	port    atomic.Uint32 // netlink port of nft: tells our own changes from those of others

	mu   sync.Mutex
	nft  *nftables.Conn // nil: not open
	sock *netlink.Conn  // of nft
	have *program       // what is in the kernel; nil: unknown
	was  bool           // a program has been in the kernel since the start
}

// apply lets in, through the endpoints, what the sources allow, and nothing else.
func (g *guard) apply(ctx context.Context, endpoints []endpoint, sources []tunnel.Source) (reconcile.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return reconcile.Result{}, err
	}
	if g.look.Swap(false) && g.have != nil && !g.intact() {
		g.foreign.Store(true)
		g.have = nil
	}
	if g.touch.Swap(false) {
		g.have = nil
	}
	var res reconcile.Result
	var err error
	repair := false
	if g.have != nil {
		wasEmpty := g.have.empty()
		d := g.have.revise(endpoints, sources)
		if d.none() {
			return reconcile.Result{}, nil
		}
		repair = g.foreign.Swap(false) && g.was
		if res, err = g.change(wasEmpty, d); err != nil {
			// What we remember is not what is there. Once more, from what is there.
			g.have = nil
			repair = true
		}
	}
	if g.have == nil {
		repair = g.foreign.Swap(false) && g.was || repair
		want := compileGuard(endpoints, sources)
		if res, err = g.transact(func(tx *transaction) error { return tx.replace(want) }); err == nil {
			g.have = want
		}
	}
	if err != nil {
		g.close()
		return reconcile.Result{}, fmt.Errorf("program tunnel guard in nftables table inet %s%s: %w", kernel.NFTable, hint(err), err)
	}
	if repair && !g.have.empty() {
		res = res.Add(reconcile.Result{Changed: 1, Repaired: 1})
	}
	g.was = !g.have.empty()
	return res, nil
}

// change makes g.have, which differs from what is in place by d, true.
func (g *guard) change(wasEmpty bool, d delta) (reconcile.Result, error) {
	if wasEmpty || g.have.empty() {
		return g.transact(func(tx *transaction) error { return tx.replace(g.have) })
	}
	return g.transact(func(tx *transaction) error { return tx.update(d, g.have) })
}

// intact tells whether chains, sets and the number of rules are as we wrote them. The elements are
// not read: whoever changes them is noticed by watch.
func (g *guard) intact() bool {
	if g.have.empty() {
		return true
	}
	if g.open() != nil {
		return false
	}
	tx := &transaction{nft: g.nft, table: &nftables.Table{Name: kernel.NFTable, Family: nftables.TableFamilyINet}}
	there, err := tx.read()
	if err != nil || len(there.chains) != 3 || len(there.sets) != len(g.have.shapes) {
		return false
	}
	wanted := map[string]int{}
	for _, r := range g.have.rules() {
		wanted[r.chain]++
	}
	for _, c := range there.chains {
		rules, err := g.nft.GetRules(tx.table, c)
		if err != nil || !sound(c) || len(rules) != wanted[c.Name] {
			return false
		}
	}
	for _, s := range there.sets {
		if !slices.ContainsFunc(g.have.shapes, func(sh shape) bool { return sh.set() == s.Name }) {
			return false
		}
	}
	return true
}

// hint says what to do about errors that have one usual cause.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY): // first: other messages of the batch then fail for it
		return " (a rule of somebody else jumps to a chain named " + guardPrefix + "...: remove it)"
	case errors.Is(err, unix.EPERM):
		return " (needs CAP_NET_ADMIN)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return " (the kernel needs NF_TABLES and NF_TABLES_INET)"
	}
	return ""
}

// transact sends what f puts together as one transaction.
func (g *guard) transact(f func(*transaction) error) (reconcile.Result, error) {
	if err := g.open(); err != nil {
		return reconcile.Result{}, err
	}
	tx := &transaction{nft: g.nft, table: &nftables.Table{Name: kernel.NFTable, Family: nftables.TableFamilyINet}}
	err := f(tx)
	if err == nil {
		_ = g.sock.SetDeadline(time.Now().Add(transactionTimeout))
		err = g.nft.Flush()
		_ = g.sock.SetDeadline(time.Time{})
	}
	if err != nil {
		g.close() // answers may still be under way on this socket
		return reconcile.Result{}, err
	}
	return tx.res, nil
}

// open dials nftables in the handle's namespace.
func (g *guard) open() error {
	if g.nft != nil {
		return nil
	}
	ns, err := g.h.Namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	var sock *netlink.Conn
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())), nftables.WithSockOptions(func(c *netlink.Conn) error {
		sock = c
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	port, err := portOf(sock)
	if err != nil {
		return errors.Join(err, nft.CloseLasting())
	}
	g.nft, g.sock = nft, sock
	g.port.Store(port)
	return nil
}

func portOf(c *netlink.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var port uint32
	var inner error
	err = raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		sa, inner = unix.Getsockname(int(fd))
		if n, ok := sa.(*unix.SockaddrNetlink); ok {
			port = n.Pid
		}
	})
	return port, errors.Join(err, inner)
}

func (g *guard) close() {
	if g.nft != nil {
		_ = g.nft.CloseLasting()
		g.nft, g.sock = nil, nil
	}
}

// Dropped counts packets that the guard refused since it was first programmed.
type Dropped struct {
	// Unknown came from no known node, or had an inner source that its node may not use.
	Unknown uint64
	// FromPods were sent to the tunnel's port by pods.
	FromPods uint64
}

func (g *guard) dropped(ctx context.Context) (Dropped, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Dropped{}, err
	}
	if err := g.open(); err != nil {
		return Dropped{}, err
	}
	table := &nftables.Table{Name: kernel.NFTable, Family: nftables.TableFamilyINet}
	read := func(name string) (uint64, error) {
		o, err := g.nft.GetObject(&nftables.CounterObj{Table: table, Name: name})
		if c, ok := o.(*nftables.CounterObj); ok {
			return c.Packets, err
		}
		if errors.Is(err, unix.ENOENT) {
			return 0, nil
		}
		return 0, fmt.Errorf("read nftables counter %s: %w", name, err)
	}
	unknown, err1 := read(counterUnknown)
	pods, err2 := read(counterPods)
	return Dropped{unknown, pods}, errors.Join(err1, err2)
}

// transaction collects the messages of one nftables batch.
type transaction struct {
	nft   *nftables.Conn
	table *nftables.Table
	id    uint32
	res   reconcile.Result
}

// replace puts the program in the place of whatever there is under our names; the empty program
// also takes the table away when nobody else has anything in it.
func (tx *transaction) replace(want *program) error {
	there, err := tx.read()
	if err != nil {
		return err
	}
	if want.empty() && !there.table {
		return nil
	}
	tx.nft.AddTable(tx.table) // also wakes a table that was made dormant
	for _, c := range there.chains {
		tx.nft.FlushChain(c)
	}
	for _, c := range there.chains {
		if want.empty() || !sound(c) {
			tx.nft.DelChain(c)
		}
	}
	for _, s := range there.sets {
		tx.nft.DelSet(s)
	}
	if want.empty() {
		tx.cleanup(there)
		return nil
	}
	for _, name := range []string{counterUnknown, counterPods} {
		tx.nft.AddObj(&nftables.CounterObj{Table: tx.table, Name: name})
	}
	return tx.write(want.all(), want)
}

func (tx *transaction) cleanup(there names) {
	for _, o := range there.counters {
		tx.nft.DeleteObject(o)
		tx.res.Removed++
	}
	tx.res.Removed += len(there.chains) + len(there.sets)
	if !there.others {
		tx.nft.DelTable(tx.table)
	}
}

// update turns one program that is in place into want, which differs by d.
func (tx *transaction) update(d delta, want *program) error {
	if d.rules {
		for _, name := range []string{chainInput, chainForward, chainPeers} {
			tx.nft.FlushChain(&nftables.Chain{Table: tx.table, Name: name})
		}
	}
	return tx.write(d, want)
}

// write adds what d adds, then takes away what it takes away.
func (tx *transaction) write(d delta, want *program) error {
	if d.rules {
		tx.addChains()
	}
	for _, s := range want.shapes {
		sd := d.sets[s]
		if sd == nil {
			continue
		}
		tx.id++
		set := s.nftSet(tx.table, tx.id)
		if sd.comes {
			if err := tx.nft.AddSet(set, nil); err != nil {
				return err
			}
		}
		tx.res.Added += len(sd.add)
		tx.res.Removed += len(sd.del)
		if err := chunks(sd.add, func(e []nftables.SetElement) error { return tx.nft.SetAddElements(set, e) }); err != nil {
			return err
		}
		if err := chunks(sd.del, func(e []nftables.SetElement) error { return tx.nft.SetDeleteElements(set, e) }); err != nil {
			return err
		}
	}
	if d.rules {
		for _, r := range want.rules() {
			tx.nft.AddRule(&nftables.Rule{Table: tx.table, Chain: &nftables.Chain{Table: tx.table, Name: r.chain}, Exprs: r.exprs})
		}
		tx.res.Changed++
	}
	for s, sd := range d.sets {
		if sd.goes && !sd.comes {
			tx.nft.DelSet(s.nftSet(tx.table, 0))
			tx.res.Removed += len(sd.del)
		}
	}
	return nil
}

// addChains adds the chains; one that is there already is left as it is. They come first at their
// hooks, so that nothing later, tracking of connections included, sees what is refused here.
func (tx *transaction) addChains() {
	tx.nft.AddChain(&nftables.Chain{Table: tx.table, Name: chainPeers})
	accept := nftables.ChainPolicyAccept
	for _, name := range []string{chainInput, chainForward} {
		tx.nft.AddChain(&nftables.Chain{Table: tx.table, Name: name, Hooknum: hookOf(name), Type: nftables.ChainTypeFilter,
			Priority: nftables.ChainPriorityRaw, Policy: &accept})
	}
}

// hookOf returns the hook of our base chains; nil for any other name.
func hookOf(chain string) *nftables.ChainHook {
	switch chain {
	case chainInput:
		return nftables.ChainHookInput
	case chainForward:
		return nftables.ChainHookForward
	}
	return nil
}

// sound tells whether a chain of ours still hangs where we put it.
func sound(c *nftables.Chain) bool {
	hook := hookOf(c.Name)
	if hook == nil {
		return c.Name == chainPeers && c.Hooknum == nil
	}
	return c.Hooknum != nil && *c.Hooknum == *hook && c.Type == nftables.ChainTypeFilter &&
		c.Priority != nil && *c.Priority == *nftables.ChainPriorityRaw
}

// names is what the kernel has under our names.
type names struct {
	table    bool
	others   bool // somebody else has something in the table
	chains   []*nftables.Chain
	sets     []*nftables.Set
	counters []nftables.Obj
}

func (tx *transaction) read() (names, error) {
	var n names
	tables, err := tx.nft.ListTablesOfFamily(tx.table.Family)
	if err != nil {
		return n, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		n.table = n.table || t.Name == tx.table.Name
	}
	if !n.table {
		return n, nil
	}
	chains, err := tx.nft.ListChainsOfTableFamily(tx.table.Family)
	if err != nil {
		return n, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != tx.table.Name {
			continue
		}
		if c.Table = tx.table; strings.HasPrefix(c.Name, guardPrefix) {
			n.chains = append(n.chains, c)
		} else {
			n.others = true
		}
	}
	sets, err := tx.nft.GetSets(tx.table)
	if err != nil {
		return n, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if strings.HasPrefix(s.Name, guardPrefix) {
			s.Table = tx.table
			n.sets = append(n.sets, s)
		} else {
			n.others = true
		}
	}
	objs, err := tx.nft.GetNamedObjects(tx.table)
	if err != nil {
		return n, fmt.Errorf("list counters: %w", err)
	}
	for _, o := range objs {
		if c, ok := o.(*nftables.NamedObj); ok && strings.HasPrefix(c.Name, guardPrefix) {
			n.counters = append(n.counters, &nftables.CounterObj{Table: tx.table, Name: c.Name})
		} else {
			n.others = true
		}
	}
	return n, nil
}

func chunks(e []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for len(e) > 0 {
		n := min(len(e), elementsPerMessage)
		if err := f(e[:n]); err != nil {
			return err
		}
		e = e[n:]
	}
	return nil
}
