package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/bench/report"
	"weft/bench/result"
	"weft/internal/kernel"
	"weft/lab"
	"weft/model"
	"weft/node/datastore/etcd"
	"weft/tunnel"
)

// Scale measures one real node service that knows many nodes: from its start to all routes, the
// time until one more node is in the kernel, and one more block of a node that is known, memory,
// and CPU while nothing changes. The other nodes are records in the store, each with one block.
type Scale struct {
	Name  string // of the lab
	Nodes int
	More  int           // nodes added one at a time; and as many blocks
	Idle  time.Duration // how long the idle CPU is watched
	Out   io.Writer
	Log   io.Writer

	Version string
	sheet   sheet
}

// ScaleResult is what Scale measured.
type ScaleResult struct {
	Nodes         int
	Start         time.Duration   // process start to the last route
	More          []time.Duration // from before the Node and the IPAMBlock are written to the route in the kernel, each
	Block         []time.Duration // from before the IPAMBlock of a known node is written, each
	Load          [2]string       // load average of a minute, before and after these
	RSS           int64           // bytes
	IdleCPU       float64         // share of one core
	Routes, Neigh int
}

// scaleLab is one node with a wide subnet beyond the router for the nodes that are records only. It speaks no BGP: records
// never say that they rely on reflectors, so that it would keep a session with each of them.
const scaleLab = `
mtu: 1500
subnets:
  - {name: rack1, cidr: 172.31.1.0/24}
  - {name: wide, cidr: 172.16.0.0/14}
nodes:
  - {name: n1, subnet: rack1, args: ["--bgp=false"]}
`

// Run measures and prints; what it measured before an error too.
func (s *Scale) Run(ctx context.Context) (res ScaleResult, err error) {
	if err := s.sheet.open(s.Version); err != nil {
		return res, err
	}
	begin := time.Now()
	err = withLab(ctx, s.Name, scaleLab, s.Log, func(l *lab.Lab, store *etcd.Store) error {
		return s.measure(ctx, l, store, &res)
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	note := report.Note(len(res.More)+len(res.Block), 2*s.More, err, time.Since(begin))
	return res, errors.Join(err, s.sheet.close(s.Out, "One node service that knows many nodes", note, func(io.Writer, []figure) {
		if res.Start > 0 {
			s.print(res)
		}
	}))
}

func (s *Scale) measure(ctx context.Context, l *lab.Lab, store *etcd.Store, res *ScaleResult) error {
	h, err := kernel.OpenAt(kernel.NetnsPath(l.Netns("n1")))
	if err != nil {
		return err
	}
	defer h.Close()
	m := &scaleRun{Scale: s, lab: l, store: store, handle: h}
	res.Nodes = s.Nodes
	if err := m.load(ctx); err != nil {
		return err
	}
	if res.Start, err = m.restart(ctx); err != nil {
		return err
	}
	if err := s.sheet.add("", s.setting(), 0, seconds("start", res.Start), count("nodes", s.Nodes)); err != nil {
		return err
	}
	if err := m.oneMore(ctx, res); err != nil {
		return err
	}
	if res.IdleCPU, res.RSS, err = m.idle(ctx); err != nil {
		return err
	}
	if res.Routes, err = m.routes(ctx); err != nil {
		return err
	}
	neigh, err := kernel.NewNeighTable(h, kernel.VXLANDevice).List(ctx)
	res.Neigh = len(neigh)
	return errors.Join(err, s.sheet.add("", s.setting(), 0, count("routes", res.Routes), count("neighbours", res.Neigh), seconds("idle", s.Idle),
		result.Record{Metric: "idle_cpu", Unit: result.Seconds, Value: res.IdleCPU * s.Idle.Seconds()},
		result.Record{Metric: "idle_share", Unit: result.Count, Value: res.IdleCPU},
		result.Record{Metric: "memory", Unit: result.Bytes, Value: float64(res.RSS)}))
}

func (s *Scale) setting() string { return fmt.Sprintf("%d nodes", s.Nodes) }

type scaleRun struct {
	*Scale
	lab    *lab.Lab
	store  *etcd.Store
	handle *kernel.Handle
}

func (m *scaleRun) say(format string, args ...any) { fmt.Fprintf(m.Log, format+"\n", args...) }

// load writes the pool, and a Node and an IPAMBlock for each of the nodes.
func (m *scaleRun) load(ctx context.Context) error {
	m.say("writing %d Node and %d IPAMBlock records", m.Nodes, m.Nodes)
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/8", BlockSize: 26, VXLANMode: v3.EncapAlways}}
	pool.Name = "wide"
	typed(pool, "IPPool")
	if _, err := m.store.Create(ctx, pool); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range m.Nodes {
		g.Go(func() error { return m.addNode(gctx, i) })
	}
	return g.Wait()
}

func (m *scaleRun) addNode(ctx context.Context, i int) error {
	if err := m.writeNode(ctx, i); err != nil {
		return err
	}
	return m.writeBlock(ctx, i)
}

func scaleName(i int) string { return fmt.Sprintf("node-%05d", i) }

func (m *scaleRun) writeNode(ctx context.Context, i int) error {
	n := &v3.Node{Spec: v3.NodeSpec{BGP: &v3.NodeBGPSpec{IPv4Address: scaleAddr(i).String() + "/14"}}}
	n.Name = scaleName(i)
	n.Spec.VXLANTunnelMACAddr = tunnel.VTEPMAC(model.NodeName(n.Name)).String()
	n.Status.OnLink = []v3.NodeOnLink{{CIDR: "172.16.0.0/14"}}
	typed(n, "Node")
	_, err := m.store.Create(ctx, n)
	return err
}

func (m *scaleRun) writeBlock(ctx context.Context, i int) error {
	cidr := scaleBlock(i)
	affinity := "host:" + scaleName(i)
	b := &v3.IPAMBlock{Spec: v3.IPAMBlockSpec{CIDR: cidr.String(), Affinity: &affinity,
		Allocations: make([]*int, 64), Unallocated: make([]int, 64), Attributes: []v3.AllocationAttribute{},
		SequenceNumberForAllocation: map[string]uint64{}}}
	for j := range b.Spec.Unallocated {
		b.Spec.Unallocated[j] = j
	}
	b.Name = strings.NewReplacer(".", "-", "/", "-").Replace(cidr.String())
	typed(b, "IPAMBlock")
	_, err := m.store.Create(ctx, b)
	return err
}

func typed(o v3.Object, kind string) {
	k, _ := v3.LookupKind(kind)
	o.GetObjectKind().SetGroupVersionKind(k.GroupVersion.WithKind(kind))
}

// scaleAddr and scaleBlock give node i an underlay address beyond the router and a /26.
func scaleAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8 & 0xff), byte(i & 0xff)}).Next()
}

