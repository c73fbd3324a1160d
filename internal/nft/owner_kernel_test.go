package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/internal/testkit"
	"weft/model"
)

type exprs = []expr.Any

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a namespace and an owner in it.
func bench(t *testing.T) (testkit.NS, *Owner) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.NFTables)
	ns := testkit.NewNetns(t)
	return ns, another(t, ns, "a-")
}

func another(t *testing.T, ns testkit.NS, prefix string) *Owner {
	t.Helper()
	o := New(ns.Open(t), prefix, func(name string) bool { return strings.HasPrefix(name, "old"+prefix) })
	t.Cleanup(o.Close)
	return o
}

// sample has a base chain, a chain, a counter, a set of n addresses and a set of ranges.
func sample(o *Owner, n int, ranges ...string) Program {
	addrs := nftables.Set{Name: o.Name("addrs"), KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian}
	nets := nftables.Set{Name: o.Name("nets"), KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian, Interval: true}
	return Program{
		Counters: []string{o.Name("bad")},
		Sets: []Set{
			{Spec: addrs, Elements: func() []nftables.SetElement { return addresses(0, n) }},
			{Spec: nets, Elements: func() []nftables.SetElement {
				var e []nftables.SetElement
				for _, r := range ranges {
					e = append(e, Range(netip.MustParsePrefix(r)))
				}
				return e
			}},
		},
		Chains: []Chain{
			{Name: o.Name("judge"), Rules: []exprs{
				Rule(Family(model.IPv4), In(addrs.Name, SourceAddr(model.IPv4)), Return()),
				Rule(Family(model.IPv4), NotIn(nets.Name, DestAddr(model.IPv4)), Count(o.Name("bad")), Drop()),
			}},
			{Name: o.Name("input"), Base: &Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: 7},
				Rules: []exprs{Rule(L4Proto().Is(unix.IPPROTO_UDP), DestPort().Is(Port(4000+n%2)...), Jump(o.Name("judge")))}},
		},
	}
}

func addresses(from, to int) []nftables.SetElement {
	var e []nftables.SetElement
	for i := from; i < to; i++ {
		e = append(e, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i))})
	}
	return e
}

