package node

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
)

func linkOf(name string, addrs ...string) model.Link {
	l := model.Link{Name: name, Up: true}
	for _, a := range addrs {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l
}

func TestPublishedInterfaces(t *testing.T) {
	u := model.Underlay{Links: []model.Link{linkOf("eth1", "198.51.100.1/24"), linkOf("eth0", "192.0.2.1/24", "2001:db8::1/64"), linkOf("eth2"), linkOf("bond0.100", "10.0.0.1/8"),
		linkOf("docker0", "172.17.0.1/16"), linkOf("br-1234", "172.18.0.1/16"), linkOf("kube-ipvs0", "10.96.0.1/32"), linkOf("veth12", "10.1.0.1/32"), linkOf("wéird", "10.2.0.1/32"), linkOf("a:b", "10.3.0.1/32")}}
	want := []v3.NodeInterface{{Name: "bond0.100", Addresses: []string{"10.0.0.1"}}, {Name: "eth0", Addresses: []string{"192.0.2.1", "2001:db8::1"}}, {Name: "eth1", Addresses: []string{"198.51.100.1"}}}
	got, left := publishedInterfaces(u, nil)
	if d := cmp.Diff(want, got); d != "" || left != 0 {
		t.Errorf("%d have no room (-want +got):\n%s", left, d)
	}
	n := &v3.Node{}
	n.Name, n.Spec.Interfaces = "n1", got
	if err := v3.Validate(n); err != nil {
		t.Error(err)
	}
	// What has no room is not of the interface by which the node is known.
	for i := range 100 {
		u.Links = append(u.Links, linkOf(fmt.Sprintf("a%d", i), fmt.Sprintf("10.9.0.%d/32", i)))
	}
	got, left = publishedInterfaces(u, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")})
	count, own := 0, 0
	for _, i := range got {
		if count += len(i.Addresses); i.Name == "eth0" {
			own = len(i.Addresses)
		}
	}
	if count != v3.MaxHostAddresses || left != 104-v3.MaxHostAddresses || own != 2 {
		t.Errorf("%d addresses are published, %d of eth0, %d are not", count, own, left)
	}
	if s := (&interfacesHold{left: left}).unsaid(); !strings.HasPrefix(s, "40 addresses of this host are not in its Node record") {
		t.Errorf("%q", s)
	}
}

// An address that comes and goes all the time is a write in ten seconds, and the last state is what stands in the end.
func TestInterfacesAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var due []time.Time
		p := &publisher{again: func(d time.Duration) { due = append(due, time.Now().Add(d)) }}
		rec := &v3.Node{}
		writes := 0
		pass := func(u model.Underlay) {
			want := rec.DeepCopy()
			p.setInterfaces(rec, want, u, nil)
			if !sameInterfaces(want.Spec.Interfaces, rec.Spec.Interfaces) {
				writes++
			}
			rec = want
		}
		states := []model.Underlay{{Links: []model.Link{linkOf("eth0", "192.0.2.1/24")}}, {Links: []model.Link{linkOf("eth0", "192.0.2.1/24", "192.0.2.9/32")}}}
		begin := time.Now()
		for i := 0; time.Since(begin) < time.Minute; i++ {
			pass(states[i%2])
			time.Sleep(100 * time.Millisecond)
		}
		if writes < 5 || writes > 7 || len(due) > writes {
			t.Errorf("%d writes within a minute of changes, and %d passes asked for", writes, len(due))
		}
		last := states[0]
		if len(rec.Spec.Interfaces[0].Addresses) == 1 {
			last = states[1]
		}
		pass(last) // too early
		before := writes
		time.Sleep(time.Until(due[len(due)-1]))
		if pass(last); writes != before+1 {
			t.Errorf("the last state is not written when the pass comes that was asked for")
		}
		first := &v3.Node{}
		if p.setInterfaces(nil, first, states[0], nil); len(first.Spec.Interfaces) != 1 {
			t.Error("a new record waits for its interfaces")
		}
	})
}
