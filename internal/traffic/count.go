package traffic

import (
	"fmt"
	"math/bits"
	"time"
)

// counter notes which sequence numbers of one stream arrived.
type counter struct {
	seen       []uint64 // a bit for each number
	next       uint64   // one more than the greatest that arrived
	received   uint64   // different numbers
	duplicated uint64
	reordered  uint64 // arrived after a greater one (RFC 4737, type-P-reordered)

	last       int64           // arrival of the latest packet, ns
	gaps       []time.Duration // the longest before a number, of each word of seen
	longestGap time.Duration
	latency    time.Duration // longest
}

// add notes number seq, sent and arrived at these times in ns of one clock. A number that was not
// sent yet, as sent tells, is a bug of the network or of this package and is refused.
func (c *counter) add(seq, sent uint64, sentAt, at int64) bool {
	if seq >= sent {
		return false
	}
	word, bit := seq/64, uint64(1)<<(seq%64)
	for uint64(len(c.seen)) <= word {
		c.seen, c.gaps = append(c.seen, 0), append(c.gaps, 0)
	}
	if c.seen[word]&bit != 0 {
		c.duplicated++
		return true
	}
	c.seen[word] |= bit
	c.received++
	if seq < c.next {
		c.reordered++
	} else {
		c.next = seq + 1
	}
	if c.last != 0 {
		gap := time.Duration(at - c.last)
		c.longestGap, c.gaps[word] = max(c.longestGap, gap), max(c.gaps[word], gap)
	}
	c.last = max(c.last, at)
	c.latency = max(c.latency, time.Duration(at-sentAt))
	return true
}

// got tells whether number seq arrived.
func (c *counter) got(seq uint64) bool {
	return seq/64 < uint64(len(c.seen)) && c.seen[seq/64]&(1<<(seq%64)) != 0
}

// between counts the numbers from a up to but not including b that arrived.
func (c *counter) between(a, b uint64) uint64 {
	var n uint64
	for a < b {
		word, first := a/64, a%64
		if word >= uint64(len(c.seen)) {
			break
		}
		w := c.seen[word] >> first
		width := min(64-first, b-a)
		if width < 64 {
			w &= 1<<width - 1
		}
		n += uint64(bits.OnesCount64(w))
		a += width
	}
	return n
}

// gapBetween returns the longest time before the arrival of a number from a to b, or of one of up to 63 around them.
func (c *counter) gapBetween(a, b uint64) (longest time.Duration) {
	for word := a / 64; word <= b/64 && word < uint64(len(c.gaps)); word++ {
		longest = max(longest, c.gaps[word])
	}
	return longest
}

// Range is a run of sequence numbers: From, and Count of them.
type Range struct{ From, Count uint64 }

// String prints the first and the last number.
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.From, r.From+r.Count-1) }

// missing returns the first limit runs of numbers below sent that did not arrive.
func (c *counter) missing(sent uint64, limit int) []Range {
	var out []Range
	for seq := uint64(0); seq < sent; seq++ {
		if c.got(seq) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].From+out[n-1].Count == seq {
			out[n-1].Count++
			continue
		}
		if len(out) == limit {
			break
		}
		out = append(out, Range{seq, 1})
	}
	return out
}
