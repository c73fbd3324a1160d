package speaker

import (
	"testing"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// FuzzUpdate: what a neighbour sends as an UPDATE is parsed or refused, and checked.
func FuzzUpdate(f *testing.F) {
	f.Add([]byte{0, 0, 0, 20, 0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 1, 0x40, 3, 4, 10, 77, 0, 9, 24, 10, 90, 1}, false)
	f.Add([]byte{0, 4, 24, 10, 90, 1, 0, 0}, true)
	f.Add([]byte{0, 0, 0, 30, 0x80, 14, 27, 0, 2, 1, 16, 0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 32, 0xfd, 0x90, 0, 1}, false)
	f.Fuzz(func(t *testing.T, body []byte, ebgp bool) {
		h := &bgp.BGPHeader{Len: uint16(min(len(body), 4077) + 19), Type: bgp.BGP_MSG_UPDATE}
		m, err := bgp.ParseBGPBody(h, body[:h.Len-19])
		if err != nil || m == nil {
			return
		}
		families := map[bgp.Family]bgp.BGPAddPathMode{bgp.RF_IPv4_UC: bgp.BGP_ADD_PATH_NONE, bgp.RF_IPv6_UC: bgp.BGP_ADD_PATH_NONE}
		if ok, _ := bgp.ValidateUpdateMsg(m.Body.(*bgp.BGPUpdate), families, ebgp, false, false); !ok {
			return
		}
		if _, err := m.Serialize(); err != nil {
			t.Skip(err)
		}
	})
}
