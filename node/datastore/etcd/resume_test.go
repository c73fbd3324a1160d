package etcd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

func TestResume(t *testing.T) {
	for _, compacting := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacting=%v", compacting), func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			server := testServer(t, dir)
			writer := openStore(t, Config{Endpoints: []string{server.Endpoint()}})
			p := storetest.NewProxy(t, "unix", filepath.Join(dir, "p"), filepath.Join(dir, "s"))
			reader := openStore(t, Config{Endpoints: []string{"unix://" + p.Address()}, DialTimeout: 100 * time.Millisecond})
			w, changes := storetest.Wire{Writer: writer, Reader: reader, Proxy: p}, 10000
			if compacting {
				w.Forget, changes = func() bool { return compactNow(t, writer) }, 3000
			}
			storetest.Resume(t, w, changes)
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
	sink := storetest.NewRecorder()
	follow(t, s, sink, v3.KindNode)
	inSync := func(r *storetest.Recorder) bool { return r.LastState() == string(datastore.StateInSync) }
	away := func(r *storetest.Recorder) bool { return r.LastState() == storetest.Away }
	sink.Wait(t, "first snapshot", 5*time.Second, func(r *storetest.Recorder) bool { return inSync(r) && len(r.Changes) == 10 })

	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	sink.Wait(t, "away", 5*time.Second, away)
	server = must[*Server](t)(StartServer(t.Context(), cfg))
	sink.Wait(t, "back", 8*time.Second, inSync)
	if len(sink.Changes) != 10 {
		t.Errorf("a restart brought %d changes, want 0", len(sink.Changes)-10)
	}
	if err := s.Delete(t.Context(), datastore.Key{Kind: v3.KindNode, Name: "n0"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	sink.Wait(t, "deletion", 5*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 11 && r.Changes[10].Object == nil })

	// Another store in its place, whose revisions soon are the same numbers.
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	sink.Wait(t, "away again", 5*time.Second, away)
	fresh := cfg
	fresh.DataDir += "2"
	server = must[*Server](t)(StartServer(t.Context(), fresh))
	defer func() { _ = server.Close() }()
	s2 := openStore(t, Config{Endpoints: []string{server.Endpoint()}})
	for i := range 12 {
		must[v3.Object](t)(s2.Create(t.Context(), node(fmt.Sprintf("n%d", i%6+i/6*20), map[string]string{"i": "2"})))
	}
	want := storetest.History{}
	for i := range 10 {
		want[fmt.Sprintf("n%d", i)] = []int{-1}
	}
	for i := range 12 {
		want[fmt.Sprintf("n%d", i%6+i/6*20)] = []int{2}
	}
	sink.Wait(t, "the other store's content", 10*time.Second, func(r *storetest.Recorder) bool {
		return inSync(r) && storetest.Behind(want, storetest.Seen(r.Changes)) == 0
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
	p := storetest.NewProxy(t, "unix", filepath.Join(dir, "p"), filepath.Join(dir, "s"))
	s := openStore(t, Config{Endpoints: []string{"unix://" + p.Address()}})
	sink := storetest.NewRecorder()
	follow(t, s, sink, v3.KindNode)
	sink.Wait(t, "first snapshot", 5*time.Second, func(r *storetest.Recorder) bool { return r.LastState() == string(datastore.StateInSync) })
	begin := time.Now()
	thaw := p.Freeze()
	defer thaw()
	sink.Wait(t, "silence noticed", keepaliveTime+keepaliveTimeout+5*time.Second, func(r *storetest.Recorder) bool {
		return r.LastState() == storetest.Away
	})
	t.Logf("noticed after %v", time.Since(begin).Round(100*time.Millisecond))
	thaw()
	sink.Wait(t, "back", 15*time.Second, func(r *storetest.Recorder) bool { return r.LastState() == string(datastore.StateInSync) })
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
	sink := storetest.NewRecorder()
	follow(t, s, sink, v3.KindIPPool)
	sink.Wait(t, "snapshot", 5*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 1+rejected })
	put("ippools/good", "{broken")
	sink.Wait(t, "rejected change", 5*time.Second, func(r *storetest.Recorder) bool {
		c := r.Changes[len(r.Changes)-1]
		return len(r.Changes) == 2+rejected && c.Err != nil && c.Object == nil && c.Key.Name == "good"
	})
	// A broken one is replaced and deleted like any other.
	must[v3.Object](t)(s.Update(t.Context(), pool("good", "10.0.0.0/16")))
	if err := s.Delete(t.Context(), datastore.Key{Kind: v3.KindIPPool, Name: "not-json"}, datastore.Precondition{}); err != nil {
		t.Error(err)
	}
	sink.Wait(t, "repaired", 5*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 4+rejected })
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
