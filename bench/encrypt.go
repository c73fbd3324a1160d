package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"weft/internal/kernel"
	"weft/internal/traffic"
	"weft/lab"
)

// encryption is what the demo shows of WireGuard.
type encryption struct {
	rows    []demoRow
	on, off time.Duration // until every pair was encrypted, and was not any more
	report  traffic.Report
	control traffic.Seen // on the wire before
	seen    traffic.Seen // and while it was on
}

const (
	wireGuardMode = "WireGuard"
	// encryptedInterval is between two packets of a pair: what two processors encrypt in user space and send
	// and read as well.
	encryptedInterval = 4 * time.Millisecond
	tapTime           = time.Second
)

// encryption switches encryption on and off under traffic, measures what it costs in between, and reads what is
// on the wire.
func (d *Demo) encryption(ctx context.Context) (*encryption, error) {
	d.say("%s, over the pool as it is, while pods of different nodes send each other 250 packets a second and a TCP stream:", wireGuardMode)
	if err := errors.Join(d.setMode(ctx, demoModes[0]), d.settled(ctx, demoModes[0])); err != nil {
		return nil, err
	}
	var hosts []traffic.Host
	for _, n := range demoNodes {
		hosts = append(hosts, d.pods[n][0])
	}
	run, err := traffic.Start(ctx, traffic.Config{Hosts: hosts, Interval: encryptedInterval, TCP: true})
	if err != nil {
		return nil, err
	}
	e := &encryption{}
	err = d.encrypted(ctx, e)
	e.report = run.Stop()
	if err != nil {
		return nil, err
	}
	d.say("  clear-text packets seen on the wire: %d of %d; before: %d of %d", e.seen.Clear, e.seen.Packets, e.control.Clear, e.control.Packets)
	return e, nil
}

func (d *Demo) encrypted(ctx context.Context, e *encryption) (err error) {
	if e.control, err = d.tap(ctx); err != nil {
		return err
	}
	if e.on, err = d.encrypt(ctx, true, func(string, string) string { return wireGuardMode }); err != nil {
		return err
	}
	d.say("  on after %d ms", e.on.Milliseconds())
	if e.seen, err = d.tap(ctx); err != nil {
		return err
	}
	for _, pair := range demoPairs {
		row := d.measureEncrypted(ctx, pair[0], pair[1])
		d.say("  %s", row.progress())
		e.rows = append(e.rows, row)
	}
	if e.off, err = d.encrypt(ctx, false, demoModes[0].reach); err != nil {
		return err
	}
	d.say("  off after %d ms", e.off.Milliseconds())
	return nil
}

// tap reads the packets of every node's uplink for a while.
func (d *Demo) tap(ctx context.Context) (sum traffic.Seen, err error) {
	var taps []*traffic.Tap
	for _, n := range demoNodes {
		t, tapErr := traffic.OpenTap(kernel.NetnsPath(d.lab.Netns(n)), "eth0", traffic.Cookie)
		if err = errors.Join(err, tapErr); tapErr == nil {
			taps = append(taps, t)
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(tapTime):
	}
	for _, t := range taps {
		seen, tapErr := t.Stop()
		sum, err = sum.Add(seen), errors.Join(err, tapErr)
	}
	return sum, err
}

// measureEncrypted measures a pair. All pods' traffic is encrypted: plain routing is measured between the nodes
// themselves.
func (d *Demo) measureEncrypted(ctx context.Context, from, to string) demoRow {
	row := demoRow{mode: wireGuardMode, from: from, to: to, expected: true}
	ends := map[string]traffic.Host{}
	for _, n := range lab.DefaultConfig().Nodes {
		ends[n.Name] = traffic.Host{Name: n.Name, Netns: kernel.NetnsPath(d.lab.Netns(n.Name)), Addr: n.IP}
	}
	return d.measureRow(ctx, row, ends[from], ends[to])
}

// failure is an error when a packet was lost, seen in clear, or not seen before.
func (e *encryption) failure() error {
	err := lossOf(e.report)
	if e.seen.Clear > 0 || e.seen.Packets < 100 {
		err = errors.Join(err, fmt.Errorf("encryption: %d of %d packets on the wire are in clear", e.seen.Clear, e.seen.Packets))
	}
	if e.control.Clear == 0 {
		err = errors.Join(err, fmt.Errorf("encryption: not one of %d packets was seen in clear before it was on: whoever looks is blind", e.control.Packets))
	}
	return errors.Join(err, failures(e.rows))
}

func (e *encryption) write(w io.Writer) {
	total := e.report.Total()
	fmt.Fprintf(w, "Encryption on after %d ms, off after %d ms: %d of %d packets lost. Clear-text packets seen on the wire: %d of %d while it was on, %d of %d before.\n",
		e.on.Milliseconds(), e.off.Milliseconds(), total.Lost, total.Sent, e.seen.Clear, e.seen.Packets, e.control.Clear, e.control.Packets)
}
