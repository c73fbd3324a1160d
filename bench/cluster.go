package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/bench/mtu"
	"weft/internal/kernel"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

// cluster is a lab of demoNodes with pods, whose settings change.
type cluster struct {
	lab   *lab.Lab
	store *etcd.Store
	pods  map[string][]traffic.Host // of the pool whose mode changes, by node
	log   io.Writer
}

func (c *cluster) say(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }

// apply writes the pool; the nodes follow while they run.
func (c *cluster) apply(ctx context.Context, name, cidr string, m demoMode) error {
	return c.put(ctx, "IPPool", name, &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: cidr, BlockSize: 26, VXLANMode: m.vxlan, IPIPMode: m.ipip, NodeSelector: "all()"}})
}

func (c *cluster) put(ctx context.Context, kindName, name string, o v3.Object) error {
	kind, _ := v3.LookupKind(kindName)
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersion.WithKind(kindName))
	o.SetName(name)
	_, err := c.store.Update(ctx, o)
	if errors.Is(err, datastore.ErrNotFound) {
		_, err = c.store.Create(ctx, o)
	}
	return err
}

func (c *cluster) setMode(ctx context.Context, m demoMode) error {
	return c.apply(ctx, demoPool, "10.244.0.0/16", m)
}

func (c *cluster) addPod(ctx context.Context, node, name, pool string) (traffic.Host, error) {
	pod := node + "-" + name
	fail := func(err error) (traffic.Host, error) {
		return traffic.Host{}, fmt.Errorf("attach pod demo/%s: %w", pod, err)
	}
	begin := time.Now()
	res, err := c.lab.AddPod(ctx, lab.PodSpec{Node: node, Namespace: "demo", Name: pod, Annotations: map[string]string{podAddress: `["` + pool + `"]`}})
	if err != nil {
		return fail(err)
	}
	addr, err := firstAddress(res)
	if err != nil {
		return fail(err)
	}
	c.say("  demo/%-9s %-15s %3d ms", pod, addr, time.Since(begin).Milliseconds())
	return traffic.Host{Name: pod, Netns: kernel.NetnsPath(c.lab.PodNetns("demo", pod)), Addr: addr}, nil
}

// teachRouter gives the lab's router the way to a pod, as a fabric that speaks BGP with the nodes
// would know it.
func (c *cluster) teachRouter(n lab.Node, pod netip.Addr) error {
	h, err := kernel.OpenAt(kernel.NetnsPath(c.lab.Netns("router")))
	if err != nil {
		return err
	}
	defer h.Close()
	return h.AddUnderlayRoute(netip.PrefixFrom(pod, pod.BitLen()), n.IP, "to-"+n.Subnet)
}

// settled waits until every node's paths to the changing pool are as the mode wants them.
func (c *cluster) settled(ctx context.Context, m demoMode) error {
	return c.reached(ctx, m.String()+" is in force", m.reach)
}

// reached waits until every node reaches the changing pool's pods of every other as it should.
func (c *cluster) reached(ctx context.Context, what string, reach func(a, b string) string) error {
	return c.until(ctx, what, func() string {
		for _, node := range demoNodes {
			for _, peer := range demoNodes {
				if node == peer {
					continue
				}
				p, err := c.path(ctx, node, peer)
				if err != nil {
					return err.Error()
				}
				if want := reach(node, peer); p.Reach != want {
					return fmt.Sprintf("%s reaches %s by %s, want %s (%s)", node, peer, p.Reach, want, p.Why)
				}
			}
		}
		return ""
	})
}

// until asks again and again what is wrong, until nothing is.
func (c *cluster) until(ctx context.Context, what string, wrong func() string) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		w := wrong()
		if w == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s: %s", settleLimit, what, w)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// path asks a node how it reaches a peer's block of the changing pool.
func (c *cluster) path(ctx context.Context, node, peer string) (status.Path, error) {
	return mtu.PathTo(ctx, c.lab, node, peer, c.pods[peer][0].Addr)
}

// outer waits until every node sends VXLAN with this outer header only.
func (c *cluster) outer(ctx context.Context, outer string) error {
	return c.until(ctx, "every node has VXLAN with "+outer, func() string {
		for _, n := range demoNodes {
			st, err := status.Fetch(ctx, c.lab.NodeRunDir(n))
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

// encrypt switches encryption and returns how long it took until every node followed.
func (c *cluster) encrypt(ctx context.Context, on bool, reach func(a, b string) string) (time.Duration, error) {
	f := &v3.FelixConfiguration{}
	f.Spec.WireguardEnabled = &on
	begin := time.Now()
	if err := c.put(ctx, "FelixConfiguration", "default", f); err != nil {
		return 0, err
	}
	err := c.reached(ctx, fmt.Sprintf("wireguardEnabled %v is in force", on), reach)
	return time.Since(begin), err
}
