package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

// Policy measures one real node service that enforces many policies, with nftables: the time from
// before a change is written into the store until the kernel has it, the processor time that it costs,
// the time from the start of the process until all is enforced, and memory.
type Policy struct {
	Name      string // of the lab
	Policies  int    // GlobalNetworkPolicies of 3 rules, their selectors spread over 20 labels
	Pods      int    // of this node
	Endpoints int    // of other nodes
	Changes   int    // of each kind
	Rate      int    // label changes a second, of endpoints of other nodes; 0: not measured
	Out       io.Writer
	Log       io.Writer
}

// PolicyResult is what Policy measured.
type PolicyResult struct {
	Start       time.Duration // of the process until the program is in the kernel
	Policy      []time.Duration
	Label       []time.Duration
	CPU         [2]time.Duration // of one change of each kind
	RSS         int64            // bytes
	Enforced    status.Policy
	Rate        float64         // label changes a second that were written
	RateCPU     float64         // share of one core while they were
	RateTimes   []time.Duration // from before each write until the kernel has the endpoint's address in another set
	RateMissed  int             // writes of which the kernel told nothing
	RateBehind  time.Duration
	LoadAverage [2]string
}

const (
	policyLabels = 20
	policyValues = 10
)

type policyRun struct {
	*Policy
	lab    *lab.Lab
	store  *etcd.Store
	events chan time.Time // of transactions of nftables in the node's namespace

	mu      sync.Mutex
	written map[netip.Addr]time.Time // when endpoints' labels began to be written that the kernel does not have yet; nil: nobody asks
	flooded []time.Duration          // until the kernel had them
}

// Run measures and prints.
func (p *Policy) Run(ctx context.Context) (res PolicyResult, err error) {
	err = withLab(ctx, p.Name, scaleLab, p.Log, func(l *lab.Lab, store *etcd.Store) error {
		return p.measure(ctx, l, store, &res)
	})
	return res, err
}

func (p *Policy) measure(ctx context.Context, l *lab.Lab, store *etcd.Store, res *PolicyResult) (err error) {
	m := &policyRun{Policy: p, lab: l, store: store}
	if err := m.load(ctx); err != nil {
		return err
	}
	res.LoadAverage[0] = loadAverage()
	if res.Start, err = m.restart(ctx); err != nil {
		return err
	}
	stop, err := m.listen()
	if err != nil {
		return err
	}
	defer stop()
	if res.Policy, res.CPU[0], err = m.changes(ctx, m.changePolicy); err != nil {
		return fmt.Errorf("change policies: %w", err)
	}
	if res.Label, res.CPU[1], err = m.changes(ctx, m.changeLabel); err != nil {
		return fmt.Errorf("change labels: %w", err)
	}
	if p.Rate > 0 {
		if err := m.flood(ctx, res); err != nil {
			return err
		}
	}
	res.LoadAverage[1] = loadAverage()
	st, err := status.Fetch(ctx, l.NodeRunDir("n1"))
	if err != nil {
		return err
	}
	res.Enforced = st.Policy
	pid, err := pidOf(ctx, l)
	if err != nil {
		return err
	}
	res.RSS, err = residentBytes(pid)
	p.print(*res)
	return err
}

func (m *policyRun) say(format string, args ...any) { fmt.Fprintf(m.Log, format+"\n", args...) }

// load writes the pool, attaches the pods, and writes the endpoints of other nodes and the policies.
func (m *policyRun) load(ctx context.Context) error {
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/9", BlockSize: 26, VXLANMode: v3.EncapAlways}}
	pool.Name = "wide"
	typed(pool, "IPPool")
	if _, err := m.store.Create(ctx, pool); err != nil {
		return err
	}
	m.say("attaching %d pods, writing %d WorkloadEndpoints of other nodes and %d GlobalNetworkPolicies", m.Pods, m.Endpoints, m.Policies)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range m.Pods {
		g.Go(func() error {
			_, err := m.lab.AddPod(gctx, lab.PodSpec{Node: "n1", Namespace: "bench", Name: fmt.Sprintf("p%d", i), Labels: benchLabels(i)})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range m.Endpoints {
		g.Go(func() error { _, err := m.store.Create(gctx, remote(i)); return err })
	}
	for i := range m.Policies {
		g.Go(func() error { _, err := m.store.Create(gctx, globalPolicy(i, 0)); return err })
	}
	return g.Wait()
}

// benchLabels gives the i-th pod or endpoint a value of each label.
func benchLabels(i int) map[string]string {
	l := map[string]string{}
	for k := range policyLabels {
		l[fmt.Sprintf("k%d", k)] = fmt.Sprintf("v%d", (i*7+k*3+i/policyValues)%policyValues)
	}
	return l
}

func remoteAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)})
}

