package wireguard

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	// A greeting that a host could not answer yet is repeated after 5 s.
	meet(t, hosts...)
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
		if got := "\n" + testkit.Links(t, h.NS); !regexp.MustCompile(`\n` + wg + ` .* up\n`).MatchString(got) {
			t.Errorf("links %q, want %s, up", got, wg)
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

// TestChecksumOfZero: UDP over IPv6 whose checksum comes to 0 arrives, too.
func TestChecksumOfZero(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		join(t, model.IPv4, a, b)
		meet(t, a, b)
		const from, to, length = 7001, 7002, 10
		sum := uint32(from + to + 2*length + unix.IPPROTO_UDP)
		for _, ip := range []netip.Addr{a.ip6(), b.ip6()} {
			raw := ip.As16()
			for i := 0; i < 16; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(raw[i:]))
			}
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		zero := binary.BigEndian.AppendUint16(nil, ^uint16(sum))
		var in, out *net.UDPConn
		b.Do(t, func() (err error) {
			in, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.ip6(), to)))
			return err
		})
		defer in.Close()
		a.Do(t, func() (err error) {
			out, err = net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.ip6(), from)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.ip6(), to)))
			return err
		})
		defer out.Close()
		const packets = 20
		got := 0
		for range packets {
			if _, err := out.Write(zero); err != nil {
				t.Fatal(err)
			}
			_ = in.SetReadDeadline(time.Now().Add(time.Second))
			if n, _, err := in.ReadFrom(make([]byte, 64)); err == nil && n == len(zero) {
				got++
			}
		}
		if got != packets {
			t.Errorf("%d of %d arrived", got, packets)
		}
	})
}
