package wireguard

import (
	"context"
	"testing"

	"weft/encryption"
	"weft/internal/testkit"
	"weft/model"
)

func TestCarry(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			t.Run("over-"+f.String(), func(t *testing.T) {
				_, hosts := cluster(t, w, w, w)
				join(t, f, hosts...)
				carry(t, hosts)
			})
		}
	})
}

func TestKernelWithUserspace(t *testing.T) {
	require(t, Kernel, Userspace)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Kernel, Userspace, Kernel, Userspace)
	join(t, model.IPv4, hosts...)
	carry(t, hosts)
}

// carry has every host reach every other, by both families.
func carry(t *testing.T, hosts []*host) {
	t.Helper()
	pairs := 0
	for _, a := range hosts {
		for _, b := range hosts {
			if a == b {
				continue
			}
			pairs += 2
			if !a.ping(t, b.ip4()) {
				t.Errorf("%s does not reach %s by IPv4", a.name, b.name)
			}
			if !a.ping(t, b.ip6()) {
				t.Errorf("%s does not reach %s by IPv6", a.name, b.name)
			}
		}
	}
	t.Logf("%d pairs of host and family", pairs)
	for _, h := range hosts {
		peers, err := h.driver.Peers(context.Background())
		if err != nil || len(peers) != len(hosts)-1 {
			t.Fatalf("%s has %d peers, %v; want %d", h.name, len(peers), err, len(hosts)-1)
		}
		for _, p := range peers {
			if p.LastHandshake.IsZero() || p.Rx == 0 || p.Tx == 0 || p.Node == "" || len(p.AllowedIPs) != 2 || !p.Endpoint.IsValid() {
				t.Errorf("%s: peer %+v", h.name, p)
			}
		}
		if res, err := h.driver.Apply(context.Background(), h.plan(family(peers[0]), hosts...)); err != nil || !res.Zero() {
			t.Errorf("%s: the same plan once more: %v, %v", h.name, res, err)
		}
		h.driver.Invalidate()
		if res, err := h.driver.Apply(context.Background(), h.plan(family(peers[0]), hosts...)); err != nil || !res.Zero() {
			t.Errorf("%s: the same plan, all read again: %v, %v", h.name, res, err)
		}
	}
}

func family(p PeerStatus) model.Family {
	if p.Endpoint.Addr().Is6() {
		return model.IPv6
	}
	return model.IPv4
}

func TestZeroPlan(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w)
		h := hosts[0]
		h.apply(t, h.plan(model.IPv4))
		if got, want := testkit.Links(t, h.NS), "up"; len(got) == 0 {
			t.Errorf("links %q, want one that is %s", got, want)
		}
		h.renew(t) // which knows nothing of the device
		res, err := h.driver.Apply(context.Background(), encryption.Plan{})
		if err != nil || res.Removed != 1 {
			t.Errorf("zero plan: %v, %v", res, err)
		}
		if _, ok, err := h.h.LinkByName(context.Background(), wg); ok || err != nil {
			t.Errorf("the device is there, %v", err)
		}
	})
}
