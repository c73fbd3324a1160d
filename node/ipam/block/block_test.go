package block

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func mustNew(t interface{ Fatal(...any) }, cidr string) *Block {
	b, err := New(netip.MustParsePrefix(cidr), "host:n1", t0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFIFO(t *testing.T) {
	for _, cidr := range []string{"10.0.0.4/30", "fd00::c/126"} {
		b := mustNew(t, cidr)
		p := Policy{Now: t0}
		first := b.CIDR().Addr()
		for i := range 4 {
			a, err := b.AssignNext(&Owner{Handle: fmt.Sprint("h", i)}, p)
			if err != nil {
				t.Fatal(err)
			}
			if a.Addr != first {
				t.Errorf("%s: assignment %d is %v, want %v", cidr, i, a.Addr, first)
			}
			first = first.Next()
		}
		if _, err := b.AssignNext(&Owner{Handle: "x"}, p); !errors.Is(err, ErrFull) {
			t.Errorf("%s: got %v of a full block, want ErrFull", cidr, err)
		}
		// Freed last is given out last.
		for _, h := range []string{"h2", "h0"} {
			if got := b.ReleaseHandle(h, p); len(got) != 1 {
				t.Errorf("release of %s gave back %v, want one address", h, got)
			}
		}
		var got []netip.Addr
		for range 2 {
			a, err := b.AssignNext(&Owner{Handle: "y"}, p)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, a.Addr)
		}
		base := b.CIDR().Addr()
		if want := []netip.Addr{base.Next().Next(), base}; !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("%s: after the releases got %v, want %v", cidr, got, want)
		}
	}
}

func TestReleaseChecksOwnerAndSequence(t *testing.T) {
	b := mustNew(t, "10.0.0.0/30")
	p := Policy{Now: t0}
	first, err := b.AssignNext(&Owner{Handle: "a"}, p)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another owner":    b.Release(first.Addr, "b", 0, p),
		"another sequence": b.Release(first.Addr, "a", first.Sequence+1, p),
		"a free address":   b.Release(first.Addr.Next(), "", 0, p),
	} {
		if !errors.Is(err, ErrNotOwner) {
			t.Errorf("release by %s: got %v, want ErrNotOwner", name, err)
		}
	}
	if err := b.Release(netip.MustParseAddr("10.0.0.9"), "a", 0, p); !errors.Is(err, ErrNotInBlock) {
		t.Errorf("release of a foreign address: got %v, want ErrNotInBlock", err)
	}
	// The same owner gets the same address again: a release that means the first time does nothing.
	if err := b.Release(first.Addr, "a", first.Sequence, p); err != nil {
		t.Fatal(err)
	}
	second, err := b.Assign(first.Addr, &Owner{Handle: "a"}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(first.Addr, "a", first.Sequence, p); !errors.Is(err, ErrNotOwner) {
		t.Errorf("stale release: got %v, want ErrNotOwner", err)
	}
	if second.Sequence <= first.Sequence {
		t.Errorf("sequence numbers %d, then %d: want them to grow", first.Sequence, second.Sequence)
	}
}

