package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// history is what a writer did, by key, in order: the number it wrote, or -1 for a deletion.
type history map[string][]int

// churn makes n changes to 200 nodes, by several writers that have their own each, and returns what
// they did. pace is called before each, by one writer at a time.
func churn(t *testing.T, s *Store, n int, pace func(i int)) history {
	t.Helper()
	const writers, keys = 4, 200
	all := history{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			h := history{}
			there := map[string]bool{}
			for i := w; i < n; i += writers {
				mu.Lock()
				pace(i)
				mu.Unlock()
				if err := churnOnce(t.Context(), s, fmt.Sprintf("n%d", rand.IntN(keys/writers)*writers+w), i, there, h); err != nil {
					t.Error(err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(all, h)
		})
	}
	wg.Wait()
	return all
}

// churnOnce makes the i-th change, and now and then one of a kind that is not followed.
func churnOnce(ctx context.Context, s *Store, name string, i int, there map[string]bool, h history) error {
	var err error
	switch o := node(name, map[string]string{"i": strconv.Itoa(i)}); {
	case !there[name]:
		_, err = s.Create(ctx, o)
		there[name] = true
		h[name] = append(h[name], i)
	case rand.IntN(5) == 0:
		err = s.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{})
		there[name] = false
		h[name] = append(h[name], -1)
	default:
		_, err = s.Update(ctx, o)
		h[name] = append(h[name], i)
	}
	if err == nil && i%40 == 0 {
		r := reservation("r", "10.0.0.0/24")
		r.Labels = map[string]string{"i": strconv.Itoa(i)}
		if _, err = s.Update(ctx, r); errors.Is(err, datastore.ErrNotFound) {
			_, err = s.Create(ctx, r)
		}
	}
	return err
}

// seen turns what a sink got into a history.
func seen(changes []datastore.Change) history {
	h := history{}
	for _, c := range changes {
		i := -1
		if c.Object != nil {
			i, _ = strconv.Atoi(c.Object.GetLabels()["i"])
		}
		h[c.Key.Name] = append(h[c.Key.Name], i)
	}
	return h
}

func last(h []int) int {
	if len(h) == 0 {
		return -1
	}
	return h[len(h)-1]
}

// behind counts the keys whose last state is not the writer's.
func behind(want, got history) (n int) {
	for name, h := range want {
		if last(got[name]) != last(h) {
			n++
		}
	}
	return n
}

// disorder counts what is in got for a key and is not, in that order, in want: a repeat, a change
// out of order, or one that never was. Two deletions in a row count, too.
func disorder(want, got history) (n int) {
	for name, g := range got {
		at := 0
		for _, v := range g {
			for at < len(want[name]) && want[name][at] != v {
				at++
			}
			if at == len(want[name]) {
				n++
				break
			}
			at++
		}
	}
	return n
}

func steps(h history) (n int) {
	for _, s := range h {
		n += len(s)
	}
	return n
}

// Thousands of changes while the connection is cut at random and now and then the history is compacted
// during a cut. Without compaction every single change must come, once, in order; with it the
// states in between may be skipped, no more.
func TestResume(t *testing.T) {
	for _, compacting := range []bool{false, true} {
		changes := 10000
		if compacting {
			changes = 3000
		}
		t.Run(fmt.Sprintf("compacting=%v", compacting), func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			server := testServer(t, dir)
			writer := openStore(t, Config{Endpoints: []string{server.Endpoint()}})
			p := newProxy(t, dir, filepath.Join(dir, "s"))
			reader := openStore(t, Config{Endpoints: []string{p.endpoint()}, DialTimeout: 100 * time.Millisecond})
			sink, control := newRecorder(), newRecorder()
			follow(t, reader, sink, v3.KindNode, v3.KindIPPool)
			// The control lists once and watches once.
			l := must[*datastore.List](t)(reader.List(t.Context(), v3.KindNode))
			controlDone := make(chan struct{})
			go func() {
				defer close(controlDone)
				_ = reader.Watch(t.Context(), l.Revision, []string{v3.KindNode}, func(c []datastore.Change) error {
					control.OnChanges(c)
					return nil
				})
			}()
			sink.wait(t, "first snapshot", 5*time.Second, func(r *recorder) bool { return r.lastState() == string(datastore.StateInSync) })

			compactions := 0
			want := churn(t, writer, changes, func(i int) {
				if i == 0 || rand.IntN(150) != 0 {
					return
				}
				p.cut()
				if compacting && rand.IntN(2) == 0 {
					p.setRefuse(true)
					time.AfterFunc(time.Duration(50+rand.IntN(100))*time.Millisecond, func() { p.setRefuse(false) })
					if compactNow(t, writer) {
						compactions++
					}
				}
			})
			p.setRefuse(false)
			sink.wait(t, "all changes", 30*time.Second, func(r *recorder) bool {
				return behind(want, seen(r.changes)) == 0 && r.lastState() == string(datastore.StateInSync)
			})
			p.cut()
			<-controlDone
			got, ctl := seen(sink.changes), seen(control.changes)
			if n := disorder(want, got); n > 0 {
				t.Errorf("%d of %d keys had a change repeated, out of order or invented", n, len(want))
			}
			missed := steps(want) - steps(got)
			if !compacting && missed != 0 {
				t.Errorf("%d missed of %d changes", missed, steps(want))
			}
			if compacting && compactions == 0 {
				t.Error("nothing was compacted")
			}
			if n := behind(want, ctl); n == 0 {
				t.Error("control: a follower that does not resume missed nothing: the cuts do not cut")
			}
			t.Logf("0 missed of %d keys' final states; %d of %d steps skipped over %d cuts, %d compactions; "+
				"control without resume: %d of %d keys behind", len(want), missed, steps(want), p.cuts, compactions, behind(want, ctl), len(want))
		})
	}
}

