package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/node/policies"
	"weft/policy"
)

// kernelOf is what a kernel would hold of two policy drivers: which of them enforces what. It writes
// down what happens, and fails as it is told.
type kernelOf struct {
	t     *testing.T
	holds map[string]uint64 // generation by driver; 0: a barrier
	log   []string
	fails map[string]error // by "driver verb"
	// reports are errors of what is done all the same.
	reports map[string]error
	watches atomic.Int64 // begun so far
}

type heldDriver struct {
	k    *kernelOf
	name string
}

func (d heldDriver) do(verb string, f func()) error {
	if err := d.k.fails[d.name+" "+verb]; err != nil {
		d.k.log = append(d.k.log, d.name+" "+verb+" fails")
		return err
	}
	d.k.log = append(d.k.log, d.name+" "+verb)
	before := len(d.k.holds)
	f()
	if before > 0 && len(d.k.holds) == 0 {
		d.k.t.Errorf("after %s nothing is enforced", strings.Join(d.k.log, ", "))
	}
	return d.k.reports[d.name+" "+verb]
}

func (d heldDriver) Apply(_ context.Context, u policy.Update) (reconcile.Result, error) {
	if u.Program == nil {
		return reconcile.Result{}, d.do("gone", func() { delete(d.k.holds, d.name) })
	}
	return reconcile.Result{}, d.do(fmt.Sprint("apply ", u.Generation), func() { d.k.holds[d.name] = u.Generation })
}

func (d heldDriver) Barrier(context.Context) error {
	return d.do("barrier", func() {
		if _, there := d.k.holds[d.name]; !there {
			d.k.holds[d.name] = 0
		}
	})
}

func (d heldDriver) Watch(ctx context.Context, kick func()) error {
	kick()
	d.k.watches.Add(1)
	<-ctx.Done()
	return ctx.Err()
}
func (d heldDriver) Observe(kernel.Event) bool { return false }
func (d heldDriver) Invalidate()               {}
func (d heldDriver) Close()                    {}

// process is a node service that starts in the kernel of an earlier one.
func (k *kernelOf) process(asked, file string) *backend {
	k.log = nil
	b := newBackend(asked, file, map[string]func() policyDriver{
		policyNFTables: func() policyDriver { return heldDriver{k, policyNFTables} },
		policyIptables: func() policyDriver { return heldDriver{k, policyIptables} },
	}, slog.New(slog.DiscardHandler))
	k.t.Cleanup(b.close)
	return b
}

