package topology

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
)

// mtuHost is rackSnapshot with a second uplink-like interface and IPv6 addresses on all nodes; n2 is
// on link, n3 behind a gateway whose route has an MTU of 1400.
func mtuHost(pool model.Pool) *model.Snapshot {
	s := rackSnapshot(pool)
	for i, n := range []model.NodeName{"n1", "n2", "n3"} {
		s.Nodes[n].Addresses = append(s.Nodes[n].Addresses, prefix(fmt.Sprintf("fd00:%d::%d/64", i/2+1, i+1)))
	}
	s.Underlay.Links[0].Addresses = append(s.Underlay.Links[0].Addresses, prefix("fd00:1::1/64"))
	s.Underlay.Links = append(s.Underlay.Links, model.Link{Name: "eth1", MTU: 1480, Up: true}, model.Link{Name: "eth2", MTU: 1300})
	s.Underlay.Routes = append(s.Underlay.Routes, model.UnderlayRoute{Dst: prefix("fd00:1::/64"), Device: "eth0"},
		model.UnderlayRoute{Dst: prefix("fd00::/16"), Device: "eth0", Via: netip.MustParseAddr("fd00:1::ff")})
	return s
}

// withIPv6 adds a pool of the same mode, and blocks of n2 and n3.
func withIPv6(s *model.Snapshot) {
	p := s.Pools[0]
	p.Name, p.CIDR = "six", prefix("fd10::/64")
	s.Pools = append(s.Pools, p)
	for i, n := range []model.NodeName{"n2", "n3"} {
		b := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd10::%d:0", i+1)), 122)
		s.Blocks[b] = &model.Block{CIDR: b, Node: n}
	}
}

type mtuCase struct {
	name     string
	pool     model.Pool
	set      func(*model.Snapshot)
	tunnel   int // device over IPv4; 0: there is none
	tunnel6  int
	pods     int
	near     int // path to the block of n2, on link
	far      int // path to the block of n3, behind a gateway with MTU 1400
	problems string
	why      string // in PodMTUWhy
}

var (
	always = model.Pool{Encap: model.EncapVXLAN}
	cross  = model.Pool{Encap: model.EncapVXLAN, CrossSubnet: true}
	ipip   = model.Pool{Encap: model.EncapIPIP, CrossSubnet: true}
	plain  = model.Pool{}
)

func settings(m model.MTUConfig) func(*model.Snapshot) { return func(s *model.Snapshot) { s.MTU = m } }

