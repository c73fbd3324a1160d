package wire

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"weft/model"
	"weft/policy"
	"weft/policy/eval"
)

// Tally counts what Check compared.
type Tally struct {
	Verdicts, Allowed, Denied int
	Asked                     int // again: an answer that was due and did not come
	Wrong                     int
}

// Add adds another's counts.
func (a *Tally) Add(b Tally) {
	a.Verdicts += b.Verdicts
	a.Allowed += b.Allowed
	a.Denied += b.Denied
	a.Asked += b.Asked
	a.Wrong += b.Wrong
}

// String prints all counts.
func (a Tally) String() string {
	return fmt.Sprintf("%d wrong of %d verdicts: %d allowed, %d denied, %d asked again", a.Wrong, a.Verdicts, a.Allowed, a.Denied, a.Asked)
}

// Wrong is a packet that the kernel treated in another way than the Program says.
type Wrong struct {
	Packet  *model.Packet
	Allowed bool   // by the Program
	Seen    string // where it came out; empty: nowhere
	Why     eval.Verdict
}

// String prints packet, verdicts and reasons.
func (w Wrong) String() string {
	s := fmt.Sprintf("%s, MAC %s: allowed is %v, arrived at %q", w.Packet, w.Packet.MAC, w.Allowed, w.Seen)
	for _, r := range w.Why.Reasons {
		s += "\n\t" + r.String()
	}
	return s
}

// Usable tells whether a packet's verdict is policy's alone. The kernel's connection tracking calls
// some ICMP messages invalid when they are the first of a connection, and drivers drop these: of such
// only those count that the Program denies.
func Usable(program *policy.Program, p *model.Packet) bool {
	v4, valid := p.Src.Is4(), true
	switch {
	case p.Protocol == model.ICMP:
		valid = v4 && (p.ICMPType == 8 || p.ICMPType == 13 || p.ICMPType == 17)
	case p.Protocol == model.ICMPv6:
		valid = !v4 && (p.ICMPType == 128 || p.ICMPType >= 130 && p.ICMPType <= 136)
	}
	return valid || !Expect(program, p)
}

// Expect says whether a packet may pass: as the Program says, but that a pod's device without an entry
// is cut off.
func Expect(program *policy.Program, p *model.Packet) bool {
	return known(program, p.In) && known(program, p.Out) && eval.Allowed(program, p)
}

// known tells whether a device is no pod's, or that of a pod in the Program.
func known(program *policy.Program, device string) bool {
	return place(device) >= Pods || program.Endpoints[device] != nil
}

// Check sends packets and compares what becomes of them with what the Program says. Silence where an
// answer is due is asked again, twice; an answer where silence is due is wrong at once. Packets that
// are not Usable are left out.
func (r *Rig) Check(t testing.TB, program *policy.Program, packets []*model.Packet) (tally Tally, wrong []Wrong) {
	t.Helper()
	for len(packets) > 0 {
		var batch, later []*model.Packet
		connections := map[string]bool{}
		for _, p := range packets {
			switch k := connection(p); {
			case !Usable(program, p):
			case connections[k]:
				later = append(later, p)
			default:
				connections[k] = true
				batch = append(batch, p)
			}
		}
		a, w := r.batch(t, program, batch)
		tally.Add(a)
		wrong = append(wrong, w...)
		packets = later
	}
	return tally, wrong
}

// connection names what packets of one connection have in common, whichever way they go.
func connection(p *model.Packet) string {
	a, b := fmt.Sprint(p.Src, p.SrcPort), fmt.Sprint(p.Dst, p.DstPort)
	if a > b {
		a, b = b, a
	}
	return fmt.Sprint(p.Protocol, a, b)
}

