package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore"
)

const (
	bgpMode = "Never, router by BGP"
	// routerAS is the AS number of the lab's router, as that of a rack differs from the cluster's.
	routerAS = 64513
)

// bgp makes the router between the racks a neighbour of every node, by BIRD, and shows that it then carries what it
// did not before. Everything is as it was afterwards.
func (d *Demo) bgp(ctx context.Context, config lab.Config) (rows []demoRow, err error) {
	if _, err := exec.LookPath("bird"); err != nil {
		return nil, fmt.Errorf("the router of the demo is BIRD: %w; install the Debian package bird2", err)
	}
	never := demoModes[len(demoModes)-1]
	d.say("%s: the pool is not encapsulated, and the router between the racks learns where the pods are by BGP (BIRD 2):", bgpMode)
	if err := errors.Join(d.setMode(ctx, never), d.settled(ctx, never)); err != nil {
		return nil, err
	}
	stop, err := d.bird(config)
	if err != nil {
		return nil, err
	}
	defer stop()
	begin := time.Now()
	for _, n := range config.Nodes {
		p := &v3.BGPPeer{Spec: v3.BGPPeerSpec{PeerIP: routerOf(n).String(), ASNumber: routerAS, Node: n.Name}}
		if err := d.put(ctx, v3.KindBGPPeer, "router-of-"+n.Name, p); err != nil {
			return nil, err
		}
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
			defer cancel()
			err = errors.Join(err, d.store.Delete(clean, datastore.Key{Kind: v3.KindBGPPeer, Name: "router-of-" + n.Name}, datastore.Precondition{}))
		}()
	}
	err = d.until(ctx, "the racks reach each other by BGP", func() string {
		p, err := ping(ctx, d.pods["n1"][0].Netns, d.pods["n3"][0].Addr, 1)
		if err != nil || p.Received == 0 {
			return fmt.Sprintf("a pod of n1 gets no answer from one of n3 (%v)", err)
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	d.say("  n1 - n3: pods talk %d ms after the neighbours were written", time.Since(begin).Milliseconds())
	for _, pair := range demoPairs {
		row := d.measureRow(ctx, demoRow{mode: bgpMode, from: pair[0], to: pair[1], expected: true}, d.plain[pair[0]], d.plain[pair[1]])
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d.say("  %s", row.progress())
		rows = append(rows, row)
	}
	return rows, nil
}

// routerOf is the router's address in a node's subnet: the last usable one.
func routerOf(n lab.Node) netip.Addr {
	p := netip.PrefixFrom(n.IP, 24).Masked().Addr().As4()
	p[3] = 254
	return netip.AddrFrom4(p)
}

// bird runs BIRD in the lab's router. Ending it takes away the routes that it learned.
func (d *Demo) bird(config lab.Config) (stop func(), err error) {
	dir, err := os.MkdirTemp("", "weft-demo-bird-")
	if err != nil {
		return nil, err
	}
	text := &strings.Builder{}
	fmt.Fprintf(text, "router id %v;\nprotocol device {}\nprotocol kernel { ipv4 { export where source = RTS_BGP; }; }\n", routerOf(config.Nodes[0]))
	for i, n := range config.Nodes {
		fmt.Fprintf(text, "protocol bgp node%d { local as %d; neighbor %v as %d; ipv4 { import all; export none; }; }\n", i+1, routerAS, n.IP, v3.DefaultASNumber)
	}
	conf := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(conf, []byte(text.String()), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	cmd, out, err := start(context.Background(), kernel.NetnsPath(d.lab.Netns("router")), "bird", "-f", "-c", conf, "-s", filepath.Join(dir, "bird.ctl"), "-P", filepath.Join(dir, "bird.pid"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt) // on which BIRD takes its routes away
		ended := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		ended.Stop()
		if text := strings.TrimSpace(out.String()); err != nil && text != "" {
			d.say("  BIRD said: %s", text)
		}
		_ = os.RemoveAll(dir)
	}, nil
}
