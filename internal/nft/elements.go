package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// CountElements counts what the kernel has in a set of the owner's: of an interval set the starts and the
// ends.
func (o *Owner) CountElements(ctx context.Context, set string) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := o.open(); err != nil {
		return 0, err
	}
	n, err := o.countElements(set)
	for tries := 0; errors.Is(err, unix.EINTR) && tries < 5; tries++ {
		n, err = o.countElements(set)
	}
	if err != nil {
		o.close() // answers may still be under way on this socket
		return 0, fmt.Errorf("count the elements of nftables set %s: %w", set, err)
	}
	return n, nil
}

func (o *Owner) countElements(set string) (n int, err error) {
	err = o.dump(unix.NFT_MSG_GETSETELEM, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(kernel.NFTable), 0)},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)},
	}, func(ad *netlink.AttributeDecoder) error {
		more, err := elementsIn(ad)
		n += more
		return err
	})
	return n, err
}

// elementsIn counts what one message of a dump holds.
func elementsIn(ad *netlink.AttributeDecoder) (n int, err error) {
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for b := ad.Bytes(); len(b) >= unix.SizeofNlAttr; n++ { // attributes, counted without decoding them
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return n, fmt.Errorf("an element of %d bytes in %d", length, len(b))
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
	return n, ad.Err()
}
