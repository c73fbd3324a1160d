package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	v3 "weft/api/v3"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/datastore/etcd"
)

// Demo brings a lab up, attaches pods to three nodes through CNI, shows for each mode of their pool
// how they talk, and changes the mode, the VNI and the port under traffic.
type Demo struct {
	Name string    // of the lab
	Out  io.Writer // the tables
	Log  io.Writer // progress
	// Rounds is how often the throughput of a row is measured, each time beside that of plain routing,
	// and Stream how long each time; Pings is how many echo requests a row gets.
	Rounds int
	Stream time.Duration
	Pings  int

	cluster
	plain map[string]traffic.Host // of a pool that is never encapsulated, by node
}

// demoMode is a mode of the pool.
type demoMode struct{ vxlan, ipip v3.EncapMode }

var (
	demoModes = []demoMode{
		{v3.EncapAlways, v3.EncapNever}, {v3.EncapCrossSubnet, v3.EncapNever},
		{v3.EncapNever, v3.EncapAlways}, {v3.EncapNever, v3.EncapCrossSubnet},
		{v3.EncapNever, v3.EncapNever},
	}
	demoNodes = []string{"n1", "n2", "n3"}
	demoPairs = [][2]string{{"n1", "n2"}, {"n1", "n3"}} // in a rack, and across
)

const (
	demoPool  = "default-ipv4-ippool"
	plainPool = "plain"
	// settleLimit is how long a change may take until every node follows it.
	settleLimit = 15 * time.Second
	podAddress  = "cni.projectcalico.org/ipv4pools" // the annotation that chooses a pod's pool
)

func (m demoMode) String() string {
	switch {
	case m.vxlan != v3.EncapNever:
		return "VXLAN " + string(m.vxlan)
	case m.ipip != v3.EncapNever:
		return "IPIP " + string(m.ipip)
	}
	return "Never"
}

// reach is how a node reaches another in this mode. It knows the lab: n1 and n2 share a rack.
func (m demoMode) reach(a, b string) string {
	across := a == "n3" || b == "n3"
	encapsulates := func(e v3.EncapMode) bool { return e == v3.EncapAlways || e == v3.EncapCrossSubnet && across }
	switch {
	case encapsulates(m.vxlan):
		return "VXLAN"
	case encapsulates(m.ipip):
		return "IPIP"
	}
	return "Direct"
}

// expected tells whether the pair must talk: without encapsulation the lab's router would have to
// know the way to the pods, which it does for the plain pool only.
func (m demoMode) expected(a, b string) bool {
	return m.reach("n1", "n3") != "Direct" || a != "n3" && b != "n3"
}

// Run shows everything and returns an error when a pair that should talk does not, or a change
// loses packets. The lab is gone afterwards.
func (d *Demo) Run(ctx context.Context) (err error) {
	d.log = d.Log
	if d.lab, err = lab.New(d.Name, lab.Options{Progress: d.Log}); err != nil {
		return err
	}
	d.say("three nodes in two racks, joined by a router, each a weft node of its own:")
	config := lab.DefaultConfig()
	if err := d.lab.Up(ctx, config, false); err != nil { // what it made is gone again
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, downErr := d.lab.Down(clean)
		err = errors.Join(err, downErr)
	}()
	if d.store, err = etcd.Open(ctx, etcd.Config{Endpoints: []string{d.lab.StoreEndpoint()}}); err != nil {
		return err
	}
	defer func() { _ = d.store.Close() }()
	if err := d.attach(ctx, config); err != nil {
		return err
	}
	rows, err := d.modes(ctx)
	if err != nil {
		return err
	}
	routed, err := d.bgp(ctx, config)
	rows = append(rows, routed...)
	if err != nil {
		return errors.Join(failures(rows), err)
	}
	crypt, err := d.encryption(ctx)
	if err != nil {
		return errors.Join(failures(rows), err)
	}
	writeDemoTable(d.Out, append(rows, crypt.rows...))
	crypt.write(d.Out)
	changes, report, err := d.live(ctx)
	if err != nil {
		return errors.Join(failures(rows), crypt.failure(), err)
	}
	writeChanges(d.Out, changes, report)
	cells, took, err := d.policy(ctx)
	if err != nil {
		return errors.Join(failures(rows), crypt.failure(), lossOf(report), err)
	}
	writeShop(d.Out, cells, took)
	return errors.Join(failures(rows), crypt.failure(), lossOf(report), shopFailures(cells))
}