func TestPolicyBackend(t *testing.T) {
	file := filepath.Join(t.TempDir(), policyFile)
	k := &kernelOf{t: t, holds: map[string]uint64{}, fails: map[string]error{}}
	var b *backend
	generation := uint64(0)
	mode := "Auto"
	step := func(what string, do func() error, wantErr bool, log, inForce string) {
		t.Helper()
		k.log = nil
		if err := do(); (err != nil) != wantErr {
			t.Fatalf("%s: error %v", what, err)
		}
		if got := strings.Join(k.log, ", "); got != log {
			t.Errorf("%s: %q, want %q", what, got, log)
		}
		if b.name() != inForce {
			t.Errorf("%s: %q is in force, want %q", what, b.name(), inForce)
		}
	}
	apply := func() error {
		generation++
		_, inForce, err := b.apply(t.Context(), policies.Settings{NftablesMode: mode}, policy.Update{Program: &policy.Program{}, Generation: generation}, func() {})
		if held, there := k.holds[b.name()]; inForce != (there && held == generation) {
			t.Errorf("in force: %v; the kernel holds generation %d of %s, of %d", inForce, held, b.name(), generation)
		}
		return err
	}
	barrier := func() error { return b.barrier(t.Context(), func() {}) }

	b = k.process("auto", file)
	step("a host where nothing was", barrier, false, "nftables barrier", "nftables")
	if n := k.watches.Load(); n != 1 {
		t.Errorf("%d watches begun before the first program, want 1: what is written before is written again", n)
	}
	step("what was before is not known", apply, false, "nftables apply 1, iptables gone", "nftables")
	if n := k.watches.Load(); n != 1 {
		t.Errorf("%d watches begun, want 1", n)
	}
	step("a change", apply, false, "nftables apply 2", "nftables")
	mode = "Disabled"
	k.fails["iptables apply 3"] = errors.New("busy")
	step("the other driver cannot yet: the one in force goes on", apply, true, "iptables apply 3 fails, nftables apply 3", "nftables")
	k.fails["iptables apply 4"] = errors.New("busy")
	step("the next change does not wait for it", apply, true, "nftables apply 4, iptables apply 4 fails", "nftables")
	k.fails["iptables apply 5"], k.fails["nftables apply 5"] = errors.New("busy"), errors.New("busy too")
	step("both fail", apply, true, "nftables apply 5 fails, iptables apply 5 fails", "nftables")
	step("and then it can", apply, false, "nftables apply 6, iptables apply 6, nftables gone", "iptables")
	step("another change", apply, false, "iptables apply 7", "iptables")

	b = k.process("auto", file)
	step("the next process closes by what was in force", barrier, false, "iptables barrier", "iptables")
	step("and goes on with it", apply, false, "iptables apply 8", "iptables")

	b = k.process("nftables", file)
	step("a process with a flag leaves the rules that stand", barrier, false, "iptables barrier", "iptables")
	k.fails["iptables gone"] = errors.New("busy")
	step("until its own are there", apply, false, "nftables apply 9, iptables gone fails", "nftables")
	step("it does not try at every change", apply, false, "nftables apply 10", "nftables")
	delete(k.fails, "iptables gone")

	b = k.process("nftables", file)
	step("the next process remembers what may be left", barrier, false, "nftables barrier", "nftables")
	step("and removes it", apply, false, "nftables apply 11, iptables gone", "nftables")
	if left, err := os.ReadFile(file); err != nil || string(left) != "nftables\n" {
		t.Errorf("remembers %q, %v", left, err)
	}

	k.holds = map[string]uint64{}
	k.fails["nftables barrier"] = fmt.Errorf("open: %w", unix.EOPNOTSUPP)
	mode = "Auto"
	b = k.process("auto", file)
	step("a kernel without nf_tables", barrier, false, "nftables barrier fails, iptables barrier", "iptables")
	step("is served by iptables", apply, false, "iptables apply 12, nftables gone", "iptables")
	b = k.process("nftables", filepath.Join(t.TempDir(), policyFile))
	step("but not when the flag says nftables", barrier, true, "nftables barrier fails", "")
	if len(k.holds) == 0 {
		t.Error("nothing is in force at the end: the steps show nothing")
	}
}

// A rule that the kernel refuses is no reason to take another driver, nor to keep the old one.
func TestPolicyBackendInPart(t *testing.T) {
	refused := func(what string) error {
		return fmt.Errorf("%s: the kernel refuses it, %s: %w", what, leftOut, unix.EOPNOTSUPP)
	}
	k := &kernelOf{t: t, holds: map[string]uint64{}, fails: map[string]error{}, reports: map[string]error{}}
	b := k.process("auto", filepath.Join(t.TempDir(), policyFile))
	apply := func(mode string, g uint64) (bool, error) {
		_, inForce, err := b.apply(t.Context(), policies.Settings{NftablesMode: mode}, policy.Update{Program: &policy.Program{}, Generation: g}, func() {})
		return inForce, err
	}
	k.reports["nftables apply 1"] = errors.Join(refused("rule 1"), refused("rule 2"))
	if inForce, err := apply("Auto", 1); !inForce || err == nil || b.name() != policyNFTables {
		t.Errorf("with a refused rule: in force %v by %q, %v", inForce, b.name(), err)
	}
	k.reports["iptables apply 2"] = refused("rule 3")
	if inForce, err := apply("Disabled", 2); !inForce || err == nil || b.name() != policyIptables || len(k.holds) != 1 {
		t.Errorf("a change of driver with a refused rule: in force %v by %q, %v; the kernel holds %v", inForce, b.name(), err, k.holds)
	}
	for _, err := range []error{nil, errors.New("no memory"), errors.Join(refused("rule 4"), errors.New("no memory")), fmt.Errorf("open: %w", unix.EOPNOTSUPP)} {
		if inPart(err) {
			t.Errorf("%v: taken for an error about rules only", err)
		}
	}
}
