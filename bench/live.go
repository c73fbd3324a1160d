package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/internal/traffic"
	"weft/node/status"
)

// liveChange is one change of the cluster's settings under traffic.
type liveChange struct {
	what     string
	apply    func(context.Context) error
	inForce  func(context.Context) error
	took     time.Duration
	from, to uint64 // packets that each pair had sent when it began and ended
}

// everyChange begins at VXLAN Always and goes through each of the 12 ordered changes among the four
// modes that encapsulate once, back to where it began; the figures are indexes of demoModes.
var everyChange = []int{0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0}

// live changes the mode of the pool in every direction, then VNI and port, while every pair of the
// six pods exchanges a thousand packets a second and a TCP stream.
func (d *Demo) live(ctx context.Context) ([]liveChange, traffic.Report, error) {
	if err := d.setMode(ctx, demoModes[0]); err != nil {
		return nil, traffic.Report{}, err
	}
	if err := d.settled(ctx, demoModes[0]); err != nil {
		return nil, traffic.Report{}, err
	}
	var hosts []traffic.Host
	for _, n := range demoNodes {
		hosts = append(hosts, d.pods[n]...)
	}
	run, err := traffic.Start(ctx, traffic.Config{Hosts: hosts, Interval: time.Millisecond, TCP: true})
	if err != nil {
		return nil, traffic.Report{}, err
	}
	d.say("live changes, while every pod sends every other 1,000 packets a second and a TCP stream:")
	changes := d.liveChanges()
	for i := range changes {
		c := &changes[i]
		c.from = run.Mark()
		begin := time.Now()
		err := c.apply(ctx)
		if err == nil {
			err = c.inForce(ctx)
		}
		if err != nil {
			run.Stop()
			return nil, traffic.Report{}, fmt.Errorf("%s: %w", c.what, err)
		}
		c.took = time.Since(begin)
		time.Sleep(300 * time.Millisecond) // what is lost late belongs to this change
		c.to = run.Mark()
		d.say("  %-37s in force after %4d ms", c.what, c.took.Milliseconds())
	}
	return changes, run.Stop(), nil
}

func (d *Demo) liveChanges() []liveChange {
	var all []liveChange
	for i, to := range everyChange[1:] {
		m := demoModes[to]
		all = append(all, liveChange{what: demoModes[everyChange[i]].String() + " to " + m.String(),
			apply:   func(ctx context.Context) error { return d.setMode(ctx, m) },
			inForce: func(ctx context.Context) error { return d.settled(ctx, m) }})
	}
	for _, o := range []struct{ vni, port int }{{5000, 4789}, {5000, 8472}, {4096, 4789}} {
		outer := fmt.Sprintf("UDP %d, VNI %d", o.port, o.vni)
		all = append(all, liveChange{what: "VXLAN by " + outer,
			apply: func(ctx context.Context) error {
				f := &v3.FelixConfiguration{}
				f.Spec.VXLANVNI, f.Spec.VXLANPort = &o.vni, &o.port
				return d.put(ctx, "FelixConfiguration", "default", f)
			},
			inForce: func(ctx context.Context) error { return d.outer(ctx, outer) }})
	}
	return all
}

// outer waits until every node sends VXLAN with this outer header only.
func (d *Demo) outer(ctx context.Context, outer string) error {
	return d.until(ctx, "every node has VXLAN with "+outer, func() string {
		for _, n := range demoNodes {
			st, err := status.Fetch(ctx, d.lab.NodeRunDir(n))
			if err != nil {
				return err.Error()
			}
			for _, t := range st.Tunnels {
				if strings.HasPrefix(t.Outer, "UDP") && t.Outer != outer {
					return fmt.Sprintf("%s has %s still (%s)", n, t.Outer, t.Why)
				}
			}
		}
		return ""
	})
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
