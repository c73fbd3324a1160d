package traffic

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is the account of a Run.
type Report struct {
	Pairs    []Pair
	Duration time.Duration
	Interval time.Duration // as asked; the one that came out is Duration / packets of a pair
	// Late is how much after its time a round of packets left: the 99th percentile and the longest.
	// Skipped counts rounds that were left out because the sender was more than a round late.
	LateP99, LateMax time.Duration
	Skipped          uint64
}

// Pair is the account of the streams from one host to another.
type Pair struct {
	From, To   string
	Sent       uint64 // packets handed to the kernel, refused ones included
	Refused    uint64 // by the sender's own kernel
	Received   uint64 // different packets
	Lost       uint64
	Reordered  uint64
	Duplicated uint64
	LongestGap time.Duration // between two arrivals
	Latency    time.Duration // longest
	Missing    []Range       // the first lost ones
	TCP        *Stream       // nil without TCP

	counter *counter
}

// Stream is the account of one TCP stream.
type Stream struct {
	Sent, Received  uint64 // bytes
	LongestGap      time.Duration
	Retransmissions int
	Err             error // the stream broke, or its content was not what was sent
}

// Total adds the pairs up: counts are sums, times are the longest.
func (r Report) Total() Pair {
	t := Pair{From: "all", To: "all"}
	for _, p := range r.Pairs {
		t.Sent, t.Refused, t.Received = t.Sent+p.Sent, t.Refused+p.Refused, t.Received+p.Received
		t.Lost, t.Reordered, t.Duplicated = t.Lost+p.Lost, t.Reordered+p.Reordered, t.Duplicated+p.Duplicated
		t.LongestGap, t.Latency = max(t.LongestGap, p.LongestGap), max(t.Latency, p.Latency)
	}
	return t
}

// Between returns what all pairs sent and lost between two marks.
func (r Report) Between(a, b uint64) (sent, lost uint64) {
	for _, p := range r.Pairs {
		end := min(b, p.Sent)
		if end <= a {
			continue
		}
		sent += end - a
		lost += end - a - p.counter.between(a, end)
	}
	return sent, lost
}

// GapBetween returns the longest time of a pair without an arrival between two marks, give or take 63 packets.
func (r Report) GapBetween(a, b uint64) (longest time.Duration) {
	for _, p := range r.Pairs {
		longest = max(longest, p.counter.gapBetween(a, b))
	}
	return longest
}

// Streams returns how many TCP streams there were, how many of them broke, and the longest silence
// of one.
func (r Report) Streams() (all, broken int, longest time.Duration) {
	for _, p := range r.Pairs {
		if p.TCP == nil {
			continue
		}
		all++
		if p.TCP.Err != nil {
			broken++
		}
		longest = max(longest, p.TCP.LongestGap)
	}
	return all, broken, longest
}

// Errs returns the errors of the TCP streams, each with its pair.
func (r Report) Errs() []error {
	var errs []error
	for _, p := range r.Pairs {
		if p.TCP != nil && p.TCP.Err != nil {
			errs = append(errs, fmt.Errorf("TCP from %s to %s: %w", p.From, p.To, p.TCP.Err))
		}
	}
	return errs
}

// String prints one line of totals, and one for each of the ten pairs that lost most.
func (r Report) String() string {
	var b strings.Builder
	t := r.Total()
	fmt.Fprintf(&b, "%d of %d packets lost between %d pairs in %.1f s (%.0f/s each); %d reordered, %d duplicated, %d refused; longest gap %v, latency up to %v",
		t.Lost, t.Sent, len(r.Pairs), r.Duration.Seconds(), float64(t.Sent)/float64(max(1, len(r.Pairs)))/max(r.Duration.Seconds(), 1e-9),
		t.Reordered, t.Duplicated, t.Refused, t.LongestGap.Round(100*time.Microsecond), t.Latency.Round(100*time.Microsecond))
	fmt.Fprintf(&b, "; sent late by p99 %v, at most %v, %d rounds left out", r.LateP99.Round(10*time.Microsecond), r.LateMax.Round(10*time.Microsecond), r.Skipped)
	if all, broken, longest := r.Streams(); all > 0 {
		var bytes uint64
		again := 0
		for _, p := range r.Pairs {
			bytes, again = bytes+p.TCP.Received, again+p.TCP.Retransmissions
		}
		fmt.Fprintf(&b, "; %d of %d TCP streams broke (%d bytes checked, %d retransmissions, longest silence %v)", broken, all, bytes, again, longest.Round(time.Millisecond))
	}
	worst := slices.Clone(r.Pairs)
	slices.SortStableFunc(worst, func(a, b Pair) int { return cmp.Compare(b.Lost, a.Lost) })
	for _, p := range worst[:min(10, len(worst))] {
		if p.Lost > 0 {
			fmt.Fprintf(&b, "\n  %s to %s: %d of %d lost, longest gap %v, first %v", p.From, p.To, p.Lost, p.Sent, p.LongestGap.Round(time.Millisecond), p.Missing)
		}
	}
	for _, err := range r.Errs() {
		fmt.Fprintf(&b, "\n  %v", err)
	}
	return b.String()
}