func scaleBlock(i int) netip.Prefix {
	n := uint32(10)<<24 | uint32(1)<<22 | uint32(i)<<6
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 26)
}

// restart stops the node, empties the kernel of what it wrote, and measures from the start of the
// process until every route is there.
func (m *scaleRun) restart(ctx context.Context) (time.Duration, error) {
	if err := m.waitRoutes(ctx, m.Nodes, 60*time.Second); err != nil {
		return 0, err
	}
	if _, err := m.lab.Stop(ctx, "n1", 15); err != nil {
		return 0, err
	}
	table := kernel.RouteTable(m.handle)
	have, err := table.List(ctx)
	if err != nil {
		return 0, err
	}
	for k, r := range have {
		if err := table.Delete(ctx, k, r); err != nil {
			return 0, err
		}
	}
	if err := m.handle.LinkDelete(ctx, kernel.VXLANDevice); err != nil {
		return 0, err
	}
	m.say("node stopped, %d routes and the device removed; starting it", len(have))
	begin := time.Now()
	started := make(chan error, 1)
	go func() { _, err := m.lab.Start(ctx, "n1"); started <- err }()
	err = m.waitRoutes(ctx, m.Nodes, 60*time.Second)
	took := time.Since(begin)
	return took, errors.Join(err, <-started)
}

func (m *scaleRun) routes(ctx context.Context) (int, error) {
	have, err := kernel.RouteTable(m.handle).List(ctx)
	return len(have), err
}

