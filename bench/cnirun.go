package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/bench/compare"
	"weft/bench/result"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore/etcd"
	"weft/node/status"
)

const cniLab = `
mtu: 1500
subnets:
  - {name: rack1, cidr: 172.31.1.0/24}
nodes:
  - {name: n1, subnet: rack1}
`

type cniRun struct {
	*CNI
	*pace
	lab     *lab.Lab
	store   *etcd.Store
	runtime *lab.Runtime
	pods    []*os.File       // namespaces, used again and again
	hosts   []*kernel.Handle // of the node's namespace: for each pod one, so that none waits for another's answer
	rounds  int              // that are complete
	batches int
}

// calls are ADD and DEL of the i-th container of a batch.
type calls struct {
	add, del func(ctx context.Context, i int) error
}

func (m *cniRun) measure(ctx context.Context) (err error) {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	defer func() {
		for _, ns := range m.pods {
			_ = ns.Close()
		}
		for _, h := range m.hosts {
			h.Close()
		}
	}()
	for range max(m.Pods, m.AtOnce) {
		ns, err := kernel.NewScratch()
		if err != nil {
			return err
		}
		m.pods = append(m.pods, ns)
		h, err := kernel.OpenAt(kernel.NetnsPath(m.lab.Netns("n1")))
		if err != nil {
			return err
		}
		m.hosts = append(m.hosts, h)
	}
	if err := m.warm(ctx); err != nil {
		return err
	}
	m.begin(m.Rounds*2*(len(cniPolicies)+2), time.Duration(m.Rounds*(m.Pods+m.AtOnce)*(len(cniPolicies)+2))*30*time.Millisecond)
	for round := 1; round <= m.Rounds; round++ {
		for _, together := range []bool{false, true} {
			if err := m.round(ctx, round, together); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
		m.rounds = round
	}
	return nil
}

// prepare writes the pool, and policies that select pods by their label.
func (m *cniRun) prepare(ctx context.Context) (err error) {
	pool := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/16", BlockSize: 24, VXLANMode: v3.EncapAlways}}
	pool.Name = "pods"
	typed(pool, "IPPool")
	if _, err := m.store.Create(ctx, pool); err != nil {
		return err
	}
	for _, n := range cniPolicies {
		for i := range n {
			p := globalPolicy(i, 0)
			p.Name, p.Spec.Selector = fmt.Sprintf("cni-%d-%d", n, i), fmt.Sprintf("policies == '%d'", n)
			if _, err := m.store.Create(ctx, p); err != nil {
				return err
			}
		}
	}
	m.runtime, err = m.lab.Runtime(ctx, "n1")
	return err
}

// warm attaches one pod that nobody measures: the node takes its first block of addresses.
func (m *cniRun) warm(ctx context.Context) error {
	c, err := m.weft(1, 0)
	if err != nil {
		return err
	}
	return errors.Join(c.add(ctx, 0), c.del(ctx, 0))
}

// round measures one batch of each kind, every second time in reverse, and what they are of the reference.
func (m *cniRun) round(ctx context.Context, round int, together bool) error {
	n, how := m.Pods, "one at a time"
	if together {
		n, how = m.AtOnce, fmt.Sprintf("%d at once", m.AtOnce)
	}
	kinds := []func() (again bool, add, del float64, err error){}
	for again := range 2 {
		kinds = append(kinds, func() (bool, float64, float64, error) {
			m.step(how + ", by hand")
			add, del, err := m.batch(ctx, cniHand, how, round, n, together, again == 1, m.byHand())
			return again == 1, add, del, err
		})
	}
	medians := map[string][2]float64{}
	for _, policies := range cniPolicies {
		kinds = append(kinds, func() (bool, float64, float64, error) {
			setting := fmt.Sprintf("%s, %d policies", how, policies)
			m.step(setting)
			add, del, err := m.measured(ctx, setting, round, n, together, policies)
			medians[setting] = [2]float64{add, del}
			return false, 0, 0, err
		})
	}
	if round%2 == 0 {
		slices.Reverse(kinds)
	}
	var hand, again [2]float64
	for _, kind := range kinds {
		isAgain, add, del, err := kind()
		if err != nil {
			return err
		}
		switch {
		case isAgain:
			again = [2]float64{add, del}
		case add > 0:
			hand = [2]float64{add, del}
		}
	}
	for i, metric := range []string{"add_of_hand", "del_of_hand"} {
		c := control(metric, again[i], hand[i])
		c.Setting = how + ", the reference to itself"
		if err := m.sheet.add(cniHand, "", round, c); err != nil {
			return err
		}
		for setting, took := range medians {
			if err := m.sheet.add(cniWeft, setting, round, lessIsBetter(metric, took[i], hand[i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch adds n containers and deletes them, and returns the medians; quiet writes no records.
func (m *cniRun) batch(ctx context.Context, way, setting string, round, n int, together, quiet bool, c calls) (add, del float64, err error) {
	adds, err := timed(ctx, n, together, c.add)
	if err != nil {
		return 0, 0, fmt.Errorf("%s, %s: ADD: %w", way, setting, err)
	}
	dels, err := timed(ctx, n, together, c.del)
	if err != nil {
		return 0, 0, fmt.Errorf("%s, %s: DEL: %w", way, setting, err)
	}
	for i := range n {
		if !quiet {
			err = errors.Join(err, m.sheet.add(way, setting, round, seconds("add", adds[i]), seconds("del", dels[i])))
		}
	}
	return medianTime(adds), medianTime(dels), err
}

// measured is a batch by the plugin, with what the node asks the store and logs meanwhile.
func (m *cniRun) measured(ctx context.Context, setting string, round, n int, together bool, policies int) (add, del float64, err error) {
	c, err := m.weft(n, policies)
	if err != nil {
		return 0, 0, err
	}
	logged, err := os.Stat(m.lab.NodeLog("n1"))
	if err != nil {
		return 0, 0, err
	}
	asked := make([]float64, 0, 3)
	ask := func() error {
		v, err := m.requests(ctx)
		asked = append(asked, v)
		return err
	}
	if err := ask(); err != nil {
		return 0, 0, err
	}
	adds, err := timed(ctx, n, together, c.add)
	if err != nil {
		return 0, 0, fmt.Errorf("ADD, %s: %w", setting, err)
	}
	st, err := status.Fetch(ctx, m.lab.NodeRunDir("n1"))
	if err = errors.Join(err, ask()); err != nil {
		return 0, 0, err
	}
	if st.Policy.Policies != policies || st.Policy.Pods != n {
		return 0, 0, fmt.Errorf("%s: the node enforces %d policies on %d pods, want %d on %d", setting, st.Policy.Policies, st.Policy.Pods, policies, n)
	}
	dels, err := timed(ctx, n, together, c.del)
	if err != nil {
		return 0, 0, fmt.Errorf("DEL, %s: %w", setting, err)
	}
	if err := ask(); err != nil {
		return 0, 0, err
	}
	for i := range n {
		err = errors.Join(err, m.sheet.add(cniWeft, setting, round, seconds("add", adds[i]), seconds("del", dels[i])))
	}
	for i, metric := range []string{"requests_per_add", "requests_per_del"} {
		err = errors.Join(err, m.sheet.add(cniWeft, setting, round, result.Record{Metric: metric, Unit: result.Count, Value: (asked[i+1] - asked[i]) / float64(n)}))
	}
	return medianTime(adds), medianTime(dels), errors.Join(err, m.steps(setting, round, logged.Size()))
}

// timed calls f for each container, one at a time or all at once.
func timed(ctx context.Context, n int, together bool, f func(context.Context, int) error) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	g, ctx := errgroup.WithContext(ctx)
	if !together {
		g.SetLimit(1)
	}
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			start := time.Now()
			err := f(ctx, i)
			took[i] = time.Since(start)
			return err
		})
	}
	return took, g.Wait()
}

func medianTime(all []time.Duration) float64 {
	var values []float64
	for _, d := range all {
		values = append(values, d.Seconds())
	}
	return compare.MedianOf(values).Value
}

func (m *cniRun) path(i int) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.pods[i].Fd())
}

// weft prepares the calls of a batch of new containers.
func (m *cniRun) weft(n, policies int) (calls, error) {
	m.batches++
	var list []*lab.Call
	for i := range n {
		name := fmt.Sprintf("b%d-%d", m.batches, i)
		c, err := m.runtime.Prepare(lab.Container{ID: "cni" + name, Netns: m.path(i), Namespace: "bench", Pod: name,
			Labels: map[string]string{"policies": strconv.Itoa(policies)}})
		if err != nil {
			return calls{}, err
		}
		list = append(list, c)
	}
	return calls{
		add: func(ctx context.Context, i int) error { return list[i].Add(ctx) },
		del: func(ctx context.Context, i int) error { return list[i].Del(ctx) }}, nil
}

// byHand makes what a pod needs of the kernel at least.
func (m *cniRun) byHand() calls {
	device := func(i int) string { return fmt.Sprintf("hand%d", i) }
	return calls{
		add: func(_ context.Context, i int) error {
			return m.hosts[i].AddPlainPod(m.pods[i], m.path(i), device(i), netip.AddrFrom4([4]byte{10, 200, 0, byte(i + 1)}))
		},
		del: func(ctx context.Context, i int) error { return m.hosts[i].LinkDelete(ctx, device(i)) },
	}
}

// requests is how often the node asked its store so far.
func (m *cniRun) requests(ctx context.Context) (sum float64, err error) {
	code, body, err := status.Ask(ctx, m.lab.NodeRunDir("n1"), "metrics")
	if err != nil || code != http.StatusOK {
		return 0, fmt.Errorf("ask the node for its metrics: HTTP status %d: %w", code, err)
	}
	found := false
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "weft_datastore_requests_total{") {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			return 0, fmt.Errorf("read the node's metric %q: %w", line, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, errors.New("the node has no metric weft_datastore_requests_total")
	}
	return sum, nil
}

var (
	addLogged  = regexp.MustCompile(`msg="cni: done" command=ADD .*steps="([^"]*)" took=(\S+)`)
	stepLogged = regexp.MustCompile(`^(\w+) ([0-9.]+) ms$`)
)

const stepMetric = "add_step_"

// stepOf returns the name of the step that a metric is of.
func stepOf(metric string) (string, bool) { return strings.CutPrefix(metric, stepMetric) }

// steps records the median of each step of the ADDs logged since; a step that the log leaves out took next to nothing.
func (m *cniRun) steps(setting string, round int, since int64) error {
	f, err := os.Open(m.lab.NodeLog("n1"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(since, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	took, n, err := parseSteps(text)
	if err != nil {
		return err
	}
	for _, name := range sortedNames(took) {
		values := append(took[name], make([]float64, max(0, n-len(took[name])))...)
		if err := m.sheet.add(cniWeft, setting, round, result.Record{Metric: stepMetric + name, Unit: result.Seconds, Value: compare.MedianOf(values).Value}); err != nil {
			return err
		}
	}
	return nil
}

// parseSteps returns how long the steps of n logged ADDs took, in seconds; "all" is the whole in the node service.
func parseSteps(log []byte) (took map[string][]float64, n int, err error) {
	took = map[string][]float64{}
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		found := addLogged.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		n++
		all, err := time.ParseDuration(found[2])
		if err != nil {
			return nil, n, fmt.Errorf("read the node's log: %w", err)
		}
		took["all"] = append(took["all"], all.Seconds())
		for _, one := range strings.Split(found[1], ", ") {
			if s := stepLogged.FindStringSubmatch(one); s != nil {
				ms, err := strconv.ParseFloat(s[2], 64)
				if err != nil {
					return nil, n, fmt.Errorf("read the node's log: %w", err)
				}
				took[s[1]] = append(took[s[1]], ms/1e3)
			}
		}
	}
	if n == 0 && lines.Err() == nil {
		return nil, 0, errors.New("the node logged no ADD")
	}
	return took, n, lines.Err()
}

func sortedNames(m map[string][]float64) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
