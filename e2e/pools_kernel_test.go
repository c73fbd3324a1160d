package e2e

import (
	"fmt"
	"testing"
)

// TestPoolOfAMomentAgo: a pod that is attached right after its pool was applied gets an address of it, on whichever
// node. (A node that went by what its watch had brought by then refused 9 of 12.)
func TestPoolOfAMomentAgo(t *testing.T) {
	c := newCluster(t, "e2epools")
	for i := range 12 {
		pool := fmt.Sprintf("pool-%d", i)
		c.apply(fmt.Sprintf("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: %s}\nspec: {cidr: 10.250.%d.0/24, vxlanMode: Always, nodeSelector: all()}\n", pool, i))
		pod := fmt.Sprintf("pod-%d", i)
		c.podOf(labNodes[i%len(labNodes)], pod, pool)
		if want := fmt.Sprintf("10.250.%d.", i); c.addrs[pod].String()[:len(want)] != want {
			t.Errorf("%s got %s, want an address of %s", pod, c.addrs[pod], pool)
		}
	}
}
