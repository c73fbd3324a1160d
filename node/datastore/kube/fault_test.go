package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

// faultProxy stands between a client and the API server and does, at random, what can go wrong there.
type faultProxy struct {
	*httptest.Server
	target string
	client *http.Client

	mu sync.Mutex
	// chance of each fault, of a request or of an event of a watch; empty: none happens.
	chance map[string]float64
	counts map[string]int
	passed map[string]int // requests and events in all
}

// The faults of requests, and those of events.
const (
	fault429     = "429"
	fault500     = "500"
	fault503     = "503"
	faultAbort   = "connection closed instead of an answer"
	faultGone    = "410 for a watch or a page"
	eventDropped = "event dropped"
	eventTwice   = "event repeated"
	eventOld     = "older event repeated"
	eventSwapped = "events swapped"
	eventCut     = "watch cut within an event"
	eventEnd     = "watch ended"
	eventGone    = "410 within a watch"
)

func newFaultProxy(t *testing.T, c *testkube.Cluster) *faultProxy {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 50}
	p := &faultProxy{target: c.URL, client: &http.Client{Transport: transport}, counts: map[string]int{}, passed: map[string]int{}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() { p.CloseClientConnections(); p.Close(); transport.CloseIdleConnections() })
	return p
}

// kubeconfig leads a node service to the proxy.
func (p *faultProxy) kubeconfig(t *testing.T, c *testkube.Cluster) string {
	path := c.Kubeconfig(t, testkube.Node, p.URL)
	ca := filepath.Join(t.TempDir(), "ca")
	b := storetest.Must[[]byte](t)(os.ReadFile(path))
	b = bytes.ReplaceAll(b, []byte(c.CAFile()), []byte(ca))
	for file, data := range map[string][]byte{path: b, ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func (p *faultProxy) set(chance map[string]float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chance = chance
}

// happens tells whether a fault is to happen now, and counts it.
func (p *faultProxy) happens(fault string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rand.Float64() >= p.chance[fault] {
		return false
	}
	p.counts[fault]++
	return true
}

func (p *faultProxy) pass(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[what]++
}

func (p *faultProxy) report() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(p.counts)) {
		out = append(out, fmt.Sprintf("%d %s", p.counts[k], k))
	}
	return fmt.Sprintf("of %d requests and %d events: %s", p.passed["requests"], p.passed["events"], strings.Join(out, ", "))
}

