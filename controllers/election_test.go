package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
	"weft/node/datastore/kube"
)

// quick are timings of tests; Kubernetes counts a lease in seconds.
var quick = timings{duration: 3 * time.Second, deadline: 2 * time.Second, retry: 300 * time.Millisecond}

// Variables of the environment that make this test program a candidate.
const (
	candidateVar = "WEFT_TEST_CANDIDATE" // its name
	whereVar     = "WEFT_TEST_STORE"     // "kube:<kubeconfig>" or "etcd:<endpoint>"
	brokenVar    = "WEFT_TEST_NO_FENCE"  // it goes on when its lease is lost, and its writes are not fenced
	stepsAnnot   = "test.weft.io/steps"  // of the pool that candidates write
	actingPool   = "acting"              // every write of it is an act
	actPause     = 20 * time.Millisecond // between two
)

// candidate is a process that acts while it leads: every act is a write that tells the actor.
func candidate(name string) error {
	store, err := openAt(os.Getenv(whereVar))
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { // ends when the test closes its end
		_, _ = os.Stdin.Read(make([]byte, 1))
		stop()
	}()
	cfg := newControllers(Config{Store: store, times: quick}).cfg
	e := newElection(store.(datastore.Leaser), cfg, func(bool) {})
	e.identity = name
	broken := os.Getenv(brokenVar) != ""
	var writes datastore.Store = &fenced{store, e.leads}
	if broken {
		writes = store
	}
	err = e.run(ctx, func(work context.Context) error {
		if broken {
			work = ctx
		}
		for work.Err() == nil {
			if err := act(work, writes, name); err != nil && work.Err() == nil {
				fmt.Fprintln(os.Stderr, name, err)
			}
			select {
			case <-work.Done():
			case <-time.After(actPause):
			}
		}
		return context.Cause(work)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// act writes without a condition on who wrote before: nothing but the lease keeps two from doing it in turn.
func act(ctx context.Context, store datastore.Store, name string) error {
	p := pool(actingPool, "10.99.0.0/24")
	p.Annotations = map[string]string{stepsAnnot: fmt.Sprintf("%s %d", name, time.Now().UnixNano())}
	_, err := store.Update(ctx, p)
	return err
}

func openAt(where string) (datastore.Store, error) {
	kind, at := where[:5], where[5:]
	if kind == "kube:" {
		return kube.Open(kube.Config{Kubeconfig: at})
	}
	return etcd.Open(context.Background(), etcd.Config{Endpoints: []string{at}})
}

// acts is what somebody who watches the store sees of who acts, in the store's order.
type acts struct {
	mu   sync.Mutex
	seen []act1
}

type act1 struct {
	by string
	at time.Time
}

// OnState implements datastore.Sink.
func (a *acts) OnState(datastore.State, error) {}

// OnChanges implements datastore.Sink.
func (a *acts) OnChanges(changes []datastore.Change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range changes {
		if p, ok := c.Object.(*v3.IPPool); ok && p.Name == actingPool && p.Annotations[stepsAnnot] != "" {
			var by string
			var when int64
			_, _ = fmt.Sscan(p.Annotations[stepsAnnot], &by, &when)
			a.seen = append(a.seen, act1{by, time.Unix(0, when)})
		}
	}
}

func (a *acts) last() act1 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.seen) == 0 {
		return act1{}
	}
	return a.seen[len(a.seen)-1]
}

// turns returns who acted, each time that it was another one than before.
func (a *acts) turns() (by []string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, x := range a.seen {
		if i == 0 || a.seen[i-1].by != x.by {
			by = append(by, x.by)
		}
	}
	return by, len(a.seen)
}

// contest is several candidates, each a process.
type contest struct {
	t     *testing.T
	where string
	env   []string
	acts  *acts
	procs map[string]*proc
}

type proc struct {
	cmd   *exec.Cmd
	stdin interface{ Close() error }
}

func newContest(t *testing.T, store datastore.Store, where string, env ...string) *contest {
	create(t, store, pool(actingPool, "10.99.0.0/24"))
	c := &contest{t: t, where: where, env: env, acts: &acts{}, procs: map[string]*proc{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = datastore.Follow(ctx, store, []string{v3.KindIPPool}, c.acts, datastore.FollowOptions{}) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	t.Cleanup(func() {
		for name := range c.procs {
			c.kill(name)
		}
	})
	return c
}

func (c *contest) start(name string) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), candidateVar+"="+name, whereVar+"="+c.where), c.env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.procs[name] = &proc{cmd, stdin}
}