func mtuCases() []mtuCase {
	return []mtuCase{
		{"nothing set", always, nil, 1450, 0, 1350, 1450, 1350, "", "n3"},
		{"cross subnet", cross, nil, 1450, 0, 1350, 1500, 1350, "", "n3"},
		{"cross subnet per route", cross, settings(model.MTUConfig{PerRoute: true}), 1450, 0, 1500, 1500, 1350, "", "PerRoute: eth0"},
		{"ipip", ipip, nil, 1480, 0, 1380, 1500, 1380, "", "n3"},
		{"ipip per route", ipip, settings(model.MTUConfig{PerRoute: true}), 1480, 0, 1500, 1500, 1380, "", "PerRoute"},
		{"never", plain, nil, 0, 0, 1400, 1500, 1400, "", "n3"},
		{"never per route", plain, settings(model.MTUConfig{PerRoute: true}), 0, 0, 1500, 1500, 1400, "", "PerRoute"},

		{"smaller device", always, settings(model.MTUConfig{VXLAN: 1300}), 1300, 0, 1300, 1300, 1300, "", "weft-vxlan over eth0"},
		{"smaller device per route", cross, settings(model.MTUConfig{VXLAN: 1300, PerRoute: true}), 1300, 0, 1500, 1500, 1300, "", "PerRoute"},
		{"larger device than fits", always, settings(model.MTUConfig{VXLAN: 1490}), 1450, 0, 1350, 1450, 1350, "vxlanMTU is 1490", ""},
		{"ipip device", ipip, settings(model.MTUConfig{IPIP: 1410, VXLAN: 1300}), 1410, 0, 1380, 1500, 1380, "", ""},

		{"pattern", always, settings(model.MTUConfig{IfacePattern: "^eth"}), 1430, 0, 1350, 1430, 1350, "", "n3"},
		{"pattern per route", cross, settings(model.MTUConfig{IfacePattern: "^eth[12]$", PerRoute: true}), 1430, 0, 1480, 1480, 1350, "", "eth1 has the smallest"},
		{"pattern, never", plain, settings(model.MTUConfig{IfacePattern: "eth1"}), 0, 0, 1400, 1480, 1400, "", ""},
		{"pattern and device", always, settings(model.MTUConfig{IfacePattern: "eth1", VXLAN: 1440}), 1440, 0, 1350, 1440, 1350, "", ""},
		{"pattern of a larger one", always, func(s *model.Snapshot) {
			s.MTU.IfacePattern, s.Underlay.Links[1].MTU = "eth1", 9000
		}, 1450, 0, 1350, 1450, 1350, "", ""},
		{"pattern of nothing", always, settings(model.MTUConfig{IfacePattern: "^(eth2|wlan)"}), 1450, 0, 1350, 1450, 1350, "matches no interface that is up", ""},
		{"pattern that is none", always, settings(model.MTUConfig{IfacePattern: "("}), 1450, 0, 1350, 1450, 1350, "mtuIfacePattern: error parsing", ""},

		{"profile that takes", always, settings(model.MTUConfig{Profile: "azure"}), 1350, 0, 1350, 1350, 1350, "", "weft-vxlan"},
		{"profile that caps", cross, settings(model.MTUConfig{Profile: "gcp", PerRoute: true}), 1410, 0, 1460, 1460, 1350, "", "mtuProfile gcp: 1460 of 1500"},
		{"profile, never", plain, settings(model.MTUConfig{Profile: "hetzner-vswitch"}), 0, 0, 1400, 1400, 1400, "", "hetzner-vswitch: 1400 of 1500"},
		{"profile and device", always, settings(model.MTUConfig{Profile: "azure", VXLAN: 1440}), 1440, 0, 1350, 1440, 1350, "", ""},
		{"profile of another release", always, settings(model.MTUConfig{Profile: "new"}), 1450, 0, 1350, 1450, 1350, "no MTU profile is named", ""},

		{"ipv6", always, withIPv6, 1450, 1430, 1350, 1450, 1350, "", "n3"},
		{"ipv6, smaller device over ipv4", always, func(s *model.Snapshot) { withIPv6(s); s.MTU.VXLAN = 1000 }, 1000, 1430, 1280, 1000, 1000,
			"IPv6 needs 1280", ""},
		{"ipv6, its device", always, func(s *model.Snapshot) { withIPv6(s); s.MTU.VXLAN6 = 1290 }, 1450, 1290, 1290, 1450, 1350, "", "weft-vxlan-v6"},
		{"ipv6, profile on a small uplink", always, func(s *model.Snapshot) {
			withIPv6(s)
			s.Underlay.Links[0].MTU, s.MTU.Profile = 1400, "azure"
		}, 1250, 1280, 1280, 1250, 1250, "VXLAN over eth0 would carry 1230 bytes", ""},
		{"ipv6, uplink too small", always, func(s *model.Snapshot) { withIPv6(s); s.Underlay.Links[0].MTU = 1340 }, 1290, 0, 1290, 1290, 1290,
			"needs 1350: raise it", ""},
	}
}

