package bgp

import (
	"context"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// TestFRRBFD: FRR's BFD and ours find each other, and a cut link is noticed at both ends.
func TestFRRBFD(t *testing.T) {
	testkit.Require(t, testkit.FRR)
	h, ns := lab(t, 1)
	f := router.StartFRR(t, ns[0], "10.77.0.2", `
router bgp 64513
 bgp router-id 10.77.0.2
 no bgp ebgp-requires-policy
 neighbor 10.77.0.1 remote-as 64512
 neighbor 10.77.0.1 timers connect 2
 neighbor 10.77.0.1 bfd 3 300 300
`)
	h.apply(t, plan(sessions(session("10.77.0.2", 64513, func(s *routing.Session) { s.BFD = routing.BFD{IntervalMillis: 300, Multiplier: 3} }))))
	up := func() bool {
		peers, err := h.driver.Peers(context.Background())
		return err == nil && len(peers) == 1 && peers[0].BFD == "Up" && peers[0].State == speaker.Established &&
			strings.Contains(f.Ask(t, "show bgp neighbors 10.77.0.1"), "Status: Up")
	}
	steady := func() bool { // as BFD may end the first session that comes up before it
		if !up() {
			return false
		}
		time.Sleep(time.Second)
		return up()
	}
	eventually(t, "session and BFD are up", steady)
	testkit.Run(t, h.sw, "ip", "link", "set", "p2", "nomaster")
	took := eventually(t, "the cut is noticed", func() bool { return h.peer(t, "10.77.0.2").State != speaker.Established })
	t.Logf("cut noticed after %v", took.Round(time.Millisecond))
	eventually(t, "FRR notices", func() bool {
		return !strings.Contains(f.Ask(t, "show bgp neighbors 10.77.0.1"), "BGP state = Established")
	})
	if took > 10*time.Second { // 0.9 s, and the hold time is 90
		t.Errorf("noticed after %v", took)
	}
	testkit.Run(t, h.sw, "ip", "link", "set", "p2", "master", "br0")
	eventually(t, "session and BFD are up again", steady)
}
