package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	// leastNoise is taken for noise where rounds happen to agree better.
	leastNoise = 0.02
	// unknownNoise is taken for noise where no MTU was measured twice.
	unknownNoise = 0.2
)

// Choice is the MTU to use with an encapsulation.
type Choice struct {
	Encapsulation
	MTU   int     // bytes of the inner packet: what pods get
	Limit int     // the largest that fits
	Noise float64 // by what share two MTUs must differ to count: twice the standard error of a difference
	Score float64 // bits a second: the geometric mean over the numbers of streams
	Why   string  // a sentence
}

// Advice is what the measurements say.
type Advice struct {
	Choices []Choice // one for each encapsulation that was measured
	Why     []string // sentences about which to use
}

// Recommend chooses for each encapsulation the largest MTU that fits and whose throughput is not lower than the best
// one's by more than noise, and compares the encapsulations at these.
func (s Summary) Recommend() Advice {
	var a Advice
	for _, e := range s.Encapsulations(Throughput) {
		if c, ok := s.choose(e); ok {
			a.Choices = append(a.Choices, c)
		}
	}
	a.Why = compareChoices(a.Choices)
	return a
}

// scores returns of each round in which every number of streams was measured the geometric mean of their throughputs.
func (s Summary) scores(e Encapsulation, mtu int) []float64 {
	byRound := map[int][]float64{}
	for _, n := range s.Streams {
		p := Point{Encapsulation: e, MTU: mtu, Streams: n, Metric: Throughput}
		for i, v := range s.Values[p] {
			byRound[s.Rounds[p][i]] = append(byRound[s.Rounds[p][i]], math.Log(v))
		}
	}
	var out []float64
	for _, logs := range byRound {
		if len(logs) == len(s.Streams) {
			sum := 0.0
			for _, l := range logs {
				sum += l
			}
			out = append(out, math.Exp(sum/float64(len(logs))))
		}
	}
	slices.Sort(out)
	return out
}

// noise pools how far rounds at one MTU are apart, over all MTUs: the deviations of logarithms, which are shares.
func noise(rounds [][]float64) float64 {
	var squares, freedom, values float64
	for _, scores := range rounds {
		mean := 0.0
		for _, v := range scores {
			mean += math.Log(v) / float64(len(scores))
		}
		for _, v := range scores {
			squares += (math.Log(v) - mean) * (math.Log(v) - mean)
		}
		freedom += float64(len(scores) - 1)
		values += float64(len(scores))
	}
	if freedom == 0 {
		return unknownNoise
	}
	each := values / float64(len(rounds)) // rounds of an MTU
	return max(leastNoise, math.Expm1(2*math.Sqrt(squares/freedom)*math.Sqrt(2/each)))
}

// beyond tells that a is faster than b by more than noise.
func (c Choice) beyond(b *Choice) bool { return c.Score > b.Score*(1+max(c.Noise, b.Noise)) }

func (s Summary) choose(e Encapsulation) (Choice, bool) {
	c := Choice{Encapsulation: e}
	type tried struct {
		mtu   int
		score float64
	}
	var all []tried
	var rounds [][]float64
	for _, mtu := range s.MTUs(e, Throughput) {
		if scores := s.scores(e, mtu); len(scores) > 0 {
			all = append(all, tried{mtu, spread(scores).Median})
			rounds = append(rounds, scores)
		}
	}
	if len(all) == 0 {
		return c, false
	}
	c.Noise = noise(rounds)
	best := slices.MaxFunc(all, func(a, b tried) int { return cmp.Compare(a.score, b.score) })
	for _, t := range all { // ascending
		if t.score*(1+c.Noise) >= best.score {
			c.MTU, c.Score = t.mtu, t.score
		}
	}
	c.Limit = all[len(all)-1].mtu
	for _, m := range s.MTUs(e, PathMTU) {
		c.Limit = m
	}
	c.Why = why(c, best.mtu, best.score, all[len(all)-1].mtu, len(all))
	return c, true
}

func why(c Choice, bestMTU int, best float64, largest, n int) string {
	noise := fmt.Sprintf("%.0f %%", 100*c.Noise)
	reason := "the largest that fits"
	switch {
	case c.MTU == c.Limit:
	case c.MTU == largest:
		reason = fmt.Sprintf("the largest that was tried; %d fits", c.Limit)
	default:
		reason = fmt.Sprintf("smaller than what fits (%d): larger ones were slower by more than rounds differ (%s)", c.Limit, noise)
	}
	switch {
	case n == 1:
		return reason + "; no other was measured"
	case bestMTU == c.MTU:
		return fmt.Sprintf("%s, and the fastest of %d", reason, n)
	}
	return fmt.Sprintf("%s, and %.0f %% slower than the fastest of %d (%d), which is within what rounds differ by (%s)", reason, 100*(1-c.Score/best), n, bestMTU, noise)
}

// compareChoices says which encapsulation to use, by what a network can and must do.
func compareChoices(all []Choice) (out []string) {
	of := func(name string) *Choice {
		if i := slices.IndexFunc(all, func(c Choice) bool { return c.Name == name }); i >= 0 {
			return &all[i]
		}
		return nil
	}
	plain, crypt := of("none"), of("wireguard")
	var tunnel *Choice
	for _, c := range []*Choice{of("vxlan"), of("ipip")} {
		if c != nil && (tunnel == nil || c.beyond(tunnel)) {
			tunnel = c
		}
	}
	against := func(c *Choice) string {
		if plain == nil || c == plain {
			return ""
		}
		return fmt.Sprintf(", %.2f of plain routing", c.Score/plain.Score)
	}
	line := func(when string, c *Choice, more string) {
		if c != nil {
			out = append(out, fmt.Sprintf("%s: %v with MTU %d (%s Gbit/s%s)%s", when, c.Encapsulation, c.MTU, gbit(c.Score), against(c), more))
		}
	}
	line("Where the network between the nodes knows the pods' routes, or the nodes share a link", plain, ".")
	line("Elsewhere", tunnel, tunnelReason(of("vxlan"), of("ipip"))+crossSubnet(plain, tunnel))
	line("Where others may read the network", crypt, "; nothing else here encrypts.")
	return out
}

func tunnelReason(vxlan, ipip *Choice) string {
	if vxlan == nil || ipip == nil {
		return "."
	}
	ratio := ipip.Score / vxlan.Score
	if ipip.beyond(vxlan) {
		return fmt.Sprintf("; it is %.2f times as fast as VXLAN, more than rounds differ by. It needs a network that passes IP protocol 4, and IPv4.", ratio)
	}
	if vxlan.beyond(ipip) {
		return fmt.Sprintf("; IPIP does %.2f of it, less by more than rounds differ.", ratio)
	}
	return fmt.Sprintf("; IPIP does %.2f of it, the same within what rounds differ by, and VXLAN passes where only UDP does and carries IPv6 too.", ratio)
}

func crossSubnet(plain, tunnel *Choice) string {
	if plain == nil || tunnel == nil || !plain.beyond(tunnel) {
		return ""
	}
	return fmt.Sprintf(" With %sMode: CrossSubnet nodes that share a link go without it.", strings.ToLower(tunnel.Name))
}