func TestMTUPlan(t *testing.T) {
	for _, tc := range mtuCases() {
		t.Run(tc.name, func(t *testing.T) {
			s := mtuHost(tc.pool)
			if tc.set != nil {
				tc.set(s)
			}
			v, err := Compute(s, testDrivers())
			if err != nil {
				t.Fatal(err)
			}
			got := mtuCase{name: tc.name, pool: tc.pool, pods: v.PodMTU}
			for _, tun := range v.Tunnels {
				if tun.Family == model.IPv6 {
					got.tunnel6 = tun.MTU
				} else {
					got.tunnel = tun.MTU
				}
			}
			for _, p := range v.Paths {
				switch p.Dst {
				case prefix("10.244.1.0/26"):
					got.near = p.MTU
				case prefix("10.244.2.0/26"):
					got.far = p.MTU
				}
			}
			if got.tunnel != tc.tunnel || got.tunnel6 != tc.tunnel6 || got.pods != tc.pods || got.near != tc.near || got.far != tc.far {
				t.Errorf("got tunnels %d and %d, pods %d, paths %d and %d; want %d and %d, %d, %d and %d\n%s", got.tunnel, got.tunnel6,
					got.pods, got.near, got.far, tc.tunnel, tc.tunnel6, tc.pods, tc.near, tc.far, v.Format())
			}
			// Every host of the case also has problems about blocks that no pool or node holds.
			problems := ""
			for _, p := range v.Problems {
				if !strings.HasPrefix(p, "node ") {
					problems += p + "\n"
				}
			}
			if tc.problems == "" && problems != "" || !strings.Contains(problems, tc.problems) {
				t.Errorf("problems %q, want %q", problems, tc.problems)
			}
			if !strings.Contains(v.PodMTUWhy, tc.why) {
				t.Errorf("pods have %d because %q, want %q in it", v.PodMTU, v.PodMTUWhy, tc.why)
			}
		})
	}
}

// TestMTUNeverTooLarge draws hosts and settings: whatever these are, no tunnel is larger than its
// uplink has room for, no path larger than its way takes, pods in mode Smallest fit into every path,
// and pods with IPv6 have what that needs.
func TestMTUNeverTooLarge(t *testing.T) {
	smallest, perRoute := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := mtuHost(rapid.SampledFrom([]model.Pool{always, cross, ipip, plain}).Draw(t, "pool"))
		size := rapid.SampledFrom([]int{600, 1280, 1340, 1400, 1500, 8500, 9001})
		for i := range s.Underlay.Links {
			s.Underlay.Links[i].MTU = size.Draw(t, "link")
		}
		six := s.Pools[0].Encap != model.EncapIPIP && rapid.Bool().Draw(t, "six")
		if six {
			withIPv6(s)
		}
		set := rapid.SampledFrom([]int{0, 0, 576, 1280, 1400, 9000})
		s.MTU = model.MTUConfig{IPIP: set.Draw(t, "ipip"), VXLAN: set.Draw(t, "vxlan"), VXLAN6: max(1280, set.Draw(t, "vxlan6")),
			PerRoute:     rapid.Bool().Draw(t, "per route"),
			IfacePattern: rapid.SampledFrom([]string{"", "eth", "eth1", "none"}).Draw(t, "pattern"),
			Profile:      rapid.SampledFrom(append(ProfileNames(), "")).Draw(t, "profile")}
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		uplink := s.Underlay.Links[0].MTU
		rows := testDrivers()
		overhead := map[string]int{}
		for _, tun := range v.Tunnels {
			o := rows[0].Overhead[tun.Family]
			if tun.Driver == "ipip" {
				o = rows[1].Overhead[tun.Family]
			}
			overhead[tun.Device] = o
			if tun.MTU+o > uplink || tun.Family == model.IPv6 && tun.MTU < 1280 {
				t.Fatalf("%s has %d over an uplink of %d", tun.Device, tun.MTU, uplink)
			}
		}
		for _, p := range v.Paths {
			if p.Reach == Local || p.Reach == Unreachable {
				continue
			}
			if p.MTU+overhead[p.Device] > uplink || p.MTU > p.DeviceMTU {
				t.Fatalf("path %s has %d on %s (%d) over an uplink of %d", p.Dst, p.MTU, p.Device, p.DeviceMTU, uplink)
			}
			if !s.MTU.PerRoute && v.PodMTU > p.MTU && !(six && v.PodMTU == 1280) {
				t.Fatalf("pods have %d, the path to %s takes %d", v.PodMTU, p.Dst, p.MTU)
			}
		}
		if six && v.PodMTU < 1280 || v.PodMTU > max(uplink, 1280) && s.MTU.IfacePattern == "" {
			t.Fatalf("pods have %d over an uplink of %d", v.PodMTU, uplink)
		}
		if s.MTU.PerRoute {
			perRoute++
		} else {
			smallest++
		}
	})
	if smallest == 0 || perRoute == 0 {
		t.Errorf("%d hosts in mode Smallest, %d in PerRoute: the property was not exercised", smallest, perRoute)
	}
	t.Logf("%d hosts in mode Smallest, %d in PerRoute", smallest, perRoute)
}