// end asks a candidate to end, and waits.
func (c *contest) end(name string) {
	_ = c.procs[name].stdin.Close()
	if err := c.procs[name].cmd.Wait(); err != nil {
		c.t.Errorf("candidate %s: %v", name, err)
	}
	delete(c.procs, name)
}

func (c *contest) kill(name string) {
	_ = c.procs[name].cmd.Process.Kill()
	_ = c.procs[name].cmd.Wait()
	delete(c.procs, name)
}

// next waits until somebody else than not has acted after since.
func (c *contest) next(not string, since time.Time, limit time.Duration) act1 {
	c.t.Helper()
	var got act1
	testkit.Eventually(c.t, limit, "somebody else acts", func() bool {
		got = c.acts.last()
		return got.by != "" && got.by != not && got.at.After(since)
	})
	return got
}

// run has a leader end, be killed, and be stopped for longer than its lease, and returns whose turns it was.
func (c *contest) run() {
	t := c.t
	begin := time.Now()
	for i := range 3 {
		c.start(fmt.Sprint("c", i))
	}
	first := c.next("", begin, 30*time.Second)
	t.Logf("%s acts %v after three were started", first.by, first.at.Sub(begin).Round(time.Millisecond))
	var ended, killed []time.Duration
	for range 3 {
		for _, way := range []struct {
			do   func(string)
			took *[]time.Duration
		}{{c.end, &ended}, {c.kill, &killed}} {
			c.more(30)
			leader := c.acts.last().by
			at := time.Now()
			way.do(leader)
			*way.took = append(*way.took, c.next(leader, at, 30*time.Second).at.Sub(at).Round(time.Millisecond))
			c.start(leader)
		}
	}
	t.Logf("another acts after the leader was told to end: %v, after it was killed: %v", ended, killed)
	leader := c.acts.last().by
	at := time.Now()
	_ = c.procs[leader].cmd.Process.Signal(syscall.SIGSTOP)
	other := c.next(leader, at, 30*time.Second)
	_ = c.procs[leader].cmd.Process.Signal(syscall.SIGCONT)
	t.Logf("another acts %v after the leader was stopped, which goes on then", other.at.Sub(at).Round(time.Millisecond))
	c.more(50)
}

// more waits until n acts more were seen.
func (c *contest) more(n int) {
	c.t.Helper()
	_, before := c.acts.turns()
	testkit.Eventually(c.t, 30*time.Second, fmt.Sprint(n, " acts more"), func() bool { _, now := c.acts.turns(); return now >= before+n })
}