// compactNow drops all history before the present revision.
func compactNow(t *testing.T, s *Store) bool {
	t.Helper()
	err := s.do(t.Context(), func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, "x")
		if err != nil {
			return err
		}
		_, err = c.Compact(ctx, r.Header.Revision)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func TestWatchErrors(t *testing.T) {
	ctx, s := t.Context(), testStore(t)
	for i := range 10 {
		must[v3.Object](t)(s.Create(ctx, node(fmt.Sprintf("n%d", i), nil)))
	}
	compactNow(t, s)
	l := must[*datastore.List](t)(s.List(ctx, v3.KindNode))
	at := must[revision](t)(parseRevision(l.Revision))
	stop := errors.New("stop")
	watch := func(rev string, kinds ...string) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return s.Stream(ctx, rev, kinds, func(datastore.Batch) error { return stop })
	}
	for _, tc := range []struct {
		name string
		err  error
		want error
	}{
		{"up to date", watch(l.Revision, v3.KindNode), stop},
		{"compacted", watch("2", v3.KindNode), datastore.ErrCompacted},
		{"set back", watch(revision{at.rev + 100, at.cluster}.String(), v3.KindNode), datastore.ErrCompacted},
		{"another cluster", watch(revision{at.rev, at.cluster + 1}.String(), v3.KindNode), datastore.ErrCompacted},
		{"no number", watch("x", v3.KindNode), datastore.ErrInvalid},
		{"unknown kind", watch(l.Revision, "Elephant"), datastore.ErrInvalid},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, tc.err, tc.want)
		}
	}
}