// remote is the i-th endpoint of another node.
func remote(i int) *v3.WorkloadEndpoint {
	node, pod := fmt.Sprintf("node%05d", i/50), fmt.Sprintf("r%d", i)
	addr := remoteAddr(i)
	w := &v3.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: node + "-k8s-" + pod + "-eth0", Labels: benchLabels(i)}}
	w.Labels["projectcalico.org/namespace"], w.Labels["projectcalico.org/orchestrator"] = "bench", "k8s"
	w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, Pod: pod, Endpoint: "eth0", ContainerID: "c" + pod,
		IPNetworks: []string{addr.String() + "/32"}, InterfaceName: "weft0", Profiles: []string{"kns.bench"}}
	typed(w, "WorkloadEndpoint")
	return w
}

// globalPolicy is the i-th policy in one of its versions: what other pods send to a port, what a
// network sends to another, and no pings.
func globalPolicy(i, version int) *v3.GlobalNetworkPolicy {
	term := func(k, v int) string { return fmt.Sprintf("k%d == 'v%d'", k%policyLabels, v%policyValues) }
	tcp, icmp := intstr.FromString("TCP"), intstr.FromString("ICMP")
	order := float64(i)
	g := &v3.GlobalNetworkPolicy{}
	g.Name = fmt.Sprintf("bench-%05d", i)
	g.Spec.Order, g.Spec.Selector = &order, term(i, i/policyLabels)
	g.Spec.Ingress = []v3.Rule{
		{Action: "Allow", Protocol: &tcp, Source: v3.EntityRule{Selector: term(i+1, i/policyLabels+1)}, Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt(8000 + i%100 + 1000*(version%50))}}},
		{Action: "Allow", Protocol: &tcp, Source: v3.EntityRule{Nets: []string{fmt.Sprintf("192.168.%d.0/24", i%256)}}, Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt(443)}}},
		{Action: "Deny", Protocol: &icmp, Source: v3.EntityRule{Selector: term(i+2, i/policyLabels+2)}},
	}
	typed(g, "GlobalNetworkPolicy")
	return g
}

// restart starts the node's process anew and measures until it says that the program is in the kernel.
func (m *policyRun) restart(ctx context.Context) (time.Duration, error) {
	if _, err := m.lab.Stop(ctx, "n1", 15); err != nil {
		return 0, err
	}
	m.say("node stopped; starting it")
	begin := time.Now()
	started := make(chan error, 1)
	go func() { _, err := m.lab.Start(ctx, "n1"); started <- err }()
	for {
		st, err := status.Fetch(ctx, m.lab.NodeRunDir("n1"))
		if err == nil && st.Policy.Programmed > 0 && st.Policy.Pods == m.Pods {
			break
		}
		if err == nil {
			err = fmt.Errorf("it says: %d of %d pods, program %d, %q", st.Policy.Pods, m.Pods, st.Policy.Programmed, st.Policy.Error)
		}
		if time.Since(begin) > startLimit || ctx.Err() != nil {
			return 0, fmt.Errorf("policy is not enforced %v after the start: %w", startLimit, errors.Join(err, ctx.Err()))
		}
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(begin)
	if err := <-started; err != nil && took < lab.ReadyTimeout { // the lab does not wait as long as we do
		return 0, err
	}
	return took, nil
}

// startLimit bounds the wait for a node that starts among many endpoints.
const startLimit = 5 * time.Minute

// listen notes the moment of every transaction of nftables in the node's namespace (nfnetlink(7): each
// ends with NFT_MSG_NEWGEN).
func (m *policyRun) listen() (stop func(), err error) {
	ns, err := os.Open(kernel.NetnsPath(m.lab.Netns("n1")))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(32<<20), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", errors.Join(err, conn.Close()))
	}
	m.events = make(chan time.Time, 1<<16)
	go func() {
		for {
			all, err := conn.Receive()
			if errors.Is(err, os.ErrClosed) {
				return
			}
			now := time.Now()
			for _, msg := range all {
				switch msg.Header.Type {
				case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN:
					m.events <- now
				case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
					m.members(msg.Data, now)
				}
			}
		}
	}()
	return func() { _ = conn.Close() }, nil
}

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