func contests(t *testing.T, f func(t *testing.T, store datastore.Store, where string)) {
	t.Run("kubernetes", func(t *testing.T) {
		c := testkube.Start(t)
		path := c.Kubeconfig(t, testkube.Admin, "")
		store, err := kube.Open(kube.Config{Kubeconfig: path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		f(t, store, "kube:"+path)
	})
	t.Run("etcd", func(t *testing.T) {
		dir := shortDir(t)
		socket := filepath.Join(dir, "s", "etcd.sock")
		srv, err := etcd.StartServer(t.Context(), etcd.ServerConfig{DataDir: filepath.Join(dir, "data"), Socket: socket, NoFsync: true, Tick: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = srv.Close() })
		store, err := srv.Store(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		f(t, store, "etcd:unix://"+socket)
	})
}

// Of three processes one acts at any moment: each turn of one is over when the next begins, and it acts again only after
// it took the lease anew. Seven times the leader ends, so that there are eight turns.
func TestOneActs(t *testing.T) {
	contests(t, func(t *testing.T, store datastore.Store, where string) {
		c := newContest(t, store, where)
		c.run()
		turns, n := c.acts.turns()
		t.Logf("%d acts in %d turns: %v", n, len(turns), turns)
		if len(turns) != 8 || n < 200 {
			t.Errorf("%d acts in %d turns, want 8 turns: %v", n, len(turns), turns)
		}
	})
}

// The control: a process that goes on when it lost its lease is seen to act in another's turn.
func TestTwoActWithoutFence(t *testing.T) {
	contests(t, func(t *testing.T, store datastore.Store, where string) {
		c := newContest(t, store, where, brokenVar+"=1")
		c.run()
		if turns, n := c.acts.turns(); len(turns) <= 8 {
			t.Errorf("%d acts in %d turns %v: the test above would find nothing", n, len(turns), turns)
		}
	})
}

// The lease's contract, on both stores.
func TestLeases(t *testing.T) {
	contests(t, func(t *testing.T, store datastore.Store, _ string) {
		leases := store.(datastore.Leaser)
		none, err := leases.GetLease(t.Context(), "x")
		if err != nil || none != (datastore.Lease{}) {
			t.Fatalf("a lease that nobody wrote: %+v, %v", none, err)
		}
		at := time.Now().Truncate(time.Second)
		first, err := leases.PutLease(t.Context(), "x", datastore.Lease{Holder: "a", Duration: 15 * time.Second, Acquired: at, Renewed: at, Transitions: 1})
		if err != nil || first.Version == "" {
			t.Fatalf("%+v, %v", first, err)
		}
		got, err := leases.GetLease(t.Context(), "x")
		if err != nil || got.Holder != "a" || got.Duration != 15*time.Second || !got.Acquired.Equal(at) || !got.Renewed.Equal(at) || got.Transitions != 1 || got.Version != first.Version {
			t.Errorf("read %+v, %v; written %+v", got, err, first)
		}
		next := got
		next.Holder = ""
		if next, err = leases.PutLease(t.Context(), "x", next); err != nil || next.Holder != "" {
			t.Errorf("given up: %+v, %v", next, err)
		}
		for what, l := range map[string]datastore.Lease{"an old version": first, "none": {Holder: "b", Duration: time.Second}} {
			if _, err := leases.PutLease(t.Context(), "x", l); !errors.Is(err, datastore.ErrConflict) {
				t.Errorf("written in place of %s: %v, want a conflict", what, err)
			}
		}
	})
}

// lostAnswer has the store take the first write of a lease and its answer get lost.
type lostAnswer struct {
	datastore.Leaser
	lost bool
}

func (l *lostAnswer) PutLease(ctx context.Context, name string, lease datastore.Lease) (datastore.Lease, error) {
	out, err := l.Leaser.PutLease(ctx, name, lease)
	if err == nil && !l.lost {
		l.lost = true
		return datastore.Lease{}, datastore.ErrUnavailable
	}
	return out, err
}

// A process that took the lease and did not learn of it need not wait until its own lease is over; another one must.
func TestAnswerToTheLeaseIsLost(t *testing.T) {
	contests(t, func(t *testing.T, store datastore.Store, _ string) {
		cfg := newControllers(Config{Store: store, times: timings{time.Hour, 10 * time.Second, time.Second}}).cfg
		mine := newElection(&lostAnswer{Leaser: store.(datastore.Leaser)}, cfg, func(bool) {})
		other := newElection(store.(datastore.Leaser), cfg, func(bool) {})
		if mine.identity == other.identity {
			t.Fatalf("two have the name %s", mine.identity)
		}
		if won, err := mine.try(t.Context()); won || !errors.Is(err, datastore.ErrUnavailable) {
			t.Fatalf("without an answer: %v, %v", won, err)
		}
		if won, err := other.try(t.Context()); won || err != nil {
			t.Errorf("another process: %v, %v; want that it waits", won, err)
		}
		if won, err := mine.try(t.Context()); !won || err != nil || !mine.leads() {
			t.Errorf("the process that wrote the lease: %v, %v; want that it leads", won, err)
		}
	})
}
