package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// HasChain tells whether the kernel has a chain of the owner's by that name, for those whose wish depends
// on what an earlier process left.
func (o *Owner) HasChain(ctx context.Context, name string) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := o.open(); err != nil {
		return false, err
	}
	chains, err := o.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		o.close() // answers may still be under way on this socket
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == table().Name && c.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// Enforcing tells whether the kernel has all of these chains, each with a rule at least.
func (o *Owner) Enforcing(ctx context.Context, chains ...string) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := o.open(); err != nil {
		return false, err
	}
	rules, err := o.countRules()
	for range 5 {
		if !errors.Is(err, unix.EINTR) {
			break
		}
		rules, err = o.countRules()
	}
	if err != nil {
		o.close() // answers may still be under way on this socket
		return false, fmt.Errorf("count nftables rules: %w", err)
	}
	for _, c := range chains {
		if rules[c] == 0 {
			return false, nil
		}
	}
	return true, nil
}
