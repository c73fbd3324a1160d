package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam"
)

// controllers starts weft controllers; they end with the test.
func (c *cluster) controllers(args ...string) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "weft"), append([]string{"controllers", "--etcd-endpoints", c.lab.StoreEndpoint()}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			c.t.Errorf("weft controllers: %v", err)
		}
		if c.t.Failed() {
			c.t.Logf("weft controllers said:\n%s", out.String())
		}
	})
}

// belongings counts what the store has of a node: addresses, blocks, claims and endpoints.
func (c *cluster) belongings(node string) map[string]int {
	c.t.Helper()
	l, err := c.store.List(c.t.Context(), v3.KindIPAMBlock, v3.KindBlockAffinity, v3.KindWorkloadEndpoint)
	if err != nil {
		c.t.Fatal(err)
	}
	n := map[string]int{}
	for _, o := range l.Items {
		switch o := o.(type) {
		case *v3.IPAMBlock:
			if o.Spec.Affinity != nil && *o.Spec.Affinity == "host:"+node {
				n["blocks"]++
			}
			for _, a := range o.Spec.Attributes {
				if a.ActiveOwnerAttrs[ipam.AttrNode] == node {
					n["addresses"]++
				}
			}
		case *v3.BlockAffinity:
			if o.Spec.Node == node {
				n["affinities"]++
			}
		case *v3.WorkloadEndpoint:
			if o.Spec.Node == node {
				n["endpoints"]++
			}
		}
	}
	return n
}

// holds returns the handles of an address.
func (c *cluster) holds(a netip.Addr) string {
	c.t.Helper()
	l, err := c.store.List(c.t.Context(), v3.KindIPAMBlock)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range l.Items {
		if _, holders, err := ipam.Holders(o.(*v3.IPAMBlock)); err == nil && holders[a] != "" {
			return holders[a]
		}
	}
	return ""
}

// What a node leaves that is gone is free again, others notice nothing, and its pods talk again when it returns.
func TestNodeGoneForGood(t *testing.T) {
	c := newCluster(t, "e2ectl")
	c.pool("CrossSubnet")
	c.pods()
	c.pod("n3", "n3b")
	c.reach("n1", "n3", "VXLAN")
	c.reach("n3", "n1", "VXLAN")
	before := c.belongings("n3")
	if before["addresses"] < 3 || before["endpoints"] != 2 || before["blocks"] == 0 {
		t.Fatalf("n3 has %v", before)
	}
	// The record of a node that runs comes back by itself, and nothing of it goes.
	c.controllers("--leak-grace", "2s", "--interval", "200ms")
	gone := datastore.Key{Kind: v3.KindNode, Name: "n2"}
	if err := c.store.Delete(t.Context(), gone, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error { _, err := c.store.Get(t.Context(), gone); return err })

	others := c.ping("n1", "n2", 1000, 20*time.Millisecond)
	if _, err := c.lab.Stop(t.Context(), "n3", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.store.Delete(t.Context(), datastore.Key{Kind: v3.KindNode, Name: "n3"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, 60*time.Second, func() error {
		if has := c.belongings("n3"); len(has) > 0 {
			return fmt.Errorf("n3 has %v", has)
		}
		return nil
	})
	t.Logf("of n3 there were %v; all was free %v after its record was deleted, with a grace of 2s", before, time.Since(start).Round(time.Millisecond))

	if _, err := c.lab.Start(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	eventually(t, 60*time.Second, func() error {
		for _, pod := range []string{"n3", "n3b"} {
			if c.holds(c.addrs[pod]) == "" {
				return fmt.Errorf("%v of pod %s is free", c.addrs[pod], pod)
			}
		}
		if has := c.belongings("n3"); has["endpoints"] != 2 {
			return fmt.Errorf("n3 has %v", has)
		}
		return nil
	})
	t.Logf("n3 had taken back what its pods have %v after its start", time.Since(start).Round(time.Millisecond))
	c.reach("n1", "n3", "VXLAN")
	c.reach("n3", "n1", "VXLAN")
	for _, pair := range [][2]string{{"n1", "n3"}, {"n3b", "n2"}} {
		if sent, lost := c.ping(pair[0], pair[1], 20, 20*time.Millisecond).wait(); lost != 0 || sent != 20 {
			t.Errorf("%d of %d pings from %s to %s lost after n3 is back", lost, sent, pair[0], pair[1])
		}
	}
	sent, lost := others.wait()
	t.Logf("%d of %d pings between n1 and n2 lost meanwhile", lost, sent)
	if lost != 0 || sent != 1000 {
		t.Errorf("%d of %d pings between n1 and n2 lost", lost, sent)
	}
	if out, err := c.weft("", "ipam", "check"); err != nil || !strings.Contains(out, "0 problems") {
		t.Errorf("weft ipam check: %v\n%s", err, out)
	}
}

func eventually(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %v", limit, err)
		}
	}
}
