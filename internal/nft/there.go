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

// Enforcing tells whether the kernel has all of these chains, each with a rule at least. It asks for these alone: an earlier
// process may have left many thousands of others.
func (o *Owner) Enforcing(ctx context.Context, chains ...string) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := o.open(); err != nil {
		return false, err
	}
	for _, c := range chains {
		rules, err := o.countRules(c)
		for tries := 0; errors.Is(err, unix.EINTR) && tries < 5; tries++ {
			rules, err = o.countRules(c)
		}
		if err != nil {
			o.close() // answers may still be under way on this socket
			return false, fmt.Errorf("count the rules of nftables chain %s: %w", c, err)
		}
		if rules[c] == 0 {
			return false, nil
		}
	}
	return true, nil
}
