package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// RuleCount is what the counter of a rule counted since the rule was written.
type RuleCount struct {
	Chain          string
	Rule           int // index in the chain
	Packets, Bytes uint64
}

// RuleCounts reads the counters in the owner's rules (see Counted); rules without one are left out.
func (o *Owner) RuleCounts(ctx context.Context) ([]RuleCount, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := o.open(); err != nil {
		return nil, err
	}
	list, err := o.ruleCounts()
	for tries := 0; errors.Is(err, unix.EINTR) && tries < 5; tries++ {
		list, err = o.ruleCounts()
	}
	if err != nil {
		o.close() // answers may still be under way on this socket
		return nil, fmt.Errorf("read the counters of nftables table inet %s: %w", kernel.NFTable, err)
	}
	return list, nil
}

func (o *Owner) ruleCounts() (list []RuleCount, err error) {
	at := map[string]int{}
	err = o.dump(unix.NFT_MSG_GETRULE, []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(kernel.NFTable), 0)}}, func(ad *netlink.AttributeDecoder) error {
		c, found := countIn(ad)
		c.Rule = at[c.Chain]
		at[c.Chain]++
		if found && strings.HasPrefix(c.Chain, o.prefix) {
			list = append(list, c)
		}
		return ad.Err()
	})
	return list, err
}

// countIn reads the chain, and the counter if there is one, of the rule of a dump's message.
func countIn(ad *netlink.AttributeDecoder) (c RuleCount, found bool) {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			c.Chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					ad.Nested(func(ad *netlink.AttributeDecoder) error { return c.read(ad, &found) })
				}
				return nil
			})
		}
	}
	return c, found
}

// read takes the numbers from an expression that is a counter.
func (c *RuleCount) read(ad *netlink.AttributeDecoder, found *bool) error {
	counter := false
	for ad.Next() {
		switch {
		case ad.Type() == unix.NFTA_EXPR_NAME:
			counter = ad.String() == "counter"
		case ad.Type() == unix.NFTA_EXPR_DATA && counter:
			*found = true
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				ad.ByteOrder = binary.BigEndian
				for ad.Next() {
					switch ad.Type() {
					case unix.NFTA_COUNTER_BYTES:
						c.Bytes = ad.Uint64()
					case unix.NFTA_COUNTER_PACKETS:
						c.Packets = ad.Uint64()
					}
				}
				return nil
			})
		}
	}
	return nil
}
