package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/bench/report"
	"weft/bench/result"
	"weft/bench/street"
	"weft/lab"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

// Policy measures, by each backend, one real node service that enforces many policies: the time from before a change is
// written into the store until the kernel has it, the processor time that it costs, the time from the start of the process
// until all is enforced, and memory; and what rules cost packets.
type Policy struct {
	Version   string
	Name      string // of the lab
	Backends  []string
	Policies  int           // GlobalNetworkPolicies of 3 rules, their selectors spread over 20 labels
	Pods      int           // of this node
	Endpoints int           // of other nodes
	Changes   int           // of each kind
	Starts    int           // of the node's process, each with nothing and with all
	Rate      int           // label changes a second, of endpoints of other nodes; 0: not measured; by nftables only
	Rounds    int           // of what rules cost packets; 0: not measured
	Time      time.Duration // of one measurement of a round
	Out       io.Writer
	Log       io.Writer

	sheet sheet
}

// PolicyResult is what Policy measured by one backend.
type PolicyResult struct {
	Backend     string
	Empty       []time.Duration // from the start of the process until a program is in the kernel, with nothing in the cluster
	Start       []time.Duration // the same with all of it
	Policy      []time.Duration
	Label       []time.Duration
	Store       [2]time.Duration // medians of what the store took to tell of these
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

type policyRun struct {
	*Policy
	*pace
	backend string
	lab     *lab.Lab
	store   *etcd.Store
	events  chan time.Time // of changes of rules in the node's namespace
	echoes  *echoes

	mu      sync.Mutex
	written map[netip.Addr]time.Time // when endpoints' labels began to be written that the kernel does not have yet; nil: nobody asks
	flooded []time.Duration          // until the kernel had them
}

// Run measures and prints; what it measured before an error too.
func (p *Policy) Run(ctx context.Context) (all []PolicyResult, err error) {
	if err := p.sheet.open(p.Version); err != nil {
		return nil, err
	}
	begin := time.Now()
	pace := &pace{progress: newProgress(p.Log)}
	for _, backend := range p.Backends {
		if err = hasPrograms(backend); err != nil {
			break
		}
		res := PolicyResult{Backend: backend}
		err = withLab(ctx, p.Name, policyLab(backend), p.Log, func(l *lab.Lab, store *etcd.Store) error {
			m := &policyRun{Policy: p, pace: pace, backend: backend, lab: l, store: store}
			return m.measure(ctx, &res)
		})
		pace.end()
		all = append(all, res)
		if len(res.Start) > 0 {
			p.print(res)
		}
		if err == nil && p.Rounds > 0 {
			err = p.rules(ctx, backend, pace)
			pace.end()
			printRules(p.sheet.tables(p.Out), &p.sheet, backend)
		}
		if err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	note := report.Note(len(all), len(p.Backends), err, time.Since(begin))
	return all, errors.Join(err, p.sheet.close(p.Out, "Policy: how fast it is enforced, and what rules cost", note, func(io.Writer, []figure) {}))
}

// hasPrograms tells what a backend lacks.
func hasPrograms(backend string) error {
	if backend != street.IPTables {
		return nil
	}
	for _, program := range []string{"iptables", "ip6tables", "ipset"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("measure policy by iptables: %w: install the packages iptables and ipset, or give --backend nftables", err)
		}
	}
	return nil
}

func policyLab(backend string) string {
	return fmt.Sprintf(`
mtu: 1500
subnets:
  - {name: rack1, cidr: 172.31.1.0/24}
  - {name: wide, cidr: 172.16.0.0/14}
nodes:
  - {name: n1, subnet: rack1, args: ["--policy-driver=%s"]}
`, backend)
}

// setting says how much there is.
func (p *Policy) setting() string {
	return fmt.Sprintf("%d policies, %d pods, %d endpoints elsewhere", p.Policies, p.Pods, p.Endpoints)
}

func (m *policyRun) measure(ctx context.Context, res *PolicyResult) (err error) {
	res.LoadAverage[0] = loadAverage()
	defer func() { res.LoadAverage[1] = loadAverage() }()
	m.begin(2*m.Starts+1+2*m.Changes, time.Duration(2*m.Starts+2*m.Changes)*time.Second/4+time.Duration(m.Policies+m.Endpoints+30*m.Pods)*2*time.Millisecond)
	if res.Empty, err = m.starts(ctx, 0); err != nil {
		return err
	}
	m.step(m.backend + ", writing " + m.setting())
	if err := m.load(ctx); err != nil {
		return err
	}
	if res.Start, err = m.starts(ctx, m.Pods); err != nil {
		return err
	}
	if err := m.recordStarts(res); err != nil {
		return err
	}
	stop, err := m.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if m.echoes, err = followEchoes(ctx, m.store, v3.KindGlobalNetworkPolicy, v3.KindWorkloadEndpoint); err != nil {
		return err
	}
	defer m.echoes.close()
	if err := m.changes(ctx, "policy_change", m.changePolicy, &res.Policy, &res.CPU[0], &res.Store[0]); err != nil {
		return fmt.Errorf("change policies: %w", err)
	}
	if err := m.changes(ctx, "label_change", m.changeLabel, &res.Label, &res.CPU[1], &res.Store[1]); err != nil {
		return fmt.Errorf("change labels: %w", err)
	}
	if m.Rate > 0 && m.backend == street.NFTables {
		if err := m.flood(ctx, res); err != nil {
			return err
		}
	}
	return m.rest(ctx, res)
}

// rest reads what the node is after all of it.
func (m *policyRun) rest(ctx context.Context, res *PolicyResult) error {
	st, err := status.Fetch(ctx, m.lab.NodeRunDir("n1"))
	if err != nil {
		return err
	}
	res.Enforced = st.Policy
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return err
	}
	if res.RSS, err = residentBytes(pid); err != nil {
		return err
	}
	return m.sheet.add(m.backend, m.setting(), 0, result.Record{Metric: "memory", Unit: result.Bytes, Value: float64(res.RSS)},
		count("chains", st.Policy.Chains), count("sets", st.Policy.Sets))
}