// A block that was deleted and made again does not repeat the sequence numbers of its first life.
func TestSequenceAcrossLives(t *testing.T) {
	first := mustNew(t, "10.0.0.0/30")
	a, _ := first.AssignNext(&Owner{Handle: "a"}, Policy{Now: t0})
	again, err := New(first.CIDR(), "host:n1", t0.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if again.Sequence() <= a.Sequence {
		t.Errorf("the new block starts at %d, the old one was at %d", again.Sequence(), a.Sequence)
	}
}

func TestFixedAddress(t *testing.T) {
	b := mustNew(t, "10.0.0.0/30")
	p := Policy{Now: t0, Skip: func(a netip.Addr) string {
		if a == netip.MustParseAddr("10.0.0.3") {
			return "reserved"
		}
		return ""
	}}
	addr := netip.MustParseAddr("10.0.0.2")
	got, err := b.Assign(addr, &Owner{Handle: "a"}, p)
	if err != nil || got.Addr != addr {
		t.Fatalf("got %v, %v, want %v", got, err, addr)
	}
	if again, err := b.Assign(addr, &Owner{Handle: "a"}, p); err != nil || again.Sequence != got.Sequence {
		t.Errorf("assigned again: got %v, %v, want the same allocation", again, err)
	}
	if _, err := b.Assign(addr, &Owner{Handle: "b"}, p); !errors.Is(err, ErrTaken) {
		t.Errorf("taken address: got %v, want ErrTaken", err)
	}
	if _, err := b.Assign(netip.MustParseAddr("10.0.0.3"), &Owner{Handle: "b"}, p); !errors.Is(err, ErrSkipped) {
		t.Errorf("reserved address: got %v, want ErrSkipped", err)
	}
	if err := b.Check(); err != nil {
		t.Error(err)
	}
}

func TestCooldown(t *testing.T) {
	b := mustNew(t, "10.0.0.0/31")
	at := func(s int) Policy {
		return Policy{Now: t0.Add(time.Duration(s) * time.Second), Cooldown: 30 * time.Second}
	}
	for _, h := range []string{"a", "b"} {
		if _, err := b.AssignNext(&Owner{Handle: h}, at(0)); err != nil {
			t.Fatal(err)
		}
	}
	b.ReleaseHandle("a", at(10))
	if u := b.Usage(at(39)); u.Cooling != 1 || u.Available() != 0 || u.Used != 1 {
		t.Errorf("usage while cooling: %+v", u)
	}
	if _, err := b.AssignNext(&Owner{Handle: "c"}, at(39)); !errors.Is(err, ErrFull) {
		t.Errorf("29 s after the release: got %v, want ErrFull", err)
	}
	// It survives being stored.
	b, repairs, err := Restore(b.State())
	if err != nil || len(repairs) > 0 {
		t.Fatal(err, repairs)
	}
	if _, err := b.AssignNext(&Owner{Handle: "c"}, at(40)); err != nil {
		t.Errorf("30 s after the release: %v", err)
	}
	// A fixed address does not wait.
	b.ReleaseHandle("b", at(41))
	if _, err := b.Assign(netip.MustParseAddr("10.0.0.1"), &Owner{Handle: "d"}, at(41)); err != nil {
		t.Errorf("fixed address that is cooling: %v", err)
	}
	if err := b.Check(); err != nil {
		t.Error(err)
	}
	// A clock that was far ahead does not lock an address up.
	b.ReleaseHandle("c", at(1e9))
	if _, err := b.AssignNext(&Owner{Handle: "e"}, at(50)); err != nil {
		t.Errorf("released in the far future: %v", err)
	}
}

func TestSize(t *testing.T) {
	for cidr, want := range map[string]int{"10.0.0.0/20": 4096, "10.0.0.0/32": 1, "fd00::/116": 4096, "fd00::/128": 1} {
		if got, err := Size(netip.MustParsePrefix(cidr)); err != nil || got != want {
			t.Errorf("Size(%s) = %d, %v, want %d", cidr, got, err, want)
		}
	}
	for _, cidr := range []string{"10.0.0.0/19", "fd00::/115", "10.0.0.1/24", "0.0.0.0/0", "::ffff:10.0.0.0/120"} {
		if got, err := Size(netip.MustParsePrefix(cidr)); err == nil {
			t.Errorf("Size(%s) = %d, want an error", cidr, got)
		}
	}
	if _, err := Size(netip.Prefix{}); err == nil {
		t.Error("Size of no prefix: want an error")
	}
}

func TestRestoreRepairs(t *testing.T) {
	base := mustNew(t, "10.0.0.0/30")
	if _, err := base.AssignNext(&Owner{Handle: "a"}, Policy{Now: t0}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		damage func(*State)
		free   int
	}{
		"free and used":     {func(s *State) { s.Unallocated = append(s.Unallocated, 0) }, 3},
		"free twice":        {func(s *State) { s.Unallocated = append(s.Unallocated, 3) }, 3},
		"outside":           {func(s *State) { s.Unallocated = append(s.Unallocated, 4, -1) }, 3},
		"neither":           {func(s *State) { s.Unallocated = nil }, 3},
		"owner missing":     {func(s *State) { s.Owners = nil }, 3},
		"sequence too high": {func(s *State) { s.Sequences[0] = s.Sequence + 10 }, 3},
	} {
		s := base.State()
		tc.damage(&s)
		b, repairs, err := Restore(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(repairs) == 0 {
			t.Errorf("%s: nothing was repaired", name)
		}
		if err := b.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if u := b.Usage(Policy{Now: t0}); u.Free != tc.free {
			t.Errorf("%s: %d free, want %d", name, u.Free, tc.free)
		}
	}
	s := base.State()
	s.Allocations = s.Allocations[:3]
	if _, _, err := Restore(s); err == nil {
		t.Error("a block with too few allocations: want an error")
	}
}

// machine drives a block beside a map that holds the truth.
type machine struct {
	b        *Block
	now      time.Time
	cooldown time.Duration
	held     map[netip.Addr]Allocation
	released map[netip.Addr]time.Time
	reserved netip.Addr
	seen     map[uint64]bool
}

func (m *machine) policy() Policy {
	return Policy{Now: m.now, Cooldown: m.cooldown, Skip: func(a netip.Addr) string {
		if a == m.reserved {
			return "reserved"
		}
		return ""
	}}
}

func (m *machine) took(t *rapid.T, a Allocation, next bool) {
	if held, taken := m.held[a.Addr]; taken {
		t.Fatalf("%v given to %s while %s holds it", a.Addr, a.Owner.Handle, held.Owner.Handle)
	}
	if at, ok := m.released[a.Addr]; next && ok && m.now.Sub(at) < m.cooldown {
		t.Fatalf("%v given out %v after its release, cooldown is %v", a.Addr, m.now.Sub(at), m.cooldown)
	}
	if m.seen[a.Sequence] {
		t.Fatalf("sequence number %d given twice", a.Sequence)
	}
	if a.Addr == m.reserved {
		t.Fatalf("%v given out although it is reserved", a.Addr)
	}
	m.seen[a.Sequence] = true
	m.held[a.Addr] = a
}

func (m *machine) next(t *rapid.T) {
	h := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle")
	free := m.b.Usage(m.policy()).Available()
	a, err := m.b.AssignNext(&Owner{Handle: h, Attributes: map[string]string{"pod": h}}, m.policy())
	if (err == nil) != (free > 0) {
		t.Fatalf("%d available, but: %v", free, err)
	}
	if err == nil {
		m.took(t, a, true)
	}
}

func (m *machine) fixed(t *rapid.T) {
	h := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle")
	addr := m.b.addr(rapid.IntRange(0, len(m.b.slots)-1).Draw(t, "ordinal"))
	a, err := m.b.Assign(addr, &Owner{Handle: h}, m.policy())
	held, taken := m.held[addr]
	switch {
	case taken && held.Owner.Handle == h:
		if err != nil || a.Sequence != held.Sequence {
			t.Fatalf("own address %v: got %v, %v", addr, a, err)
		}
	case taken != errors.Is(err, ErrTaken) || (addr == m.reserved && !taken) != errors.Is(err, ErrSkipped):
		t.Fatalf("%v taken %v, reserved %v: %v", addr, taken, addr == m.reserved, err)
	case err == nil:
		m.took(t, a, false)
	}
}

func (m *machine) release(t *rapid.T) {
	h := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle")
	want := 0
	for _, a := range m.held {
		if a.Owner.Handle == h {
			want++
		}
	}
	got := m.b.ReleaseHandle(h, m.policy())
	if len(got) != want {
		t.Fatalf("release of %s gave back %v, want %d addresses", h, got, want)
	}
	for _, a := range got {
		if m.held[a].Owner.Handle != h {
			t.Fatalf("release of %s gave back %v, which it does not hold", h, a)
		}
		delete(m.held, a)
		m.released[a] = m.now
	}
}

func (m *machine) releaseOne(t *rapid.T) {
	addr := m.b.addr(rapid.IntRange(0, len(m.b.slots)-1).Draw(t, "ordinal"))
	h := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "handle")
	held, taken := m.held[addr]
	seq := uint64(0)
	if rapid.Bool().Draw(t, "stale") {
		seq = m.b.sequence + 1
	} else if taken {
		seq = held.Sequence
	}
	err := m.b.Release(addr, h, seq, m.policy())
	ok := taken && held.Owner.Handle == h && seq <= m.b.sequence
	if (err == nil) != ok {
		t.Fatalf("release %v by %s sequence %d (held %v): %v", addr, h, seq, held, err)
	}
	if ok {
		delete(m.held, addr)
		m.released[addr] = m.now
	}
}

func (m *machine) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
}

