package flows

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/testkit"
	"weft/model"
	"weft/node/status"
	"weft/policy"
	"weft/policy/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A Recorder that follows the Deltas names what the Program has, in random worlds.
func TestNamesFollowDeltas(t *testing.T) {
	looked := 0
	for seed := range uint64(20) {
		w := policytest.New(seed, seed%2 == 0)
		c := policy.NewCompiler(policytest.Self)
		r := New(nil, slog.New(slog.DiscardHandler))
		for range 150 {
			w.Step(c)
			u := c.Flush()
			r.Update(u)
			r.Update(u) // a second time changes nothing
			for tag, name := range policy.TagNames(u.Program) {
				looked++
				if r.names.tags[tag] != name {
					t.Fatalf("seed %d: %q is not known", seed, name)
				}
			}
			if len(r.names.devices) != len(u.Program.Endpoints) {
				t.Fatalf("seed %d: %d devices known, want %d", seed, len(r.names.devices), len(u.Program.Endpoints))
			}
			for device, e := range u.Program.Endpoints {
				if got, _ := r.names.end(netip.Addr{}, device); got.Pod != e.ID.Pod {
					t.Fatalf("seed %d: %s is taken for %q, want %q", seed, device, got.Pod, e.ID.Pod)
				}
			}
		}
	}
	if looked < 10_000 {
		t.Errorf("only %d names were looked up", looked)
	}
}

func TestReasons(t *testing.T) {
	n := names{tags: map[uint64]string{policy.TagName("GlobalNetworkPolicy p ingress"): "GlobalNetworkPolicy p ingress", policy.TagName("default"): "default"}}
	web := model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}
	for _, tc := range []struct {
		tag  policy.Tag
		want string
	}{
		{policy.Tag{Action: model.Deny, Cause: policy.ByRule, Name: policy.TagName("GlobalNetworkPolicy p ingress"), Rule: 2},
			"ingress of shop/web: GlobalNetworkPolicy p ingress, rule 2: deny"},
		{policy.Tag{Action: model.Log, Cause: policy.ByRule, Name: 7}, "ingress of shop/web: a policy that is gone (0000000000000007), rule 0: log"},
		{policy.Tag{Action: model.Deny, Cause: policy.ByTier, Name: policy.TagName("default")}, "ingress of shop/web: tier default, its default action: deny"},
		{policy.Tag{Action: model.Deny, Cause: policy.ByProfiles}, "ingress of shop/web: no policy and no profile decided: deny"},
		{policy.Tag{Action: model.Deny, Direction: model.Egress, Cause: policy.BySource}, "egress of this host: not an address or MAC that the pod may send from"},
		{policy.Tag{Action: model.Deny, Cause: policy.ByNoProgram}, "the pod has no policy programmed yet"},
		{policy.Tag{Action: model.Deny, Cause: policy.ByHost}, "ingress of shop/web: defaultEndpointToHostAction is Drop"},
		{policy.Tag{Action: model.Deny, Cause: 'c'}, "a change of policy denies the connection that it belongs to: ask weft why about its first packet"},
		{policy.Tag{Action: model.Deny, Cause: '?'}, "ingress of shop/web: a cause that this release does not know (?)"},
	} {
		var f Flow
		n.explain(&f, tc.tag, model.EndpointID{}, web)
		if f.Reason != tc.want {
			t.Errorf("%+v:\ngot  %s\nwant %s", tc.tag, f.Reason, tc.want)
		}
	}
}

// serve serves a Recorder on a node's socket, and returns its run directory.
func serve(t *testing.T, r *Recorder) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-flows")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, status.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	if r != nil {
		mux.Handle("GET /"+Path, r.Handler())
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return dir
}

var errEnough = errors.New("enough")

func flowTo(namespace string, action model.Action) Flow {
	return Flow{Action: action.String(), Dest: End{Namespace: namespace, Pod: "web", Address: netip.MustParseAddr("10.0.0.1")}}
}

func TestServe(t *testing.T) {
	r := New(nil, slog.New(slog.DiscardHandler))
	dir := serve(t, r)
	for i := range Kept + 100 {
		r.ring.add(flowTo([]string{"shop", "bank"}[i%2], []model.Action{model.Deny, model.Log}[i/2%2]))
	}
	r.ring.lose(3)
	read := func(q Query) (seqs []uint64, lost uint64) {
		err := Read(t.Context(), dir, q, func(l *Line) error {
			if l.Flow != nil {
				seqs = append(seqs, l.Seq)
			}
			lost += l.Lost
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return seqs, lost
	}
	seqs, lost := read(Query{})
	if len(seqs) != Kept || seqs[0] != 101 || seqs[Kept-1] != Kept+100 || lost != 3 {
		t.Errorf("got %d flows, %d to %d, and %d lost; want the last %d, and 3", len(seqs), seqs[0], seqs[len(seqs)-1], lost, Kept)
	}
	for q, want := range map[Query]int{{Denied: true}: Kept / 2, {Namespace: "shop"}: Kept / 2, {Denied: true, Namespace: "bank"}: Kept / 4, {Namespace: "x"}: 0} {
		if seqs, _ := read(q); len(seqs) != want {
			t.Errorf("%s: got %d flows, want %d", q, len(seqs), want)
		}
	}
	if err := Read(t.Context(), serve(t, nil), Query{}, nil); !errors.Is(err, ErrNotServed) {
		t.Errorf("got %v from a node without flows, want %v", err, ErrNotServed)
	}
}

// A follower gets what was and what comes, in order; one that does not read is told what it missed, and
// holds nobody up.
func TestFollow(t *testing.T) {
	r := New(nil, slog.New(slog.DiscardHandler))
	dir := serve(t, r)
	r.ring.add(flowTo("shop", model.Deny))
	const all = 500
	next := uint64(1)
	err := Read(t.Context(), dir, Query{Follow: true}, func(l *Line) error {
		if l.Flow == nil {
			return fmt.Errorf("a line of losses: %+v", *l)
		}
		if l.Seq != next {
			return fmt.Errorf("flow %d came, want %d", l.Seq, next)
		}
		if next++; next > all {
			return errEnough
		}
		r.ring.add(flowTo("shop", model.Deny))
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	_, slow := r.ring.last(true)
	for range behind + 7 {
		r.ring.add(flowTo("shop", model.Deny))
	}
	if _, _, missed := r.ring.losses(slow); missed != 7 {
		t.Errorf("a slow reader missed %d, want 7", missed)
	}
	r.ring.leave(slow)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Read(ctx, dir, Query{Follow: true, Namespace: "x"}, func(*Line) error { return nil }) }()
	testkit.Eventually(t, 10*time.Second, "the client reads", func() bool {
		r.ring.mu.Lock()
		defer r.ring.mu.Unlock()
		return len(r.ring.readers) > 0
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v when the client ends, want %v", err, context.Canceled)
	}
}

func TestCounters(t *testing.T) {
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/counters", nil)
	CountersHandler(func(context.Context) ([]Counter, error) {
		return []Counter{{"Profile p ingress", []int{1}, "weft", 2, 3}}, nil
	}).ServeHTTP(rec, req)
	if got, want := strings.TrimSpace(rec.Body.String()), `[{"chain":"Profile p ingress","rules":[1],"tag":"weft","packets":2,"bytes":3}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	rec = httptest.NewRecorder()
	CountersHandler(func(context.Context) ([]Counter, error) { return nil, errors.New("no") }).ServeHTTP(rec, req)
	if rec.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d for counters that cannot be read, want %d", rec.Code, http.StatusServiceUnavailable)
	}
}