// attach makes the pools and attaches the pods: two of each node, and one for plain routing, which
// the others are compared with.
func (d *Demo) attach(ctx context.Context, config lab.Config) error {
	if err := errors.Join(d.setMode(ctx, demoModes[0]), d.apply(ctx, plainPool, "10.245.0.0/16", demoMode{v3.EncapNever, v3.EncapNever})); err != nil {
		return err
	}
	d.say("nine pods, attached through CNI as a container runtime does it; the last of each node is of a pool that is only routed, to compare with:")
	d.pods, d.plain = map[string][]traffic.Host{}, map[string]traffic.Host{}
	for _, n := range config.Nodes {
		for _, p := range []struct{ name, pool string }{{"a", demoPool}, {"b", demoPool}, {"plain", plainPool}} {
			h, err := d.addPod(ctx, n.Name, p.name, p.pool)
			if err != nil {
				return err
			}
			if p.pool == demoPool {
				d.pods[n.Name] = append(d.pods[n.Name], h)
				continue
			}
			d.plain[n.Name] = h
			if err := d.teachRouter(n, h.Addr); err != nil {
				return err
			}
		}
	}
	return d.settled(ctx, demoModes[0])
}

// firstAddress returns the IPv4 address of a CNI result.
func firstAddress(res types.Result) (netip.Addr, error) {
	r, err := types100.GetResult(res)
	if err != nil || len(r.IPs) == 0 {
		return netip.Addr{}, fmt.Errorf("the CNI result has no address (%v)", err)
	}
	addr, _ := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
	return addr, nil
}

// modes measures every pair in every mode.
func (d *Demo) modes(ctx context.Context) ([]demoRow, error) {
	var rows []demoRow
	for _, m := range demoModes {
		d.say("%v:", m)
		if err := d.setMode(ctx, m); err != nil {
			return nil, err
		}
		if err := d.settled(ctx, m); err != nil {
			return nil, err
		}
		for _, pair := range demoPairs {
			row := d.measure(ctx, m, pair[0], pair[1])
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			d.say("  %s", row.progress())
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (d *Demo) measure(ctx context.Context, m demoMode, from, to string) demoRow {
	row := demoRow{mode: m.String(), from: from, to: to, expected: m.expected(from, to)}
	return d.measureRow(ctx, row, d.plain[from], d.plain[to])
}

// measureRow fills a row; the throughput is measured beside that between two hosts that are only routed.
func (d *Demo) measureRow(ctx context.Context, row demoRow, plainFrom, plainTo traffic.Host) demoRow {
	from, to := row.from, row.to
	p, err := d.path(ctx, from, to)
	if err != nil {
		row.err = err
		return row
	}
	row.path, row.mtu = p.Reach, p.MTU
	if p.Device != "" {
		row.path += " (" + p.Device + ")"
	}
	src, dst := d.pods[from][0], d.pods[to][0]
	if !row.expected {
		row.ping, row.err = ping(ctx, src.Netns, dst.Addr, 3)
		row.talks = row.ping.Received > 0
		return row
	}
	if row.ping, row.err = ping(ctx, src.Netns, dst.Addr, d.Pings); row.err != nil {
		return row
	}
	row.bps, row.ratio, row.err = d.compare(ctx, src, dst, plainFrom, plainTo)
	row.talks = row.ping.Received > 0 && row.err == nil
	return row
}

// compare measures the throughput of one pair beside that of plain routing between the same nodes,
// in turns, and returns the medians of the former and of the ratios.
func (d *Demo) compare(ctx context.Context, src, dst, plainSrc, plainDst traffic.Host) (bps, ratio float64, err error) {
	var rates, ratios []float64
	for round := range d.Rounds {
		var got [2]float64 // plain routing, the pair
		for i := range got {
			i ^= round % 2 // now the one goes first, now the other
			ends := [][2]traffic.Host{{plainSrc, plainDst}, {src, dst}}[i]
			if got[i], err = traffic.Throughput(ctx, ends[0], ends[1], d.Stream); err != nil {
				return 0, 0, err
			}
		}
		rates, ratios = append(rates, got[1]), append(ratios, got[1]/got[0])
	}
	return median(rates), median(ratios), nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func failures(rows []demoRow) error {
	var errs []error
	for _, r := range rows {
		if r.expected && (!r.talks || r.ping.Received < r.ping.Sent) {
			errs = append(errs, fmt.Errorf("%s: %s to %s: %d of %d pings answered (%v)", r.mode, r.from, r.to, r.ping.Received, r.ping.Sent, r.err))
		}
	}
	return errors.Join(errs...)
}