// recordStarts writes the starts, as a ratio to those with nothing to enforce.
func (m *policyRun) recordStarts(res *PolicyResult) error {
	for i, took := range res.Start {
		empty := res.Empty[i].Seconds()
		records := []result.Record{seconds("start", took), lessIsBetter("start_of_empty", took.Seconds(), empty)}
		if other := len(res.Empty) - 1 - i; other != i {
			records = append(records, control("start_of_empty", res.Empty[other].Seconds(), empty))
		}
		if err := errors.Join(m.sheet.add(m.backend, "nothing", i+1, seconds("start", res.Empty[i])), m.sheet.add(m.backend, m.setting(), i+1, records...)); err != nil {
			return err
		}
	}
	return nil
}

// starts starts the node anew, several times, and returns how long it took until it enforced.
func (m *policyRun) starts(ctx context.Context, pods int) (all []time.Duration, err error) {
	for range m.Starts {
		m.step(fmt.Sprintf("%s, the node starts with %d pods", m.backend, pods))
		took, err := m.restart(ctx, pods)
		if err != nil {
			return all, err
		}
		all = append(all, took)
	}
	return all, nil
}

// load writes the pool, attaches the pods, and writes the endpoints of other nodes and the policies.
func (m *policyRun) load(ctx context.Context) error {
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/9", BlockSize: 26, VXLANMode: v3.EncapAlways}}
	pool.Name = "wide"
	typed(pool, "IPPool")
	if _, err := m.store.Create(ctx, pool); err != nil {
		return err
	}
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

// restart starts the node's process anew and measures until it says that the program is in the kernel.
func (m *policyRun) restart(ctx context.Context, pods int) (time.Duration, error) {
	if _, err := m.lab.Stop(ctx, "n1", 15); err != nil {
		return 0, err
	}
	begin := time.Now()
	started := make(chan error, 1)
	go func() { _, err := m.lab.Start(ctx, "n1"); started <- err }()
	for {
		st, err := status.Fetch(ctx, m.lab.NodeRunDir("n1"))
		if err == nil && st.Policy.Programmed > 0 && st.Policy.Pods == pods {
			break
		}
		if err == nil {
			err = fmt.Errorf("it says: %d of %d pods, program %d, %q", st.Policy.Pods, pods, st.Policy.Programmed, st.Policy.Error)
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
