// Package report says what the records of `weft bench mtu` mean: a summary, a recommendation, a table in Markdown and
// plots. It reads records of bench/result and measures nothing.
package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"weft/bench/result"
)

// Metrics of the experiment "mtu".
const (
	// Throughput is bits of TCP payload a second, as the receiver counted them.
	Throughput = "throughput"
	// Retransmits is how many segments were sent again while the throughput was counted.
	Retransmits = "retransmits"
	// CPU is what processors did for 10^9 bits of TCP payload, of the machine that Side names: user, nice, system, irq
	// and softirq of /proc/stat, of all programs and the kernel. Idle work of the machine is in it.
	CPU = "cpu_per_gigabit"
	// LatencyP50 and the others are the times from a request to its answer that so many of a hundred did not exceed.
	LatencyP50  = "latency_p50"
	LatencyP90  = "latency_p90"
	LatencyP99  = "latency_p99"
	LatencyP999 = "latency_p99.9"
	// Requests is how many requests the latencies are of.
	Requests = "latency_requests"
	// PacketsReceived and PacketsSent are UDP packets a second of one sending thread.
	PacketsReceived = "packets_received"
	PacketsSent     = "packets_sent"
	// PathMTU is the largest IP packet in bytes that passes with DF set, both ways.
	PathMTU = "path_mtu"
)

// Encapsulation is one way for packets to go.
type Encapsulation struct{ Name, Way string }

var titles = map[string]string{"none": "plain routing", "vxlan": "VXLAN", "ipip": "IPIP", "wireguard": "WireGuard",
	"crosssubnet": "CrossSubnet in one subnet"}

// String is how people call it: "IPIP (ebpf)".
func (e Encapsulation) String() string {
	name := titles[e.Name]
	if name == "" {
		name = e.Name
	}
	way := e.Way
	if way == "ebpf" {
		way = "eBPF"
	}
	if way != "" {
		name += " (" + way + ")"
	}
	return name
}

// order is how encapsulations are listed.
var order = []string{"none", "vxlan", "ipip", "wireguard"}

// Point is a metric at one MTU; Streams is 0 and Side empty where they do not matter.
type Point struct {
	Encapsulation
	MTU     int
	Streams int
	Side    string
	Metric  string
}

// Summary holds the values of each point, in the order of the rounds.
type Summary struct {
	Values  map[Point][]float64
	Rounds  map[Point][]int // of each value
	First   result.Record
	Streams []int // sorted
}

// Summarise groups records by what was measured.
func Summarise(records []result.Record) Summary {
	s := Summary{Values: map[Point][]float64{}, Rounds: map[Point][]int{}}
	streams := map[int]bool{}
	for i, r := range records {
		if i == 0 {
			s.First = r
		}
		p := Point{Encapsulation{r.Encapsulation, r.Way}, r.MTU, r.Streams, r.Side, r.Metric}
		s.Values[p] = append(s.Values[p], r.Value)
		s.Rounds[p] = append(s.Rounds[p], r.Round)
		if r.Streams > 0 {
			streams[r.Streams] = true
		}
	}
	s.Streams = slices.Sorted(maps.Keys(streams))
	return s
}

// Encapsulations returns those that a metric was measured of, plain routing first.
func (s Summary) Encapsulations(metric string) []Encapsulation {
	seen := map[Encapsulation]bool{}
	for p := range s.Values {
		if p.Metric == metric {
			seen[p.Encapsulation] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Encapsulation) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Name), slices.Index(order, b.Name)), cmp.Compare(a.String(), b.String()))
	})
}

// MTUs returns those that a metric of an encapsulation was measured at, ascending.
func (s Summary) MTUs(e Encapsulation, metric string) []int {
	seen := map[int]bool{}
	for p := range s.Values {
		if p.Encapsulation == e && p.Metric == metric {
			seen[p.MTU] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Sides returns whose processors' work is known, the sender's first.
func (s Summary) Sides() []string {
	seen := map[string]bool{}
	for p := range s.Values {
		if p.Metric == CPU {
			seen[p.Side] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b string) int { return cmp.Compare(b, a) })
}

// Spread is the middle of some values and their range.
type Spread struct {
	Low, Median, High float64
	N                 int
}

// Of returns the spread of a point; N is 0 where it was not measured.
func (s Summary) Of(p Point) Spread { return spread(s.Values[p]) }

func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Spread{v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1], n}
}

func gbit(bps float64) string { return fmt.Sprintf("%.2f", bps/1e9) }
