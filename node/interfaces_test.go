package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

func linkOf(name string, addrs ...string) model.Link {
	l := model.Link{Name: name, Up: true}
	for _, a := range addrs {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l
}

func published(u model.Underlay, own ...netip.Prefix) ([]v3.NodeInterface, unpublished) {
	return publishedInterfaces(hostLinks(u), own, nil, nil)
}

func TestPublishedInterfaces(t *testing.T) {
	u := model.Underlay{Links: []model.Link{linkOf("eth1", "198.51.100.1/24"), linkOf("eth0", "192.0.2.1/24", "2001:db8::1/64"), linkOf("eth2"), linkOf("bond0.100", "10.0.0.1/8"),
		linkOf("docker0", "172.17.0.1/16"), linkOf("br-1234", "172.18.0.1/16"), linkOf("kube-ipvs0", "10.96.0.1/32"), linkOf("veth12", "10.1.0.1/32"), linkOf("veth13"), linkOf("wéird", "10.2.0.1/32"), linkOf("a:b", "10.3.0.1/32")}}
	want := []v3.NodeInterface{{Name: "bond0.100", Addresses: []string{"10.0.0.1"}}, {Name: "eth0", Addresses: []string{"192.0.2.1", "2001:db8::1"}}, {Name: "eth1", Addresses: []string{"198.51.100.1"}}, {Name: "eth2"}}
	got, left := published(u)
	if d := cmp.Diff(want, got); d != "" || left != (unpublished{}) {
		t.Errorf("%+v have no room (-want +got):\n%s", left, d)
	}
	n := &v3.Node{}
	n.Name, n.Spec.Interfaces = "n1", got
	if err := v3.Validate(n); err != nil {
		t.Error(err)
	}
	// What has no room is not of the interface by which the node is known, and what has no addresses gives way.
	for i := range 100 {
		u.Links = append(u.Links, linkOf(fmt.Sprintf("a%d", i), fmt.Sprintf("10.9.0.%d/32", i)))
	}
	got, left = published(u, netip.MustParsePrefix("192.0.2.1/24"))
	count, own := 0, 0
	for _, i := range got {
		if count += len(i.Addresses); i.Name == "eth0" {
			own = len(i.Addresses)
		}
	}
	if count != v3.MaxHostAddresses || left != (unpublished{104 - v3.MaxHostInterfaces, 104 - v3.MaxHostAddresses}) || own != 2 || len(got) != v3.MaxHostInterfaces {
		t.Errorf("%d addresses are published, %d of eth0, %+v are not", count, own, left)
	}
	if s := (&interfacesHold{left: left}).unsaid(); !strings.HasPrefix(s, "40 addresses and 40 interfaces of this host are not in its Node record") {
		t.Errorf("%q", s)
	}
	// What is in the record is not pushed out by what comes.
	was := []v3.NodeInterface{{Name: "zz0"}, {Name: "zz1"}}
	u.Links = append(u.Links, linkOf("zz0", "10.10.0.1/32"), linkOf("zz1"))
	got, _ = publishedInterfaces(hostLinks(u), nil, was, map[string][]netip.Addr{"zz1": {netip.MustParseAddr("10.10.0.2")}})
	if d := cmp.Diff([]v3.NodeInterface{{Name: "zz0", Addresses: []string{"10.10.0.1"}}, {Name: "zz1", Addresses: []string{"10.10.0.2"}}}, got[len(got)-2:]); d != "" || len(got) != v3.MaxHostInterfaces {
		t.Errorf("of %d that have room (-want +got):\n%s", len(got), d)
	}
}

// recordStore has one Node record, and refuses as many writes as it is told.
type recordStore struct {
	datastore.Store
	rec    *v3.Node
	refuse int
	writes int
}

func (s *recordStore) Update(_ context.Context, o v3.Object) (v3.Object, error) {
	if s.refuse > 0 {
		s.refuse--
		return nil, fmt.Errorf("somebody was faster: %w", datastore.ErrConflict)
	}
	s.writes++
	s.rec = o.DeepCopyObject().(*v3.Node)
	return o, nil
}

// recorded is a publisher of interfaces alone.
type recorded struct {
	store recordStore
	p     *publisher
	due   []time.Time
}

func newRecorded(is ...v3.NodeInterface) *recorded {
	r := &recorded{store: recordStore{rec: &v3.Node{}}}
	r.store.rec.Spec.Interfaces = is
	r.p = &publisher{log: slog.New(slog.DiscardHandler), store: &r.store, again: func(d time.Duration) { r.due = append(r.due, time.Now().Add(d)) }}
	return r
}

// pass returns what the record says after it.
func (r *recorded) pass(links ...model.Link) string {
	want := r.store.rec.DeepCopy()
	r.p.setInterfaces(r.store.rec, want, model.Underlay{Links: links}, nil)
	_, _ = r.p.write(context.Background(), r.store.rec, want)
	var out []string
	for _, i := range r.store.rec.Spec.Interfaces {
		out = append(out, fmt.Sprint(i.Name, i.Addresses))
	}
	return strings.Join(out, " ")
}

// What comes is there at once. An address that is gone stays for a minute, also where this process never saw it; its
// interface stays as long as it is there. What moved to another interface and what had an interface that is gone go at once.
func TestInterfacesThatGoAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorded(v3.NodeInterface{Name: "eth0", Addresses: []string{"192.0.2.1/24"}}, v3.NodeInterface{Name: "eth8", Addresses: []string{"192.0.2.8"}}, v3.NodeInterface{Name: "docker0"})
		for _, step := range []struct {
			what  string
			after time.Duration
			links []model.Link
			want  string
		}{
			{"a start without an address", 0, []model.Link{linkOf("eth0")}, "eth0[192.0.2.1]"},
			{"an interface and an address that come", time.Second, []model.Link{linkOf("eth0", "192.0.2.2/24"), linkOf("eth1")}, "eth0[192.0.2.1 192.0.2.2] eth1[]"},
			{"shortly before the end", 58 * time.Second, []model.Link{linkOf("eth0", "192.0.2.2/24"), linkOf("eth1")}, "eth0[192.0.2.1 192.0.2.2] eth1[]"},
			{"the end", time.Second, []model.Link{linkOf("eth0", "192.0.2.2/24"), linkOf("eth1")}, "eth0[192.0.2.2] eth1[]"},
			{"all addresses gone", time.Minute, []model.Link{linkOf("eth0"), linkOf("eth1")}, "eth0[192.0.2.2] eth1[]"},
			{"back again", 50 * time.Second, []model.Link{linkOf("eth0", "192.0.2.2/24"), linkOf("eth1")}, "eth0[192.0.2.2] eth1[]"},
			{"gone once more, which counts anew", 50 * time.Second, []model.Link{linkOf("eth0"), linkOf("eth1")}, "eth0[192.0.2.2] eth1[]"},
			{"not over", 59 * time.Second, []model.Link{linkOf("eth0"), linkOf("eth1")}, "eth0[192.0.2.2] eth1[]"},
			{"over", time.Second, []model.Link{linkOf("eth0"), linkOf("eth1")}, "eth0[] eth1[]"},
			{"another address", time.Minute, []model.Link{linkOf("eth0", "192.0.2.3/24"), linkOf("eth1")}, "eth0[192.0.2.3] eth1[]"},
			{"it moves", time.Minute, []model.Link{linkOf("eth0"), linkOf("eth1", "192.0.2.3/24")}, "eth0[] eth1[192.0.2.3]"},
			{"the interface goes", time.Minute, []model.Link{linkOf("eth0")}, "eth0[]"},
		} {
			time.Sleep(step.after)
			if got := r.pass(step.links...); got != step.want {
				t.Errorf("%s: the record says %s, want %s", step.what, got, step.want)
			}
		}
		if len(r.due) != 3 || r.due[0].Sub(r.due[1]) > 0 {
			t.Errorf("passes are asked for at %v, want one for each time that an address went", r.due)
		}
	})
}