func put(t *testing.T, o *Owner, p Program) reconcile.Result {
	t.Helper()
	res, err := o.Sync(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// ruleset returns what nft(8) prints, each chain, set and counter in its place by name.
func ruleset(t *testing.T, ns testkit.NS) string {
	t.Helper()
	parts := strings.Split(strings.TrimPrefix(testkit.Run(t, ns, "nft", "list", "ruleset"), "table inet weft {\n"), "\n\n")
	for i := range parts {
		parts[i] = strings.TrimSuffix(strings.TrimSuffix(parts[i], "}\n"), "\n")
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n\n")
}

// TestSyncIsReplace: whatever was there before, the difference leads to what writing all anew gives.
func TestSyncIsReplace(t *testing.T) {
	testkit.LeakCheck(t)
	ns, o := bench(t)
	without := func(p Program, what string) Program {
		switch what {
		case "set":
			p.Chains[0].Rules = p.Chains[0].Rules[1:]
			p.Sets = p.Sets[1:]
		case "chains":
			p.Chains = p.Chains[:1]
		case "counters":
			p.Chains, p.Counters = p.Chains[:0], nil
		}
		return p
	}
	moved := sample(o, 3, "10.9.0.0/24")
	moved.Chains[1].Base = &Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: 7}
	for i, p := range []Program{
		sample(o, 3, "10.9.0.0/24", "10.9.2.0/24"), sample(o, 4, "10.9.0.0/23", "10.9.2.0/24"),
		sample(o, 4, "10.9.0.0/24", "10.9.1.0/25", "255.255.255.0/24"), sample(o, 0, "0.0.0.0/0"), sample(o, 1200), moved,
		without(sample(o, 3, "10.9.0.0/24"), "set"), without(sample(o, 3), "chains"), without(sample(o, 3), "counters"),
		sample(o, 2, "10.9.0.0/24"), {}, sample(o, 1),
	} {
		put(t, o, p)
		got := ruleset(t, ns)
		if again := put(t, o, p); !again.Zero() {
			t.Errorf("program %d again: %v", i, again)
		}
		fresh := another(t, ns, "a-")
		put(t, fresh, p)
		if want := ruleset(t, ns); got != want {
			t.Errorf("program %d: by difference\n%s\nanew\n%s", i, got, want)
		}
		if p.Empty() != (got == "") {
			t.Errorf("program %d left\n%s", i, got)
		}
	}
}

// TestOwnersShareTheTable: what one does, the other does not see; the last turns out the light.
func TestOwnersShareTheTable(t *testing.T) {
	ns, a := bench(t)
	b := another(t, ns, "b-")
	// Left by an earlier version of a's, with references among each other.
	testkit.Run(t, ns, "nft", "add table inet weft; add chain inet weft olda-peers; add set inet weft olda-set { type ipv4_addr ; }; "+
		"add counter inet weft olda-count; add rule inet weft olda-peers ip saddr @olda-set counter name olda-count; "+
		"add chain inet weft olda-input { type filter hook input priority 0 ; }; add rule inet weft olda-input jump olda-peers")
	put(t, b, sample(b, 2, "10.0.0.0/8"))
	ofB := func() string {
		return testkit.Run(t, ns, "nft", "list", "chain", "inet", "weft", "b-judge") + testkit.Run(t, ns, "nft", "list", "set", "inet", "weft", "b-nets")
	}
	before := ofB()
	put(t, a, sample(a, 3, "10.0.0.0/8"))
	if got := ruleset(t, ns); strings.Contains(got, "olda") || !strings.Contains(got, "chain a-judge") {
		t.Errorf("after the upgrade:\n%s", got)
	}
	put(t, a, Program{})
	if ofB() != before {
		t.Errorf("b's part changed:\n%s", ruleset(t, ns))
	}
	if got := ruleset(t, ns); strings.Contains(got, " a-") {
		t.Errorf("a left\n%s", got)
	}
	testkit.Run(t, ns, "nft", "add chain inet weft theirs")
	put(t, b, Program{})
	if got := ruleset(t, ns); !strings.Contains(got, "theirs") || strings.Contains(got, " b-") {
		t.Errorf("somebody else's chain is gone, or b's is not:\n%s", got)
	}
	testkit.Run(t, ns, "nft", "delete chain inet weft theirs")
	put(t, b, sample(b, 2))
	put(t, b, Program{})
	if got := ruleset(t, ns); got != "" {
		t.Errorf("the last owner left\n%s", got)
	}
	// A name that is not the owner's is refused, and nothing of the transaction happens.
	if _, err := a.Sync(context.Background(), sample(b, 1)); err == nil || ruleset(t, ns) != "" {
		t.Errorf("got %v and\n%s", err, ruleset(t, ns))
	}
	put(t, a, sample(a, 1))
}

// TestFullRunLooks has things changed with no event delivered: Invalidate finds it.
func TestFullRunLooks(t *testing.T) {
	ns, o := bench(t)
	p := sample(o, 3, "10.0.0.0/8")
	put(t, o, p)
	o.watched.Store(true) // as far as the owner knows
	want := ruleset(t, ns)
	o.Invalidate()
	if res := put(t, o, p); !res.Zero() {
		t.Errorf("all in order, and %v", res)
	}
	for _, c := range []string{"flush ruleset", "flush chain inet weft a-judge", "insert rule inet weft a-input accept", "add chain inet weft a-new",
		"add set inet weft a-new { type ipv4_addr ; }", "add counter inet weft a-new",
		"flush chain inet weft a-input; delete chain inet weft a-input; add chain inet weft a-input { type filter hook output priority 0 ; }; add rule inet weft a-input accept"} {
		testkit.Run(t, ns, "nft", c)
		if ruleset(t, ns) == want {
			t.Fatalf("%s changed nothing", c)
		}
		o.Invalidate()
		if res := put(t, o, p); res.Repaired == 0 {
			t.Errorf("%s: %v, want a repair", c, res)
		}
		if got := ruleset(t, ns); got != want {
			t.Errorf("%s: not repaired\n got: %s\nwant: %s", c, got, want)
		}
	}
}

// TestWatch: foreign changes of the own part kick, own changes and those of others' parts do not.
func TestWatch(t *testing.T) {
	ns, o := bench(t)
	b := another(t, ns, "b-")
	put(t, o, sample(o, 3))
	put(t, b, sample(b, 3))
	ctx, cancel := context.WithCancel(context.Background())
	var kicks atomic.Int64
	done := make(chan error, 1)
	go func() { done <- o.Watch(ctx, func() { kicks.Add(1) }) }()
	testkit.Eventually(t, 10*time.Second, "the first kick", func() bool { return kicks.Load() == 1 })
	put(t, o, sample(o, 3)) // writes all, since what was before the watch is unknown
	// settle makes a foreign change, whose one kick comes after those of all that was before.
	foreign := 0
	settle := func() int64 {
		t.Helper()
		before := kicks.Load()
		testkit.Run(t, ns, "nft", fmt.Sprintf("add element inet weft a-addrs { 192.0.2.%d }", 100+foreign))
		foreign++
		testkit.Eventually(t, 10*time.Second, "a kick for what is foreign", func() bool { return kicks.Load() > before })
		return kicks.Load()
	}
	before := settle()
	put(t, o, sample(o, 4))
	put(t, b, sample(b, 4, "10.0.0.0/8"))
	put(t, b, Program{})
	testkit.Run(t, ns, "nft", "add chain inet weft theirs; add table ip weft")
	if n := settle() - 1; n != before {
		t.Errorf("%d kicks for what is not foreign or not ours", n-before)
	}
	for i, c := range []string{"add element inet weft a-addrs { 192.0.2.1 }", "add rule inet weft a-judge accept", "delete table inet weft"} {
		before := settle()
		testkit.Run(t, ns, "nft", c)
		testkit.Eventually(t, 10*time.Second, c, func() bool { return kicks.Load() > before })
		if res := put(t, o, sample(o, 4)); res.Repaired != 1 {
			t.Errorf("%d, %s: %v, want one repair", i, c, res)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended: %v", err)
	}
}

// TestWatchesOthersTable: an owner hears nothing of the table that another one of the process makes and drops, over and over,
// on sockets that are new each time; of a program that does the same it hears.
func TestWatchesOthersTable(t *testing.T) {
	ns, o := bench(t)
	b := another(t, ns, "b-")
	var kicks atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Watch(ctx, func() { kicks.Add(1) }) }()
	testkit.Eventually(t, 10*time.Second, "the first kick", func() bool { return kicks.Load() == 1 })
	for range 20 {
		put(t, b, sample(b, 3))
		put(t, b, Program{})
		b.Close()
	}
	testkit.Run(t, ns, "nft", "add table inet weft")
	testkit.Eventually(t, 10*time.Second, "a kick for what is foreign", func() bool { return kicks.Load() > 1 })
	if n := kicks.Load() - 2; n != 0 {
		t.Errorf("%d kicks for what another owner did", n)
	}
	cancel()
	<-done
	o.Close()
	if writersMu.Lock(); inside[o.ns] != nil {
		t.Errorf("remembered of a namespace in which nobody writes or watches: %+v", inside[o.ns])
	}
	writersMu.Unlock()
}

// TestPolicySize has what a policy backend will have: 1,000 chains with a rule each and 100,000
// elements, and one more element.
func TestPolicySize(t *testing.T) {
	ns, o := bench(t)
	n := testkit.Count(100_000)
	p := sample(o, n)
	for i := range testkit.Count(1000) {
		p.Chains = append(p.Chains, Chain{Name: o.Name(fmt.Sprint("policy-", i)),
			Rules: []exprs{Rule(Family(model.IPv4), In(o.Name("addrs"), SourceAddr(model.IPv4)), Accept())}})
	}
	timed := func(what string, limit time.Duration, want Program, update func(*Tx) error) {
		t.Helper()
		testkit.Within(t, what, limit, func() (any, error) { return o.Apply(context.Background(), want, update) })
	}
	timed("from empty", 10*time.Second, p, nil)
	if got := strings.Count(testkit.Run(t, ns, "nft", "list", "set", "inet", "weft", "a-addrs"), ",") + 1; got != n {
		t.Errorf("%d elements, want %d", got, n)
	}
	timed("nothing", 10*time.Millisecond, p, nil)
	spec := p.Sets[0].Spec
	timed("one element more", 100*time.Millisecond, p, func(tx *Tx) error { return tx.AddElements(spec, addresses(n, n+1)) })
	timed("one element less", 100*time.Millisecond, p, func(tx *Tx) error { return tx.DelElements(spec, addresses(n, n+1)) })
	timed("one rule", 100*time.Millisecond, p, func(tx *Tx) error {
		c := p.Chains[len(p.Chains)-1]
		tx.FlushChain(c.Name)
		tx.AddRules(c)
		return nil
	})
	// An update that the kernel refuses: all is written anew.
	timed("a wrong update", 10*time.Second, p, func(tx *Tx) error { return tx.DelElements(spec, addresses(n+7, n+8)) })
	o.watched.Store(true)
	o.Invalidate()
	timed("the outline", 2*time.Second, p, nil)
	timed("gone", 10*time.Second, Program{}, nil)
}
