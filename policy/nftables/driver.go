package nftables

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/policy"
)

// Driver keeps the policy rules. Its methods may be called by any goroutine.
type Driver struct {
	log     *slog.Logger
	owner   *nft.Owner
	cutFrom int // see manyMembers

	mu         sync.Mutex // one Apply at a time
	state      *state     // nil: of nothing that we know
	generation uint64     // of the Program that state is of
	refused    *refusals
}

// New returns a Driver that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger) *Driver {
	return &Driver{log: log, owner: nft.New(h, prefix, nil), refused: newRefusals(), cutFrom: manyMembers}
}

// Close releases the Driver's socket and leaves the kernel as it is: it goes on enforcing.
func (d *Driver) Close() { d.owner.Close() }

// Observe tells whether the event undoes something of the Driver's. None does: nftables has events of
// its own, see Watch.
func (d *Driver) Observe(kernel.Event) bool { return false }

// Invalidate makes the next Apply look at what is there.
func (d *Driver) Invalidate() { d.owner.Invalidate() }

// Watch calls kick when somebody else changed the Driver's chains or sets, until ctx ends, whose error
// it returns. The next Apply then repairs them.
func (d *Driver) Watch(ctx context.Context, kick func()) error { return d.owner.Watch(ctx, kick) }

// Apply makes the kernel enforce u.Program, in one transaction: no packet meets half of a change. It sends
// u.Delta when that is the difference to what it applied last and nobody else touched the rules, otherwise
// the whole. An Update without Program removes all that is the Driver's, so that nothing is enforced.
//
// A rule that the kernel refuses is left out, and what it would have denied is dropped; so is every rule that
// asks about a set which the kernel refuses. The rest is in force, and the error, of this and of every later
// call, names the policy and the rule, or the set. Any other error
// means that nothing changed; the next call is the retry.
func (d *Driver) Apply(ctx context.Context, u policy.Update) (reconcile.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u.Program == nil {
		d.state = nil
		return d.owner.Apply(ctx, nft.Program{}, nil)
	}
	res, err := d.apply(ctx, u)
	for range maxRefusals {
		if err == nil || !d.refuse(err) {
			break
		}
		res, err = d.replace(ctx, u)
	}
	if err != nil {
		err = d.explained(err)
		d.state = nil
		return res, err
	}
	d.generation = u.Generation
	if res.Zero() {
		d.log.Debug("policy applied", "generation", u.Generation)
	} else {
		d.log.Debug("policy applied", "generation", u.Generation, "added", res.Added, "changed", res.Changed, "removed", res.Removed, "repaired", res.Repaired)
	}
	return res, d.standing()
}

// maxRefusals bounds how often a transaction is tried again without what the kernel refused.
const maxRefusals = 5

func (d *Driver) apply(ctx context.Context, u policy.Update) (reconcile.Result, error) {
	d.owner.Look(ctx)
	s := d.state
	switch same := s != nil && s.program == u.Program; { // of one Compiler, whose Program has one place
	case same && u.Generation == d.generation:
		return d.owner.ApplyLazily(ctx, s.whole, nil)
	case same && u.Delta.Base == d.generation:
		s.follow(u)
		var update func(*nft.Tx) error
		if !s.todo.none() {
			update = s.todo.update
		}
		res, err := d.owner.ApplyLazily(ctx, s.whole, update)
		if err == nil {
			err = d.verify(ctx, s.todo.sets)
			s.done()
		}
		return res, err
	}
	d.refused = newRefusals()
	return d.replace(ctx, u)
}

// replace writes the whole Program.
func (d *Driver) replace(ctx context.Context, u policy.Update) (reconcile.Result, error) {
	s := newState(u.Program, d.refused, d.cutFrom)
	d.state = s
	whole := s.whole()
	res, err := d.owner.ApplyLazily(ctx, s.whole, func(tx *nft.Tx) error { return tx.Replace(whole) })
	if err == nil {
		err = d.verify(ctx, whole.Sets)
	}
	return res, err
}

// verify counts what the kernel has in big hashes that were written: what does not fit into a message's
// attributes is lost without an error.
func (d *Driver) verify(ctx context.Context, sets []nft.Set) error {
	for _, set := range sets {
		if set.Spec.Interval {
			continue
		}
		want := set.Len()
		if want < manyMembers {
			continue
		}
		if got, err := d.owner.CountElements(ctx, set.Spec.Name); err != nil {
			return err
		} else if got != want {
			return fmt.Errorf("set %s (%s): the kernel has %d of %d elements", set.Spec.Name, set.Spec.Comment, got, want)
		}
	}
	return nil
}

// Barrier keeps pods closed until the first Program is known: unless there are rules of ours in the
// kernel, which an earlier process left and which stay in force, it installs those of a Program
// without pods, by which whatever a pod sends or is sent is dropped.
func (d *Driver) Barrier(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != nil {
		return nil
	}
	there, err := d.owner.Enforcing(ctx, chainRaw, chainFrom, chainTo, chainInput, chainOutput)
	if err != nil || there {
		return err
	}
	empty := &policy.Program{}
	_, err = d.replace(ctx, policy.Update{Program: empty})
	d.state = nil
	if err != nil {
		return fmt.Errorf("close pods until policy is known: %w", err)
	}
	d.log.Info("pods are closed until policy is known")
	return nil
}
