package node

import (
	"net/netip"
	"strings"
	"testing"

	"weft/model"
)

func twoUplinks() model.Underlay {
	p := netip.MustParsePrefix
	return model.Underlay{
		Links: []model.Link{
			{Name: "docker0", MTU: 1500, Up: true, Addresses: []netip.Prefix{p("172.17.0.1/16")}},
			{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{p("10.0.0.5/24"), p("fd00::5/64")}},
			{Name: "eth1", MTU: 9000, Up: true, Addresses: []netip.Prefix{p("192.168.7.5/24"), p("192.168.7.6/24")}},
			{Name: "eth2", MTU: 1500, Up: false, Addresses: []netip.Prefix{p("203.0.113.9/24")}},
		},
		Routes: []model.UnderlayRoute{
			{Dst: p("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Device: "eth0"},
			{Dst: p("192.168.0.0/16"), Via: netip.MustParseAddr("192.168.7.1"), Device: "eth1", Src: netip.MustParseAddr("192.168.7.6")},
			{Dst: p("10.0.0.0/24"), Device: "eth0"},
		},
	}
}

func TestDetectAddress(t *testing.T) {
	a := netip.MustParseAddr
	for name, tc := range map[string]struct {
		d         detection
		want, why string
	}{
		"auto towards the store": {detection{method: "auto", stores: []netip.Addr{a("192.168.9.9")}}, "192.168.7.6/24", "towards the store at 192.168.9.9 (eth1)"},
		"auto keeps the record":  {detection{method: "auto", current: netip.MustParsePrefix("192.168.7.5/24"), peers: []netip.Addr{a("10.0.0.9")}}, "192.168.7.5/24", "kept"},
		"auto towards peers":     {detection{method: "auto", peers: []netip.Addr{a("192.168.8.1")}}, "192.168.7.6/24", "towards node"},
		"auto drops a lost one":  {detection{method: "auto", current: netip.MustParsePrefix("192.168.7.99/24"), peers: []netip.Addr{a("10.0.0.9")}}, "10.0.0.5/24", "towards node"},
		"auto alone":             {detection{method: "auto"}, "10.0.0.5/24", "first interface"},
		"first-found":            {detection{method: "first-found"}, "10.0.0.5/24", "eth0"},
		"interface":              {detection{method: "interface=eth1"}, "192.168.7.5/24", "matches eth1"},
		"interface keeps":        {detection{method: "interface=eth.*", current: netip.MustParsePrefix("192.168.7.6/24")}, "192.168.7.6/24", "matches"},
		"skip-interface":         {detection{method: "skip-interface=eth0,eth9"}, "192.168.7.5/24", "does not match"},
		"cidr":                   {detection{method: "cidr=192.168.0.0/16"}, "192.168.7.5/24", "is in"},
		"can-reach":              {detection{method: "can-reach=8.8.8.8"}, "10.0.0.5/24", "towards 8.8.8.8"},
		"internal":               {detection{method: "kubernetes-internal-ip", internal: []netip.Addr{a("1.2.3.4"), a("192.168.7.5")}}, "192.168.7.5/24", "InternalIP"},
		"literal":                {detection{method: "192.168.7.6"}, "192.168.7.6/24", "configured"},
		"v6":                     {detection{method: "auto", family: model.IPv6}, "fd00::5/64", "first interface"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.d.underlay = twoUplinks()
			if tc.d.family == 0 {
				tc.d.family = model.IPv4
			}
			got, err := detectAddress(tc.d)
			if err != nil {
				t.Fatal(err)
			}
			if got.addr.String() != tc.want || !strings.Contains(got.why, tc.why) {
				t.Errorf("got %s (%s), want %s (...%s...)", got.addr, got.why, tc.want, tc.why)
			}
		})
	}
}

func TestDetectAddressErrors(t *testing.T) {
	for method, want := range map[string]string{
		"interface=wlan0":        "docker0, eth0, eth1, eth2",
		"203.0.113.9":            "on no interface that is up",
		"kubernetes-internal-ip": "no IPv4 InternalIP",
		"fd00::5":                "other family",
	} {
		_, err := detectAddress(detection{family: model.IPv4, method: method, underlay: twoUplinks()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", method, err, want)
		}
	}
}