// changes makes one change after the other, each when the node has come to rest.
func (m *policyRun) changes(ctx context.Context, change func(context.Context, int) error) (times []time.Duration, cpu time.Duration, err error) {
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return nil, 0, err
	}
	if err := calm(ctx, pid); err != nil {
		return nil, 0, err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return nil, 0, err
	}
	for i := range m.Changes {
		for len(m.events) > 0 {
			<-m.events
		}
		begin := time.Now()
		if err := change(ctx, i); err != nil {
			return nil, 0, err
		}
		select {
		case at := <-m.events:
			times = append(times, at.Sub(begin))
		case <-time.After(10 * time.Second):
			return nil, 0, fmt.Errorf("the kernel's rules did not change within 10 s of change %d", i)
		}
		if err := calm(ctx, pid); err != nil {
			return nil, 0, err
		}
	}
	after, err := cpuTime(pid)
	return times, (after - before) / time.Duration(max(1, m.Changes)), err
}

func (m *policyRun) changePolicy(ctx context.Context, i int) error {
	_, err := m.store.Update(ctx, globalPolicy(i*37%m.Policies, 1+i*37/m.Policies))
	return err
}

// changeLabel moves one endpoint of another node from one set to another.
func (m *policyRun) changeLabel(ctx context.Context, i int) error {
	return m.relabel(ctx, i*101%m.Endpoints, i)
}

func (m *policyRun) relabel(ctx context.Context, i, version int) error {
	w := remote(i)
	for k := range 2 {
		k = (version + k) % policyLabels
		w.Labels[fmt.Sprintf("k%d", k)] = fmt.Sprintf("v%d", (i*7+k*3+i/policyValues+1+version%(policyValues-1))%policyValues)
	}
	_, err := m.store.Update(ctx, w)
	return err
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
	// One more change, behind all others: how long it takes is how far behind the node is.
	mark := time.Now()
	if err := m.changePolicy(ctx, m.Changes+1); err != nil {
		return err
	}
	want, err := m.store.Get(ctx, datastore.Key{Kind: "GlobalNetworkPolicy", Name: globalPolicy((m.Changes+1)*37%m.Policies, 0).Name})
	if err != nil || want == nil {
		return fmt.Errorf("read the last change back: %w", err)
	}
	for quiet := time.NewTimer(5 * time.Second); ; {
		select {
		case at := <-m.events:
			res.RateBehind = at.Sub(mark)
			quiet.Reset(time.Second)
			continue
		case <-quiet.C:
		}
		break
	}
	m.mu.Lock()
	res.RateTimes, res.RateMissed, m.written = m.flooded, res.RateMissed+len(m.written), nil
	m.mu.Unlock()
	if res.RateBehind == 0 || len(res.RateTimes) == 0 {
		return fmt.Errorf("the kernel's rules did not change within 5 s of the last of %d label changes (%d of them came into the kernel)", m.Rate*seconds, len(res.RateTimes))
	}
	return nil
}

func (p *Policy) print(r PolicyResult) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(p.Out, "%-36s"+format+"\n", append([]any{name}, args...)...)
	}
	line("flags", "--policies %d --pods %d --endpoints %d --changes %d --rate %d", p.Policies, p.Pods, p.Endpoints, p.Changes, p.Rate)
	line("in the kernel", "%d policies that select a pod here, %d pods, %d chains, %d sets, by %s", r.Enforced.Policies, r.Enforced.Pods, r.Enforced.Chains, r.Enforced.Sets, r.Enforced.Driver)
	line("process start to enforced", "%.2f s", r.Start.Seconds())
	line("one policy, before write to kernel", "%s", quantiles(r.Policy, "one at a time: one rule's port changed"))
	line("CPU of one policy change", "%.1f ms", ms(r.CPU[0]))
	line("one label, before write to kernel", "%s", quantiles(r.Label, "one at a time: two labels of another node's pod changed"))
	line("CPU of one label change", "%.1f ms", ms(r.CPU[1]))
	if p.Rate > 0 {
		line("label changes a second", "%.0f written, %.2f of a core; the kernel was whole %.1f ms after the last write", r.Rate, r.RateCPU, ms(r.RateBehind))
		line("one of these, write to kernel", "%s", quantiles(r.RateTimes, fmt.Sprintf("the kernel told nothing of %d more", r.RateMissed)))
	}
	line("resident memory", "%.0f MiB", float64(r.RSS)/(1<<20))
	line("load average meanwhile", "%s to %s on %d CPUs", r.LoadAverage[0], r.LoadAverage[1], runtime.NumCPU())
}
