package bench

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/bench/result"
	"weft/node/datastore"
)

// members finds the endpoints that a message about elements of a set is about: by their addresses, which
// are written as they are.
func (m *policyRun) members(data []byte, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; m.written != nil && len(data) >= 4; data = data[1:] {
		if data[0] != 10 || data[1] < 128 { // see remote
			continue
		}
		a := netip.AddrFrom4([4]byte(data))
		if at, ok := m.written[a]; ok {
			m.flooded = append(m.flooded, now.Sub(at))
			delete(m.written, a)
		}
	}
}

// flood changes labels at the rate, for ten seconds, and measures how far behind the kernel is at the end.
func (m *policyRun) flood(ctx context.Context, res *PolicyResult) error {
	const seconds = 10
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	m.say("%d label changes a second for %d s", m.Rate, seconds)
	m.mu.Lock()
	m.written = map[netip.Addr]time.Time{}
	m.mu.Unlock()
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range m.Rate * seconds {
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(m.Rate))); wait > 0 {
			time.Sleep(wait)
		}
		g.Go(func() error {
			which := i * 7919 % m.Endpoints
			m.mu.Lock()
			if _, pending := m.written[remoteAddr(which)]; pending { // the write before was nothing new to the kernel
				res.RateMissed++
			}
			m.written[remoteAddr(which)] = time.Now()
			m.mu.Unlock()
			return m.relabel(gctx, which, i)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	res.Rate = float64(m.Rate*seconds) / took.Seconds()
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	res.RateCPU = (after - before).Seconds() / took.Seconds()
	for len(m.events) > 0 {
		<-m.events
	}
	if res.RateBehind, err = m.behind(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	res.RateTimes, res.RateMissed, m.written = m.flooded, res.RateMissed+len(m.written), nil
	m.mu.Unlock()
	if res.RateBehind == 0 || len(res.RateTimes) == 0 {
		return fmt.Errorf("the kernel's rules did not change within 5 s of the last of %d label changes (%d of them came into the kernel)", m.Rate*seconds, len(res.RateTimes))
	}
	return m.recordFlood(res)
}

// recordFlood writes quantiles only: there are thousands of times.
func (m *policyRun) recordFlood(res *PolicyResult) error {
	var took []float64
	for _, d := range res.RateTimes {
		took = append(took, d.Seconds())
	}
	records := []result.Record{count("flood_changes", len(took)), count("flood_missed", res.RateMissed),
		{Metric: "flood_rate", Unit: result.PerSecond, Value: res.Rate}, {Metric: "flood_cpu", Unit: result.Count, Value: res.RateCPU}}
	for _, percent := range []int{50, 99, 100} {
		records = append(records, result.Record{Metric: fmt.Sprintf("flood_p%d", percent), Unit: result.Seconds, Value: rank(took, percent)})
	}
	return m.sheet.add(m.backend, m.setting(), 0, records...)
}

// behind makes one more change, behind all others: how long it takes is how far behind the node is. 0: it never came.
func (m *policyRun) behind(ctx context.Context) (behind time.Duration, err error) {
	mark := time.Now()
	if err := m.changePolicy(ctx, m.Changes+1); err != nil {
		return 0, err
	}
	want, err := m.store.Get(ctx, datastore.Key{Kind: "GlobalNetworkPolicy", Name: globalPolicy((m.Changes+1)*37%m.Policies, 0).Name})
	if err != nil || want == nil {
		return 0, fmt.Errorf("read the last change back: %w", err)
	}
	for quiet := time.NewTimer(5 * time.Second); ; {
		select {
		case at := <-m.events:
			behind = at.Sub(mark)
			quiet.Reset(time.Second)
		case <-quiet.C:
			return behind, nil
		}
	}
}
