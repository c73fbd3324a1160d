package iptables

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"testing"

	"weft/internal/testkit"
	"weft/policy"
	"weft/policy/policytest"
)

// backends calls f for each backend that this machine has.
func backends(t *testing.T, f func(t *testing.T, b Backend)) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns)
	for _, b := range []Backend{NFT, Legacy} {
		t.Run(string(b), func(t *testing.T) {
			require(t, b)
			f(t, b)
		})
	}
}

// require skips a test where programs or the kernel lack a backend, or sets that rules can use.
func require(t *testing.T, b Backend) {
	t.Helper()
	command := map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b]
	for _, c := range []string{command, "ipset"} {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("%s iptables: not on this machine: %v", testkit.SkipMark, err)
		}
	}
	ns := testkit.NewNetns(t)
	for _, try := range [][]string{{"ipset", "create", "probe", "hash:net"}, {command, "-A", "INPUT", "-m", "set", "--match-set", "probe", "src", "-j", "DROP"}} {
		if _, err := testkit.Try(t, ns, try...); err != nil {
			t.Skipf("%s iptables: not on this machine: %v", testkit.SkipMark, err)
		}
	}
}

func newDriver(t *testing.T, ns testkit.NS, b Backend) *Driver {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	d := New(ns.Open(t), log, b)
	t.Cleanup(d.Close)
	return d
}

func apply(t *testing.T, d *Driver, u policy.Update) {
	t.Helper()
	if _, err := d.Apply(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

// TestWorlds applies random worlds whole and by their differences.
func TestSmoke(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		ns := testkit.NewNetns(t)
		d := newDriver(t, ns, b)
		for seed := range uint64(20) {
			w := policytest.Full(seed, seed%2 == 0)
			c := policy.NewCompiler(policytest.Self)
			if err := c.Replace(w.Snapshot); err != nil {
				t.Fatal(err)
			}
			u := c.Flush()
			u.Delta.Base = 99
			d.generation = 50
			apply(t, d, u)
			d.Invalidate()
			res, err := d.Apply(context.Background(), u)
			if err != nil || !res.Zero() {
				t.Fatal(seed, res, err)
			}
			for range 20 {
				w.Step(c)
				u = c.Flush()
				apply(t, d, u)
			}
			d.Invalidate()
			res, err = d.Apply(context.Background(), u)
			if err != nil || !res.Zero() {
				t.Fatal(seed, res, err)
			}
		}
		apply(t, d, policy.Update{})
		fmt.Println(testkit.Run(t, ns, "iptables-nft-save"), testkit.Run(t, ns, "ip6tables-legacy-save"), testkit.Run(t, ns, "ipset", "list"))
	})
}
