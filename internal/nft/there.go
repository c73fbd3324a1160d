package nft

import (
	"context"
	"fmt"

	"github.com/google/nftables"
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