// The server goes away for good, and comes back with the same data, then empty: the follower says
// where it stands, delivers what changed, and takes back what is gone.
func TestFollowOverRestartAndReset(t *testing.T) {
	dir := shortDir(t)
	cfg := testConfig(t, dir)
	server := must[*Server](t)(StartServer(t.Context(), cfg))
	s := openStore(t, Config{Endpoints: []string{server.Endpoint()}, DialTimeout: 100 * time.Millisecond})
	for i := range 10 {
		must[v3.Object](t)(s.Create(t.Context(), node(fmt.Sprintf("n%d", i), map[string]string{"i": "1"})))
	}
	sink := newRecorder()
	follow(t, s, sink, v3.KindNode)
	inSync := func(r *recorder) bool { return r.lastState() == string(datastore.StateInSync) }
	away := func(r *recorder) bool { return r.lastState() == string(datastore.StateWait)+" (away)" }
	sink.wait(t, "first snapshot", 5*time.Second, func(r *recorder) bool { return inSync(r) && len(r.changes) == 10 })

	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	sink.wait(t, "away", 5*time.Second, away)
	server = must[*Server](t)(StartServer(t.Context(), cfg))
	sink.wait(t, "back", 8*time.Second, inSync)
	if len(sink.changes) != 10 {
		t.Errorf("a restart brought %d changes, want 0", len(sink.changes)-10)
	}
	if err := s.Delete(t.Context(), datastore.Key{Kind: v3.KindNode, Name: "n0"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	sink.wait(t, "deletion", 5*time.Second, func(r *recorder) bool { return len(r.changes) == 11 && r.changes[10].Object == nil })

	// Another store in its place, whose revisions soon are the same numbers.
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	sink.wait(t, "away again", 5*time.Second, away)
	fresh := cfg
	fresh.DataDir += "2"
	server = must[*Server](t)(StartServer(t.Context(), fresh))
	defer func() { _ = server.Close() }()
	s2 := openStore(t, Config{Endpoints: []string{server.Endpoint()}})
	for i := range 12 {
		must[v3.Object](t)(s2.Create(t.Context(), node(fmt.Sprintf("n%d", i%6+i/6*20), map[string]string{"i": "2"})))
	}
	want := history{}
	for i := range 10 {
		want[fmt.Sprintf("n%d", i)] = []int{-1}
	}
	for i := range 12 {
		want[fmt.Sprintf("n%d", i%6+i/6*20)] = []int{2}
	}
	sink.wait(t, "the other store's content", 10*time.Second, func(r *recorder) bool {
		return inSync(r) && behind(want, seen(r.changes)) == 0
	})
}

// A peer that falls silent without closing the connection is noticed.
func TestHalfDeadConnection(t *testing.T) {
	t.Parallel() // waits most of the time
	if testing.Short() {
		t.Skip("takes as long as the keepalive: 13 s")
	}
	dir := shortDir(t)
	testServer(t, dir)
	p := newProxy(t, dir, filepath.Join(dir, "s"))
	s := openStore(t, Config{Endpoints: []string{p.endpoint()}})
	sink := newRecorder()
	follow(t, s, sink, v3.KindNode)
	sink.wait(t, "first snapshot", 5*time.Second, func(r *recorder) bool { return r.lastState() == string(datastore.StateInSync) })
	begin := time.Now()
	thaw := p.freeze()
	defer thaw()
	sink.wait(t, "silence noticed", keepaliveTime+keepaliveTimeout+5*time.Second, func(r *recorder) bool {
		return r.lastState() == string(datastore.StateWait)+" (away)"
	})
	t.Logf("noticed after %v", time.Since(begin).Round(100*time.Millisecond))
	thaw()
	sink.wait(t, "back", 15*time.Second, func(r *recorder) bool { return r.lastState() == string(datastore.StateInSync) })
}

// What is stored and cannot be understood is told as such, by list and by watch.
func TestRejected(t *testing.T) {
	s := testStore(t)
	must[v3.Object](t)(s.Create(t.Context(), pool("good", "10.0.0.0/16")))
	put := func(key, value string) {
		t.Helper()
		if err := s.do(t.Context(), func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, s.keys.root()+key, value)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	bad := map[string]string{
		"ippools/not-json": "{", "ippools/bad-cidr": `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"bad-cidr"},"spec":{"cidr":"x"}}`,
		"ippools/liar": `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"other"},"spec":{"cidr":"10.9.0.0/16"}}`,
		"ippools/a/b":  `{}`, "elephants/x": "{}", "x": "{}",
	}
	for k, v := range bad {
		put(k, v)
	}
	const rejected = 4 // what is of no kind is not ours to judge
	l := must[*datastore.List](t)(s.List(t.Context(), v3.KindIPPool))
	if len(l.Items) != 1 || len(l.Rejected) != rejected {
		t.Errorf("list has %d items and %d rejected, want 1 and %d: %+v", len(l.Items), len(l.Rejected), rejected, l.Rejected)
	}
	sink := newRecorder()
	follow(t, s, sink, v3.KindIPPool)
	sink.wait(t, "snapshot", 5*time.Second, func(r *recorder) bool { return len(r.changes) == 1+rejected })
	put("ippools/good", "{broken")
	sink.wait(t, "rejected change", 5*time.Second, func(r *recorder) bool {
		c := r.changes[len(r.changes)-1]
		return len(r.changes) == 2+rejected && c.Err != nil && c.Object == nil && c.Key.Name == "good"
	})
	// A broken one is replaced and deleted like any other.
	must[v3.Object](t)(s.Update(t.Context(), pool("good", "10.0.0.0/16")))
	if err := s.Delete(t.Context(), datastore.Key{Kind: v3.KindIPPool, Name: "not-json"}, datastore.Precondition{}); err != nil {
		t.Error(err)
	}
	sink.wait(t, "repaired", 5*time.Second, func(r *recorder) bool { return len(r.changes) == 4+rejected })
}

// What was missed is delivered however large it is: 20 MB here, in answers of the server's choosing.
func TestResumeOfManyBytes(t *testing.T) {
	const n = 100
	s := testStore(t)
	l := must[*datastore.List](t)(s.List(t.Context(), v3.KindNode))
	for i := range n {
		o := node(fmt.Sprintf("n%d", i), nil)
		o.Annotations = map[string]string{"a": strings.Repeat("x", 200<<10)}
		must[v3.Object](t)(s.Create(t.Context(), o))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, stop := 0, errors.New("stop")
	err := s.Stream(ctx, l.Revision, []string{v3.KindNode}, func(b datastore.Batch) error {
		if got += len(b.Changes); b.CaughtUp {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || got != n {
		t.Errorf("%d of %d changes before it had caught up, then %v", got, n, err)
	}
}