const gone = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}`

func (p *faultProxy) serve(w http.ResponseWriter, r *http.Request) {
	p.pass("requests")
	watching := r.URL.Query().Get("watch") != ""
	switch {
	case p.happens(fault429):
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(429)
		return
	case p.happens(fault500):
		w.WriteHeader(500)
		return
	case p.happens(fault503):
		w.WriteHeader(503)
		return
	case p.happens(faultAbort):
		panic(http.ErrAbortHandler)
	case (watching || r.URL.Query().Get("continue") != "") && p.happens(faultGone):
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(410)
		_, _ = io.WriteString(w, gone)
		return
	}
	body, _ := io.ReadAll(r.Body)
	up, err := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	up.Header = r.Header.Clone()
	up.Header.Del("Accept-Encoding")
	resp, err := p.client.Do(up)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer func() { _ = resp.Body.Close() }()
	maps.Copy(w.Header(), resp.Header)
	w.Header().Del("Content-Length")
	w.WriteHeader(resp.StatusCode)
	if !watching || resp.StatusCode != 200 {
		_, _ = io.Copy(w, resp.Body)
		return
	}
	w.(http.Flusher).Flush()
	p.events(w, resp.Body, strings.Contains(resp.Header.Get("Content-Type"), "protobuf"))
}

// nextEvent reads one event as it is on the wire.
func nextEvent(body io.Reader, dec *json.Decoder) ([]byte, error) {
	if dec != nil {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		return append(raw, '\n'), err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(body, head); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint32(head))
	_, err := io.ReadFull(body, raw)
	return append(head, raw...), err
}

func (p *faultProxy) events(w http.ResponseWriter, body io.Reader, protobuf bool) {
	var dec *json.Decoder
	if !protobuf {
		dec = json.NewDecoder(body)
	}
	var before, held []byte
	send := func(b []byte) { _, _ = w.Write(b); w.(http.Flusher).Flush() }
	for {
		e, err := nextEvent(body, dec)
		if err != nil {
			return
		}
		p.pass("events")
		switch {
		case held != nil:
			send(e)
			send(held)
			held = nil
		case p.happens(eventDropped):
		case p.happens(eventTwice):
			send(e)
			send(e)
		case before != nil && p.happens(eventOld):
			send(e)
			send(before)
		case p.happens(eventSwapped):
			held = e
		case p.happens(eventCut):
			send(e[:len(e)/2])
			panic(http.ErrAbortHandler)
		case p.happens(eventEnd):
			return
		case !protobuf && p.happens(eventGone):
			send([]byte(`{"type":"ERROR","object":` + gone + "}\n"))
			return
		default:
			send(e)
		}
		before = e
	}
}

// state is what is there, by key, with its revision.
func state(changes []datastore.Change) map[datastore.Key]string {
	out := map[datastore.Key]string{}
	for _, c := range changes {
		if c.Object == nil && c.Err == nil {
			delete(out, c.Key)
		} else {
			out[c.Key] = c.Revision
		}
	}
	return out
}

func contents(l *datastore.List) map[datastore.Key]string {
	out := map[datastore.Key]string{}
	for _, o := range l.Items {
		out[datastore.KeyOf(o)] = o.GetResourceVersion()
	}
	return out
}

var followedKinds = []string{v3.KindNode, v3.KindIPReservation, v3.KindWorkloadEndpoint}

// A thousand changes of custom resources and of pods while everything fails that can: afterwards the follower has
// what a fresh list has.
func TestFollowThroughFaults(t *testing.T) {
	for _, tc := range []struct {
		name   string
		relist time.Duration
		chance map[string]float64
		// without a list now and then it comes to something else
		control bool
	}{
		{"all but loss", time.Hour, map[string]float64{fault429: 0.03, fault500: 0.05, fault503: 0.05, faultAbort: 0.05, faultGone: 0.1,
			eventTwice: 0.02, eventOld: 0.01, eventSwapped: 0.01, eventCut: 0.01, eventEnd: 0.01, eventGone: 0.005}, false},
		{"loss", 2 * time.Second, map[string]float64{eventDropped: 0.1, eventTwice: 0.02}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := testkube.Start(t)
			p := newFaultProxy(t, c)
			direct := open(t, c, testkube.Admin, "")
			reader := openWith(t, Config{Kubeconfig: p.kubeconfig(t, c), Relist: tc.relist, RequestTimeout: 3 * time.Second})
			sink, control := storetest.NewRecorder(), storetest.NewRecorder()
			storetest.Follow(t, reader, sink, followedKinds...)
			sink.Wait(t, "first snapshot", 20*time.Second, (*storetest.Recorder).InSync)
			if tc.control {
				storetest.Follow(t, openWith(t, Config{Kubeconfig: p.kubeconfig(t, c)}), control, followedKinds...)
				control.Wait(t, "first snapshot", 20*time.Second, (*storetest.Recorder).InSync)
			}
			p.set(tc.chance)
			var wg sync.WaitGroup
			wg.Go(func() { churnPods(t, c, 500) })
			wg.Go(func() { storetest.Churn(t, direct, 1500, func(int) {}) })
			wg.Wait()
			p.set(nil)
			want := contents(storetest.Must[*datastore.List](t)(direct.List(t.Context(), followedKinds...)))
			sink.Wait(t, "what a fresh list has", 25*time.Second, func(r *storetest.Recorder) bool {
				return r.InSync() && maps.Equal(state(r.Changes), want)
			})
			pods := 0
			for k := range want {
				if k.Kind == v3.KindWorkloadEndpoint {
					pods++
				}
			}
			if pods < 10 || len(want) < 50 {
				t.Errorf("only %d objects, %d pods, are left to compare", len(want), pods)
			}
			if tc.control && maps.Equal(state(control.Changes), want) {
				t.Error("control: without lists, the same: nothing was lost")
			}
			for f := range tc.chance {
				if p.counts[f] == 0 {
					t.Errorf("fault %q did not happen", f)
				}
			}
			t.Logf("%d objects equal, %d of them pods; %s; %d changes delivered, %d states", len(want), pods, p.report(), len(sink.Changes), len(sink.States))
		})
	}
}

const podsPath = "/api/v1/namespaces/default/pods"

// makePod creates a pod on a node as scheduler and kubelet do.
func makePod(t *testing.T, c *testkube.Cluster, node, name, ip string, labels map[string]string) {
	t.Helper()
	pod := map[string]any{"metadata": map[string]any{"name": name, "labels": labels}, "spec": map[string]any{"nodeName": node,
		"containers": []any{map[string]any{"name": "c", "image": "i", "ports": []any{map[string]any{"name": "http", "containerPort": 8080}, map[string]any{"containerPort": 9}}}}}}
	c.MustDo(t, http.MethodPost, podsPath, pod)
	if ip != "" {
		c.MustDo(t, http.MethodPatch, podsPath+"/"+name+"/status", map[string]any{"status": map[string]any{"phase": "Running", "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}}}})
	}
}

// churnPods makes n changes to 40 pods.
func churnPods(t *testing.T, c *testkube.Cluster, n int) {
	there := map[string]bool{}
	for i := range n {
		name := fmt.Sprintf("p%d", rand.IntN(40))
		switch {
		case !there[name]:
			makePod(t, c, fmt.Sprintf("n%d", i%4), name, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), map[string]string{"i": fmt.Sprint(i)})
			there[name] = true
		case rand.IntN(4) == 0:
			c.MustDo(t, http.MethodDelete, podsPath+"/"+name+"?gracePeriodSeconds=0", nil)
			there[name] = false
		default:
			c.MustDo(t, http.MethodPatch, podsPath+"/"+name, map[string]any{"metadata": map[string]any{"labels": map[string]any{"i": fmt.Sprint(i)}}})
		}
	}
}

// While the API server asks to be left alone for a second, ten callers make few requests, and each gets its answer
// once it is over; one whose time ends before is told so at once.
func TestRetryAfter(t *testing.T) {
	c := testkube.Shared(t)
	p := newFaultProxy(t, c)
	s := openWith(t, Config{Kubeconfig: p.kubeconfig(t, c)})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.set(map[string]float64{fault429: 1})
	const callers = 10
	time.AfterFunc(2500*time.Millisecond, func() { p.set(nil) })
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := s.Ping(ctx); !errors.Is(err, datastore.ErrUnavailable) || time.Since(begin) > 90*time.Millisecond {
		t.Errorf("a caller without the time: %v after %v", err, time.Since(begin))
	}
	wg.Wait()
	refused := p.counts[fault429]
	t.Logf("%d callers were refused %d times in 2.5 s", callers, refused)
	if refused > 4*callers {
		t.Errorf("%d requests were refused although each asked for a pause of 1 s: want at most %d", refused, 4*callers)
	}
	if refused < callers/2 {
		t.Errorf("only %d requests were refused: the fault did not happen", refused)
	}
}
