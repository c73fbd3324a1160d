package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	v3 "weft/api/v3"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

// Demo brings a lab up, attaches six pods to three nodes, and shows for each mode of the pool how
// each pair of nodes talks.
type Demo struct {
	Name string    // of the lab
	Out  io.Writer // the table
	Log  io.Writer // progress
	// Stream is how long each TCP stream is measured, Pings how many echo requests are sent.
	Stream time.Duration
	Pings  int

	lab   *lab.Lab
	store *etcd.Store
	pods  map[string][]demoPod // by node
}

type demoPod struct {
	netns string
	addr  netip.Addr
}

// demoRow is one line of the table.
type demoRow struct {
	mode, from, to  string
	path, why       string
	mtu             int
	ping            pingResult
	bps             float64
	expected, talks bool
	err             error
}

// demoMode is a mode of the pool and which pairs must talk in it.
type demoMode struct {
	mode v3.EncapMode
	// fabric tells that pods of different racks talk only if the routers know the pods' routes,
	// which the lab's router does not.
	fabric bool
}

var demoPairs = [][2]string{{"n1", "n2"}, {"n1", "n3"}, {"n2", "n3"}}

// Run shows everything and returns an error when a pair that should talk does not. The lab is gone
// afterwards.
func (d *Demo) Run(ctx context.Context) (err error) {
	if d.lab, err = lab.New(d.Name, lab.Options{Progress: d.Log}); err != nil {
		return err
	}
	if _, err := d.lab.Down(ctx); err != nil {
		return fmt.Errorf("remove an earlier demo: %w", err)
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, downErr := d.lab.Down(clean)
		err = errors.Join(err, downErr)
	}()
	d.say("three nodes in two racks, joined by a router, each a weft node of its own:")
	if err := d.lab.Up(ctx, lab.DefaultConfig(), false); err != nil {
		return err
	}
	if d.store, err = etcd.Open(ctx, etcd.Config{Endpoints: []string{d.lab.StoreEndpoint()}}); err != nil {
		return err
	}
	defer func() { _ = d.store.Close() }()
	modes := []demoMode{{v3.EncapAlways, false}, {v3.EncapCrossSubnet, false}, {v3.EncapNever, true}}
	if err := d.setMode(ctx, modes[0].mode); err != nil {
		return err
	}
	if err := d.addPods(ctx); err != nil {
		return err
	}
	var rows []demoRow
	for _, m := range modes {
		if err := d.setMode(ctx, m.mode); err != nil {
			return err
		}
		if err := d.settled(ctx, m); err != nil {
			return err
		}
		for _, pair := range demoPairs {
			row := d.measure(ctx, m, pair[0], pair[1])
			d.say("  %s", row.progress())
			rows = append(rows, row)
		}
	}
	writeDemoTable(d.Out, rows)
	return failures(rows)
}

func (d *Demo) say(format string, args ...any) { fmt.Fprintf(d.Log, format+"\n", args...) }

// setMode applies the pool; the nodes follow while they run.
func (d *Demo) setMode(ctx context.Context, mode v3.EncapMode) error {
	d.say("IPPool 10.244.0.0/16 with vxlanMode %s", mode)
	kind, _ := v3.LookupKind("IPPool")
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.244.0.0/16", BlockSize: 26, VXLANMode: mode, IPIPMode: v3.EncapNever,
		NATOutgoing: true, NodeSelector: "all()"}}
	pool.SetGroupVersionKind(kind.GroupVersion.WithKind("IPPool"))
	pool.Name = "default-ipv4-ippool"
	_, err := d.store.Update(ctx, pool)
	if errors.Is(err, datastore.ErrNotFound) {
		_, err = d.store.Create(ctx, pool)
	}
	return err
}