// waitRoutes looks every 50 ms; a look reads every route, so more often would measure itself.
func (m *scaleRun) waitRoutes(ctx context.Context, want int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		n, err := m.routes(ctx)
		if err == nil && n >= want {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%d of %d routes after %v (%w)", n, want, limit, errors.Join(err, ctx.Err()))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// oneMore adds nodes one at a time, each when the node service has come to rest, and measures until
// the kernel tells of the route: from before both records are written; then, for other nodes, from
// before the IPAMBlock is, with the Node record known.
func (m *scaleRun) oneMore(ctx context.Context, res *ScaleResult) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return err
	}
	seen := make(chan netip.Prefix, 1024)
	mon, err := kernel.NewMonitor(ctx, kernel.NetnsPath(m.lab.Netns("n1")))
	if err != nil {
		return err
	}
	defer mon.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = mon.Run(ctx, func(e kernel.Event) {
			if e.Kind == kernel.EventRoute && !e.Removed && e.Protocol == kernel.RouteProtocol {
				seen <- e.RouteKey.Dst
			}
		})
	}()
	defer func() { cancel(); <-done }()
	told, err := followEchoes(ctx, m.store, v3.KindIPAMBlock)
	if err != nil {
		return err
	}
	defer told.close()
	res.Load[0] = loadAverage()
	for i := m.Nodes; i < m.Nodes+2*m.More; i++ {
		what, write, times := "one_more_node", m.addNode, &res.More
		if i >= m.Nodes+m.More {
			what, write, times = "one_more_block", m.writeBlock, &res.Block
			if err := m.writeNode(ctx, i); err != nil {
				return err
			}
		}
		if err := calm(ctx, pid); err != nil {
			return err
		}
		told.drain()
		begin := time.Now()
		if err := write(ctx, i); err != nil {
			return err
		}
		for got := (netip.Prefix{}); got != scaleBlock(i); {
			select {
			case got = <-seen:
			case <-time.After(10 * time.Second):
				return fmt.Errorf("the route to %s did not appear within 10 s", scaleBlock(i))
			}
		}
		took := time.Since(begin)
		*times = append(*times, took)
		echo, err := told.after(begin)
		if err != nil {
			return err
		}
		if err := m.sheet.add("", m.setting(), len(*times), seconds(what, took), seconds(what+"_told", echo[0]),
			lessIsBetter(what+"_of_told", took.Seconds(), echo[0].Seconds()),
			control(what+"_of_told", echo[1].Seconds(), echo[0].Seconds())); err != nil {
			return err
		}
	}
	res.Load[1] = loadAverage()
	return nil
}

// calm waits until the process has used no CPU time, which is counted in ticks of 10 ms, for a while.
func calm(ctx context.Context, pid int) error {
	const step, still, limit = 20 * time.Millisecond, 5, 10 * time.Second
	begin, quiet, last := time.Now(), 0, time.Duration(-1)
	for quiet < still {
		now, err := cpuTime(pid)
		if err != nil {
			return err
		}
		if quiet++; now != last {
			quiet, last = 0, now
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("process %d did not come to rest within %v", pid, limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
	}
	return nil
}

// loadAverage returns the first field of /proc/loadavg (proc(5)).
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// idle waits for calm, then reads the node's CPU time over a while, and its memory.
func (m *scaleRun) idle(ctx context.Context) (share float64, rss int64, err error) {
	pid, err := pidOf(ctx, m.lab)
	if err != nil {
		return 0, 0, err
	}
	m.say("nothing changes for %v", m.Idle)
	time.Sleep(2 * time.Second)
	before, err := cpuTime(pid)
	if err != nil {
		return 0, 0, err
	}
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(m.Idle):
	}
	after, err := cpuTime(pid)
	if err != nil {
		return 0, 0, err
	}
	rss, err = residentBytes(pid)
	return (after - before).Seconds() / m.Idle.Seconds(), rss, err
}

// cpuTime reads utime and stime, fields 14 and 15 of /proc/PID/stat (proc(5)), in ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.Atoi(f[11])
	sys, err2 := strconv.Atoi(f[12])
	return time.Duration(user+sys) * 10 * time.Millisecond, errors.Join(err1, err2)
}

func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmRSS", pid)
}

func (s *Scale) print(r ScaleResult) {
	fmt.Fprintf(s.Out, "flags                           --nodes %d --more %d --idle %v\n", s.Nodes, s.More, s.Idle)
	fmt.Fprintf(s.Out, "nodes known                     %d\n", r.Nodes)
	fmt.Fprintf(s.Out, "process start to all routes     %.2f s (%d routes, %d neighbours)\n", r.Start.Seconds(), r.Routes, r.Neigh)
	fmt.Fprintf(s.Out, "one more node, store to kernel  %s\n", quantiles(r.More, "one at a time: Node and IPAMBlock written"))
	fmt.Fprintf(s.Out, "one more block of a known node  %s\n", quantiles(r.Block, "one at a time: IPAMBlock written"))
	fmt.Fprintf(s.Out, "load average meanwhile          %s to %s on %d CPUs\n", r.Load[0], r.Load[1], runtime.NumCPU())
	fmt.Fprintf(s.Out, "resident memory                 %.0f MiB\n", float64(r.RSS)/(1<<20))
	fmt.Fprintf(s.Out, "CPU while nothing changes       %.2f %% of a core (%v watched)\n", 100*r.IdleCPU, s.Idle)
}

// quantiles prints times by rank: of 20 the 99th percentile is the largest. of says of what, and how they
// were taken.
func quantiles(times []time.Duration, of string) string {
	if len(times) == 0 {
		return "not measured (0 of them)"
	}
	t := slices.Sorted(slices.Values(times))
	at := func(percent int) float64 { return ms(t[(len(t)*percent+99)/100-1]) }
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, max %.1f ms (%d times, %s)", at(50), at(99), at(100), len(t), of)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
