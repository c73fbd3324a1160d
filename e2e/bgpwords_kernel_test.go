package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/node/status"
)

// TestBGPErrorsInStatus: weft status says of each peer in its own words why it is down, and a node all of whose routers
// are down is a ready one.
func TestBGPErrorsInStatus(t *testing.T) {
	c := bgpCluster(t, "e2ebgpwords")
	c.pool("Never")
	ns := testkit.NS{Name: c.lab.Netns("router"), Path: c.nodeNetns("router").Path}
	router.StartBird(t, ns, fmt.Sprintf(`router id 172.31.1.254;
protocol device {}
protocol bgp node1 { local 172.31.1.254 as 64513; neighbor %v as 64512; ipv4 { import none; export none; }; }
protocol bgp node3 { local 172.31.2.254 as 64513; neighbor %v as 64512; password "one"; ipv4 { import none; export none; }; }
`, c.nodeAddresses("n1")[0], c.nodeAddresses("n3")[0]))
	c.apply(`
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: kube-system}
stringData: {router: another}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: as}
spec: {peerIP: 172.31.1.254, asNumber: 64999, node: n1}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: absent}
spec: {peerIP: 172.31.1.99, asNumber: 64513, node: n1}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: password}
spec: {peerIP: 172.31.2.254, asNumber: 64513, node: n3, password: {secretKeyRef: {name: bgp, key: router}}}
`)
	for _, want := range []struct{ node, peer, says string }{
		{"n1", "BGPPeer as (172.31.1.254, AS 64999) is down: ", "says that its AS is another than 64999"},
		{"n1", "BGPPeer absent (172.31.1.99, AS 64513) is down: ", "unreachable: this host has no route to it, or nobody answers for the address"},
		{"n3", "BGPPeer password (172.31.2.254, AS 64513) is down: ", "the two ends have different passwords"},
	} {
		out := ""
		testkit.Eventually(t, 60*time.Second, "weft status on "+want.node+" says of "+want.peer+want.says, func() bool {
			out, _ = c.weft("", "status", "--run-dir", c.lab.NodeRunDir(want.node))
			text := strings.Join(strings.Fields(out), " ")
			_, after, ok := strings.Cut(text, want.peer)
			return ok && strings.Contains(strings.Split(after, "BGP session with")[0], want.says)
		})
		st, err := status.Fetch(t.Context(), c.lab.NodeRunDir(want.node))
		if err != nil || !st.Ready {
			t.Errorf("%s with a peer that is down is not ready: %v\n%s", want.node, err, out)
		}
	}
}
