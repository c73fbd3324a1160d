package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/rotation"
)

// TestKeysRotateByThemselves: three nodes whose period is some seconds go through epochs of keys under traffic, each of which one of
// them begins when the one before is over; nothing is lost or in clear.
func TestKeysRotateByThemselves(t *testing.T) {
	const name = "e2ehostencperiod"
	config := lab.DefaultConfig()
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--key-rotation-period", "4s"}
	}
	c := newClusterOf(t, name, config)
	c.apply(vxlanAlways.manifest() + "---\n" + felix("{wireguardEnabled: true, wireguardKeyRotationPeriod: 24h}"))
	c.pods()
	c.reaches("WireGuard")
	c.forGood()
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	r, stop := c.loadEvery(hosts, apart), c.tap()
	epoch := func() (e int, since time.Time) {
		o, err := c.store.Get(t.Context(), datastore.Key{Kind: v3.KindFelixConfiguration, Name: "default"})
		if err != nil {
			t.Fatal(err)
		}
		f := o.(*v3.FelixConfiguration)
		if f.Spec.WireguardKeyEpoch != nil {
			e = *f.Spec.WireguardKeyEpoch
		}
		since, _ = rotation.Since(f)
		return e, since
	}
	first, _ := epoch()
	last := first
	testkit.Eventually(t, 90*time.Second, "two periods are over", func() bool {
		var since time.Time
		last, since = epoch()
		if last > first && (since.IsZero() || time.Since(since) > time.Minute) {
			t.Fatalf("epoch %d is said to have begun at %v", last, since)
		}
		return last >= first+2
	})
	// From here on nothing begins, and what has begun ends.
	c.apply(felix("{wireguardEnabled: true, wireguardKeyEpoch: " + fmt.Sprint(last) + "}"))
	c.keys(last)
	c.whole(fmt.Sprintf("epochs %d to %d", first, last), r.Stop())
	c.nothingInClear(fmt.Sprintf("epochs %d to %d", first, last), stop())
	logs := ""
	for _, n := range labNodes {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(c.lab.NodeDataDir(n)), "log"))
		if err != nil {
			t.Fatal(err)
		}
		logs += string(b)
	}
	for e := 1; e <= last; e++ {
		if n := strings.Count(logs, fmt.Sprintf("since their period is over\" epoch=%d ", e)); n != 1 {
			t.Errorf("%d of 3 nodes began epoch %d, want 1", n, e)
		}
	}
}
