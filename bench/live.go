package bench

import (
	"context"
	"fmt"
	"time"

	v3 "weft/api/v3"
	"weft/internal/traffic"
)

// liveChange is one change of the cluster's settings under traffic.
type liveChange struct {
	what     string
	apply    func(context.Context) error
	inForce  func(context.Context) error
	took     time.Duration
	from, to uint64 // packets that each pair had sent when it began and ended
}

// lateLoss is how long after a change what is lost still belongs to it.
const lateLoss = 300 * time.Millisecond

// walk goes through each of the ordered changes among n modes once, from the first back to it: indexes of modes.
func walk(n int) []int {
	out := []int{0}
	for i := range n - 1 {
		for j := i + 1; j < n; j++ {
			if out = append(out, j); j < n-1 {
				out = append(out, i)
			}
		}
		if i < n-2 {
			out = append(out, i+1)
		}
	}
	return append(out, 0)
}

// demoWalk is among the four modes that encapsulate.
var demoWalk = walk(4)

// live changes the mode of the pool in every direction, then VNI and port, while every pair of the
// six pods exchanges a thousand packets a second and a TCP stream.
func (d *Demo) live(ctx context.Context) ([]liveChange, traffic.Report, error) {
	if err := d.comeTo(ctx, demoModes[0]); err != nil {
		return nil, traffic.Report{}, err
	}
	d.say("live changes, while every pod sends every other 1,000 packets a second and a TCP stream:")
	changes := append(d.modeChanges(demoWalk), d.outerChanges()...)
	report, err := d.underTraffic(ctx, d.hosts(2), time.Millisecond, changes, func(c *liveChange) {
		d.say("  %-37s in force after %4d ms", c.what, c.took.Milliseconds())
	})
	return changes, report, err
}

// comeTo sets a mode and waits for it.
func (c *cluster) comeTo(ctx context.Context, m demoMode) error {
	if err := c.setMode(ctx, m); err != nil {
		return err
	}
	return c.settled(ctx, m)
}

// hosts are the first n pods of each node.
func (c *cluster) hosts(n int) []traffic.Host {
	var out []traffic.Host
	for _, node := range demoNodes {
		out = append(out, c.pods[node][:n]...)
	}
	return out
}

// underTraffic makes the changes one after the other while every host sends every other, and tells of each when it is
// made. What of them was made is in changes when one fails: its to is not 0, and the report is of these.
func (c *cluster) underTraffic(ctx context.Context, hosts []traffic.Host, interval time.Duration, changes []liveChange, made func(*liveChange)) (traffic.Report, error) {
	run, err := traffic.Start(ctx, traffic.Config{Hosts: hosts, Interval: interval, TCP: true})
	if err != nil {
		return traffic.Report{}, err
	}
	for i := range changes {
		if err := c.underRun(ctx, run, &changes[i]); err != nil {
			return run.Stop(), fmt.Errorf("%s: %w", changes[i].what, err)
		}
		made(&changes[i])
	}
	return run.Stop(), nil
}

// underRun makes a change while traffic runs.
func (c *cluster) underRun(ctx context.Context, run *traffic.Run, change *liveChange) error {
	change.from = run.Mark()
	begin := time.Now()
	if err := change.apply(ctx); err != nil {
		return err
	}
	if err := change.inForce(ctx); err != nil {
		return err
	}
	change.took = time.Since(begin)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(lateLoss):
	}
	change.to = run.Mark()
	return nil
}

// modeChanges are those of a walk through demoModes.
func (c *cluster) modeChanges(walk []int) []liveChange {
	var all []liveChange
	for i, to := range walk[1:] {
		m := demoModes[to]
		all = append(all, liveChange{what: demoModes[walk[i]].String() + " to " + m.String(),
			apply:   func(ctx context.Context) error { return c.setMode(ctx, m) },
			inForce: func(ctx context.Context) error { return c.settled(ctx, m) }})
	}
	return all
}

// outerChanges are those of VNI and port, back to what they are by default, in a mode that has VXLAN.
func (c *cluster) outerChanges() []liveChange {
	var all []liveChange
	for _, o := range []struct{ vni, port int }{{5000, 4789}, {5000, 8472}, {4096, 4789}} {
		outer := fmt.Sprintf("UDP %d, VNI %d", o.port, o.vni)
		all = append(all, liveChange{what: "VXLAN by " + outer,
			apply: func(ctx context.Context) error {
				f := &v3.FelixConfiguration{}
				f.Spec.VXLANVNI, f.Spec.VXLANPort = &o.vni, &o.port
				return c.put(ctx, "FelixConfiguration", "default", f)
			},
			inForce: func(ctx context.Context) error { return c.outer(ctx, outer) }})
	}
	return all
}

// lossOf is an error when a packet was lost or a stream broke.
func lossOf(r traffic.Report) error {
	total := r.Total()
	all, broken, _ := r.Streams()
	if total.Lost == 0 && broken == 0 {
		return nil
	}
	return fmt.Errorf("live changes: %d of %d packets lost, %d of %d TCP streams broke", total.Lost, total.Sent, broken, all)
}
