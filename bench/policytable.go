package bench

import (
	"fmt"
	"runtime"
	"time"
)

func (p *Policy) print(r PolicyResult) {
	out := p.sheet.tables(p.Out)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-36s"+format+"\n", append([]any{name}, args...)...)
	}
	line("policy by "+r.Backend, "--policies %d --pods %d --endpoints %d --changes %d --rate %d", p.Policies, p.Pods, p.Endpoints, p.Changes, p.Rate)
	if r.Enforced.Chains > 0 {
		line("in the kernel", "%d policies that select a pod here, %d pods, %d chains, %d sets", r.Enforced.Policies, r.Enforced.Pods, r.Enforced.Chains, r.Enforced.Sets)
	}
	line("process start to enforced", "%s", quantiles(r.Start, "starts"))
	line("the same with nothing to enforce", "%s", quantiles(r.Empty, "starts"))
	change := func(what string, times []time.Duration, i int, of string) {
		if len(times) == 0 {
			return
		}
		line("one "+what+", before write to kernel", "%s", quantiles(times, of))
		line("of that until the store told", "p50 %.1f ms", ms(r.Store[i]))
		line("CPU of one "+what+" change", "%.1f ms", ms(r.CPU[i]))
	}
	change("policy", r.Policy, 0, "one at a time: one rule's port changed")
	change("label", r.Label, 1, "one at a time: two labels of another node's pod changed")
	if r.Rate > 0 {
		line("label changes a second", "%.0f written, %.2f of a core; the kernel was whole %.1f ms after the last write", r.Rate, r.RateCPU, ms(r.RateBehind))
		line("one of these, write to kernel", "%s", quantiles(r.RateTimes, fmt.Sprintf("the kernel told nothing of %d more", r.RateMissed)))
	}
	if r.RSS > 0 {
		line("resident memory", "%.0f MiB", float64(r.RSS)/(1<<20))
	}
	line("load average meanwhile", "%s to %s on %d CPUs", r.LoadAverage[0], r.LoadAverage[1], runtime.NumCPU())
}