func (m *machine) check(t *rapid.T) {
	if err := m.b.Check(); err != nil {
		t.Fatal(err)
	}
	if got := len(m.b.Allocations()); got != len(m.held) {
		t.Fatalf("%d allocations, want %d", got, len(m.held))
	}
	u := m.b.Usage(m.policy())
	if u.Used+u.Cooling+u.Free != u.Size || u.Used != len(m.held) {
		t.Fatalf("usage %+v does not add up (%d held)", u, len(m.held))
	}
	restored, repairs, err := Restore(m.b.State())
	if err != nil || len(repairs) > 0 {
		t.Fatalf("own state does not restore: %v %v", err, repairs)
	}
	if diff := cmp.Diff(m.b.State(), restored.State(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Fatalf("state changed by being stored:\n%s", diff)
	}
	m.b = restored
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cidr := rapid.SampledFrom([]string{"10.0.0.0/28", "10.0.0.4/31", "10.0.0.7/32", "fd00::10/124"}).Draw(t, "cidr")
		m := &machine{b: mustNew(t, cidr), now: t0, held: map[netip.Addr]Allocation{}, released: map[netip.Addr]time.Time{}, seen: map[uint64]bool{}}
		m.cooldown = time.Duration(rapid.SampledFrom([]int{0, 0, 30}).Draw(t, "cooldown")) * time.Second
		if rapid.Bool().Draw(t, "reserve") {
			m.reserved = m.b.addr(len(m.b.slots) - 1)
		}
		t.Repeat(map[string]func(*rapid.T){
			"next": m.next, "fixed": m.fixed, "release": m.release, "releaseOne": m.releaseOne, "wait": m.wait, "": m.check,
		})
	})
}