// An interface that comes and goes all the time is a write in ten seconds, after the first ones, and the last state is what
// stands in the end.
func TestInterfacesThatFlapAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorded()
		states := [][]model.Link{{linkOf("eth0", "192.0.2.1/24")}, {linkOf("eth0", "192.0.2.1/24"), linkOf("ppp0", "192.0.2.9/32")}}
		begin := time.Now()
		for i := 0; time.Since(begin) < time.Minute; i++ {
			r.pass(states[i%2]...)
			time.Sleep(100 * time.Millisecond)
		}
		if writes := r.store.writes; writes < interfacesBurst+4 || writes > interfacesBurst+6 || len(r.due) > writes {
			t.Errorf("%d writes within a minute of changes, and %d passes asked for", writes, len(r.due))
		}
		last := states[0]
		if len(r.store.rec.Spec.Interfaces) == 1 {
			last = states[1]
		}
		r.pass(last...) // too early
		before := r.store.writes
		time.Sleep(time.Until(r.due[len(r.due)-1]))
		if r.pass(last...); r.store.writes != before+1 {
			t.Errorf("the last state is not written when the pass comes that was asked for")
		}
		first := &v3.Node{}
		if r.p.setInterfaces(nil, first, model.Underlay{Links: last}, nil); len(first.Spec.Interfaces) != len(last) {
			t.Error("a new record waits for its interfaces")
		}
	})
}

// A write that the store does not take is no change: the next pass makes it again, however often.
func TestInterfacesAreWrittenAgainAfterAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorded(v3.NodeInterface{Name: "eth0", Addresses: []string{"192.0.2.1"}})
		r.store.refuse = 3 * interfacesBurst
		links := []model.Link{linkOf("eth0", "192.0.2.1/24"), linkOf("eth1", "192.0.2.9/24")}
		for range 3 * interfacesBurst {
			if got := r.pass(links...); got != "eth0[192.0.2.1]" {
				t.Fatalf("refused, the record says %s", got)
			}
		}
		if got := r.pass(links...); got != "eth0[192.0.2.1] eth1[192.0.2.9]" {
			t.Errorf("the record says %s", got)
		}
	})
}
