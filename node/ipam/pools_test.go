package ipam

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestBlocksFor(t *testing.T) {
	for _, tc := range []struct {
		cidr  string
		size  int
		count int
	}{{"10.0.0.0/16", 26, 1024}, {"10.0.0.0/26", 26, 1}, {"10.128.0.0/9", 20, 2048}, {"fd00::/112", 122, 1024}, {"10.0.0.0/24", 32, 256}} {
		p := &pool{cidr: netip.MustParsePrefix(tc.cidr), blockSize: tc.size}
		seen := map[netip.Prefix]bool{}
		for b := range p.blocksFor("n1") {
			if seen[b] || !p.cidr.Contains(b.Addr()) || b != b.Masked() || b.Bits() != tc.size {
				t.Fatalf("%s: block %v twice, or not a block of it", tc.cidr, b)
			}
			seen[b] = true
		}
		if len(seen) != tc.count {
			t.Errorf("%s: %d blocks, want %d", tc.cidr, len(seen), tc.count)
		}
	}
	// Nodes that start at the same time seldom meet.
	p := &pool{cidr: netip.MustParsePrefix("10.0.0.0/8"), blockSize: 26}
	first := map[netip.Prefix]int{}
	for i := range 1000 {
		for b := range p.blocksFor(fmt.Sprint("node-", i)) {
			first[b]++
			break
		}
	}
	if len(first) < 990 {
		t.Errorf("1000 nodes begin with %d different blocks of 262144", len(first))
	}
}
