package conntrack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

// creation makes an entry of a UDP connection from 10.7.x.y to to, port 53.
func creation(n int, to netip.Addr) write {
	from := netip.AddrFrom4([4]byte{10, 7, byte(n >> 16), byte(n >> 8)})
	tuple := func(src, dst netip.Addr, sport, dport uint16) []byte {
		b := appendNest(nil, attrTupleIP, appendAttr(appendAttr(nil, 1, src.AsSlice()), 2, dst.AsSlice()))
		proto := appendAttr(nil, 1, []byte{unix.IPPROTO_UDP})
		proto = appendAttr(proto, 2, binary.BigEndian.AppendUint16(nil, sport))
		return appendNest(b, attrTupleProto, appendAttr(proto, 3, binary.BigEndian.AppendUint16(nil, dport)))
	}
	port := uint16(1024 + n%256)
	b := appendNest(header(unix.AF_INET), attrOrig, tuple(from, to, port, 53))
	b = appendNest(b, attrReply, tuple(to, from, 53, port))
	const status, timeout = 3, 7
	b = appendAttr(b, status, binary.BigEndian.AppendUint32(nil, 1<<1|1<<2|1<<3)) // seen reply, assured, confirmed
	return write{msgNew, appendAttr(b, timeout, binary.BigEndian.AppendUint32(nil, 3600))}
}

// fill makes entries to 100 pods, and to web one in thousand.
func (r *rig) fill(count int) {
	r.t.Helper()
	ct, err := openTable(r.handle)
	if err != nil {
		r.t.Fatal(err)
	}
	defer ct.close()
	var writes []write
	for n := range count {
		to := netip.AddrFrom4([4]byte{10, 50, 0, byte(n % 100)})
		if n%1000 == 0 {
			to = address(1, model.IPv4)
		}
		w := creation(n, to)
		writes = append(writes, w)
	}
	// do asks for neither NLM_F_CREATE nor NLM_F_EXCL.
	for _, w := range writes {
		ct.seq++
		flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL)
		err := ct.send(r.t.Context(), appendMessage(nil, w.typ, flags, ct.seq, w.body))
		if err == nil {
			err = ct.receive(func(m message) error { return m.err() })
		}
		if err != nil {
			r.t.Fatal("create an entry: ", err)
		}
	}
}

// What a change costs with 100,000 connections: one that can deny nothing, one that is about one pod, one
// that is about all.
func TestCost(t *testing.T) {
	r := newRig(t)
	entries := testkit.Count(100_000)
	for n := range byte(100) {
		e := &model.Endpoint{ID: model.EndpointID{Namespace: "many", Pod: device(100 + n), Interface: "eth0"}, Device: device(100 + n),
			Labels: map[string]string{"app": "many"}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 50, 0, n})}}
		if err := r.compiler.SetEndpoint(e); err != nil {
			t.Fatal(err)
		}
	}
	r.policy("many", "app == 'many'")
	c := r.cutter(Options{})
	r.apply(c, r.compiler.Flush())
	r.fill(entries)
	nobody := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}) }
	denied := func(n int) (all []netip.Addr) {
		for i := range n {
			all = append(all, nobody(i))
		}
		return all
	}
	type change struct {
		name  string
		apply func(n int) policy.Update
		check func(Result) bool
	}
	for _, ch := range []change{
		{"one allow more: nothing to look at", func(n int) policy.Update {
			r.policy("web", "app == 'web'") // allows a second time below
			p := &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "more"}, Selector: "app == 'web'",
				Types: model.Types{Ingress: true}}
			for i := range n + 1 {
				p.Ingress = append(p.Ingress, model.Rule{Action: model.Allow, Source: model.EntityMatch{Nets: []netip.Prefix{model.HostPrefix(nobody(i))}}})
			}
			if err := r.compiler.SetPolicy(p); err != nil {
				t.Fatal(err)
			}
			return r.compiler.Flush()
		}, func(res Result) bool { return res.Read == 0 }},
		{"one deny more at one pod", func(n int) policy.Update {
			r.policy("web", "app == 'web'", denied(n+1)...)
			return r.compiler.Flush()
		}, func(res Result) bool {
			return (res.Read == entries/1000 || entries < 4*walk) && res.Judged == entries/1000
		}},
		{"one deny more at 100 pods", func(n int) policy.Update {
			r.policy("many", "app == 'many'", denied(n+1)...)
			return r.compiler.Flush()
		}, func(res Result) bool { return res.Read >= entries && res.Judged == entries-entries/1000 }},
	} {
		var took, used []time.Duration
		var res Result
		for n := range 10 {
			u := ch.apply(n)
			before := testkit.ProcessorTime()
			begin := time.Now()
			res = r.apply(c, u)
			took, used = append(took, time.Since(begin)), append(used, testkit.ProcessorTime()-before)
			if !ch.check(res) || res.Cut > 0 {
				t.Errorf("%s: unexpected result %+v", ch.name, res)
			}
		}
		slices.Sort(took)
		slices.Sort(used)
		t.Logf("%-36s read %6d of %d entries, judged %6d: median %v, most %v; processor median %v", ch.name, res.Read, entries, res.Judged,
			took[len(took)/2], took[len(took)-1], used[len(used)/2])
	}
}