func (d *Demo) addPods(ctx context.Context) error {
	d.say("six pods, attached through CNI as a container runtime does it:")
	d.pods = map[string][]demoPod{}
	for _, node := range []string{"n1", "n2", "n3"} {
		for _, name := range []string{"a", "b"} {
			pod := node + "-" + name
			begin := time.Now()
			res, err := d.lab.AddPod(ctx, lab.PodSpec{Node: node, Namespace: "demo", Name: pod})
			if err != nil {
				return fmt.Errorf("attach pod demo/%s: %w", pod, err)
			}
			r, err := types100.GetResult(res)
			if err != nil || len(r.IPs) == 0 {
				return fmt.Errorf("attach pod demo/%s: the CNI result has no address (%v)", pod, err)
			}
			addr, _ := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
			d.pods[node] = append(d.pods[node], demoPod{d.lab.PodNetns("demo", pod), addr})
			d.say("  demo/%s on %s: %s, %d ms", pod, node, addr, time.Since(begin).Milliseconds())
		}
	}
	return nil
}

// settled waits until every node's paths are as the mode wants them.
func (d *Demo) settled(ctx context.Context, m demoMode) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		wrong := ""
		for _, node := range []string{"n1", "n2", "n3"} {
			for _, peer := range []string{"n1", "n2", "n3"} {
				if node == peer {
					continue
				}
				p, err := d.path(ctx, node, peer)
				if want := wantedReach(m.mode, node, peer); err != nil {
					wrong = err.Error()
				} else if p.Reach != want {
					wrong = fmt.Sprintf("%s reaches %s by %s, want %s", node, peer, p.Reach, want)
				}
			}
		}
		if wrong == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("vxlanMode %s is not in force after 15 s: %s", m.mode, wrong)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wantedReach knows the lab: n1 and n2 share a rack.
func wantedReach(mode v3.EncapMode, a, b string) string {
	sameRack := a != "n3" && b != "n3"
	if mode == v3.EncapAlways || mode == v3.EncapCrossSubnet && !sameRack {
		return "VXLAN"
	}
	return "Direct"
}

// path asks a node how it reaches a peer's block.
func (d *Demo) path(ctx context.Context, node, peer string) (status.Path, error) {
	st, err := status.Fetch(ctx, d.lab.NodeRunDir(node))
	if err != nil {
		return status.Path{}, err
	}
	for _, p := range st.Peers {
		if p.Node == peer && len(p.Paths) > 0 {
			return p.Paths[0], nil
		}
	}
	return status.Path{}, fmt.Errorf("%s knows no path to %s", node, peer)
}

func (d *Demo) measure(ctx context.Context, m demoMode, from, to string) demoRow {
	row := demoRow{mode: string(m.mode), from: from, to: to,
		expected: !m.fabric || wantedReach(v3.EncapCrossSubnet, from, to) == "Direct"}
	p, err := d.path(ctx, from, to)
	if err != nil {
		row.err = err
		return row
	}
	row.path, row.mtu, row.why = p.Reach+" ("+p.Device+")", p.MTU, p.Why
	src, dst := d.pods[from][0], d.pods[to][0]
	if !row.expected {
		row.ping, row.err = ping(ctx, src.netns, dst.addr, 3)
		row.talks = row.ping.Received > 0
		return row
	}
	if row.ping, row.err = ping(ctx, src.netns, dst.addr, d.Pings); row.err != nil {
		return row
	}
	row.bps, row.err = tcp(ctx, src.netns, dst.netns, dst.addr, d.Stream)
	row.talks = row.ping.Received > 0 && row.err == nil
	return row
}

func failures(rows []demoRow) error {
	var errs []error
	for _, r := range rows {
		if r.expected && (!r.talks || r.ping.Received < r.ping.Sent) {
			errs = append(errs, fmt.Errorf("vxlanMode %s: %s to %s: %d of %d pings answered (%v)", r.mode, r.from, r.to, r.ping.Received, r.ping.Sent, r.err))
		}
	}
	return errors.Join(errs...)
}