// FuzzState restores blocks from arbitrary stored forms and works with them.
func FuzzState(f *testing.F) {
	b := mustNew(f, "10.0.0.0/29")
	_, _ = b.AssignNext(&Owner{Handle: "a"}, Policy{Now: t0})
	good, err := json.Marshal(b.State())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"CIDR":"10.0.0.0/31","Allocations":[5,-1],"Unallocated":[0,0,7],"Sequences":{"0":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s State
		if json.Unmarshal(data, &s) != nil {
			return
		}
		b, _, err := Restore(s)
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Fatalf("restored from %s: %v", data, err)
		}
		p := Policy{Now: t0, Cooldown: time.Second}
		a, err := b.AssignNext(&Owner{Handle: "fuzz"}, p)
		if err == nil && b.Release(a.Addr, "fuzz", a.Sequence, p) != nil {
			t.Fatalf("%v was given and cannot be given back", a)
		}
		b.ReleaseHandle("a", p)
		if err := b.Check(); err != nil {
			t.Fatalf("after use, from %s: %v", data, err)
		}
	})
}

func BenchmarkAssignRelease(b *testing.B) {
	blk := mustNew(b, "10.0.0.0/26")
	p := Policy{Now: t0}
	o := &Owner{Handle: "a"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := blk.AssignNext(o, p); err != nil {
			b.Fatal(err)
		}
		blk.ReleaseHandle("a", p)
	}
}