func (r *Rig) batch(t testing.TB, program *policy.Program, packets []*model.Packet) (tally Tally, wrong []Wrong) {
	t.Helper()
	r.Forget(t)
	due := map[uint64]*model.Packet{}
	all := map[uint64]*model.Packet{}
	for _, p := range packets {
		id := r.transmitNew(t, program, p)
		all[id] = p
		if tally.Verdicts++; Expect(program, p) {
			tally.Allowed++
			due[id] = p
		} else {
			tally.Denied++
			r.mu.Lock()
			r.refused[id] = p
			r.mu.Unlock()
		}
	}
	for try := 0; ; try++ {
		r.wait(slices.Collect(maps.Keys(due)), r.Patience<<(2*try))
		missing := r.missing(due)
		if len(missing) == 0 || try == 2 {
			break
		}
		r.Forget(t)
		for _, p := range missing {
			tally.Asked++
			id := r.transmitNew(t, program, p)
			due[id], all[id] = p, p
		}
	}
	time.Sleep(r.Linger)
	tally.Wrong, wrong = r.judge(program, all, due)
	return tally, wrong
}

// Probe sends a packet every millisecond or so, until the function that it returns is called, which tells
// how many were sent and how many came out anywhere. mac is the sender's.
func (r *Rig) Probe(t testing.TB, p *model.Packet, mac model.MAC) (stop func() (sent, arrived int)) {
	t.Helper()
	r.mu.Lock()
	first := r.next + 1
	r.mu.Unlock()
	end, ended := make(chan struct{}), make(chan error)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			if err := r.transmit(p, mac, r.number()); err != nil {
				ended <- err
				return
			}
			select {
			case <-end:
				ended <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return func() (sent, arrived int) {
		close(end)
		if err := <-ended; err != nil {
			t.Errorf("probe with %s: %v", p, err)
		}
		time.Sleep(50 * time.Millisecond) // for what is on its way
		r.mu.Lock()
		defer r.mu.Unlock()
		for id := first; id <= r.next; id++ {
			if _, seen := r.arrived[id]; seen {
				arrived++
			}
		}
		return int(r.next - first + 1), arrived
	}
}

// number returns the next packet's.
func (r *Rig) number() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return r.next
}

// missing removes from due what arrived by any of its numbers, and takes out what did not.
func (r *Rig) missing(due map[uint64]*model.Packet) []*model.Packet {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[*model.Packet]bool{}
	for id, p := range due {
		if _, ok := r.arrived[id]; ok {
			seen[p] = true
		}
	}
	left := map[*model.Packet]bool{}
	for id, p := range due {
		if seen[p] {
			delete(due, id)
		} else {
			left[p] = true
		}
	}
	return slices.Collect(maps.Keys(left))
}

func (r *Rig) judge(program *policy.Program, all, due map[uint64]*model.Packet) (n int, wrong []Wrong) {
	bad := map[*model.Packet]string{}
	for _, p := range due {
		bad[p] = ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, p := range all {
		at, seen := r.arrived[id]
		if seen && (!Expect(program, p) || at != name(place(p.Out))) {
			bad[p] = at
			delete(r.refused, id) // told
		}
	}
	for p, at := range bad {
		wrong = append(wrong, Wrong{p, Expect(program, p), at, eval.Explain(program, p)})
	}
	return len(bad), wrong
}

// late finds what came out when its batch had been judged.
func (r *Rig) late(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, p := range r.refused {
		if at, seen := r.arrived[id]; seen && r.Linger == 0 {
			t.Errorf("%s should have been dropped, and arrived late at %s", p, at)
		}
	}
}

func (r *Rig) transmitNew(t testing.TB, program *policy.Program, p *model.Packet) uint64 {
	t.Helper()
	mac := p.MAC
	if e := program.Endpoints[p.In]; mac.IsZero() && e != nil {
		mac = e.MAC
	} else if mac.IsZero() {
		mac = model.MAC{2, 0, 0, 0, 0, 0x77}
	}
	id := r.number()
	if err := r.transmit(p, mac, id); err != nil {
		t.Fatalf("send %s: %v", p, err)
	}
	return id
}
