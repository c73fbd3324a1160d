package install

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// through puts something between an installation and its API server: it is asked the number of each request first, and
// tells whether it answered in the server's place.
func through(t *testing.T, c *Cluster, instead func(n int64, w http.ResponseWriter) bool) (requests *atomic.Int64) {
	t.Helper()
	requests = &atomic.Int64{}
	proxy := httputil.NewSingleHostReverseProxy(c.Base)
	proxy.Transport = c.Client.Transport
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !instead(requests.Add(1), w) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c.Base, c.Client = at, s.Client()
	return requests
}

// An API server that is busy, fails, or breaks off is asked again, once it is said why; one that refuses is not.
func TestRequestsAreMadeAgain(t *testing.T) {
	server := kube.Shared(t)
	o := Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "retried", "namespace": "kube-system"}}
	answers := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	for _, x := range []struct {
		name   string
		answer func(http.ResponseWriter)
		times  int64
	}{
		{"429 Too Many Requests", answers(http.StatusTooManyRequests), 2}, {"500 Internal Server Error", answers(http.StatusInternalServerError), 2},
		{"503 Service Unavailable", answers(http.StatusServiceUnavailable), 2}, {"EOF", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 2},
		{"403 Forbidden", answers(http.StatusForbidden), 0}, {"422 Unprocessable Entity", answers(http.StatusUnprocessableEntity), 0},
	} {
		c, said := on(t, server)
		requests := through(t, c, func(n int64, w http.ResponseWriter) bool {
			if n <= 2 {
				x.answer(w)
			}
			return n <= 2
		})
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patient(20*time.Second))
		err := c.apply(ctx, o)
		cancel()
		if x.times == 0 {
			if err == nil || requests.Load() != 1 || !strings.Contains(err.Error(), x.name) {
				t.Errorf("%s: %v after %d requests, want to be refused by the first", x.name, err, requests.Load())
			}
			continue
		}
		if err != nil || requests.Load() != x.times+1 || len(*said) != 1 || !said.has(x.name) {
			t.Errorf("%s: %v after %d requests, said %q", x.name, err, requests.Load(), *said)
		}
	}
	c, _ := on(t, server)
	through(t, c, func(_ int64, w http.ResponseWriter) bool { w.WriteHeader(http.StatusServiceUnavailable); return true })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.apply(ctx, o); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "until the time was over") {
		t.Errorf("never well: %v", err)
	}
}

// A certificate that is not trusted stays so.
func TestUntrustedServerIsNotAskedAgain(t *testing.T) {
	c, said := on(t, kube.Shared(t))
	c.Client = &http.Client{}
	_, err := c.get(t.Context(), Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "default"}})
	if err == nil || len(*said) != 0 || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v, said %q", err, *said)
	}
}

// A kind that the API server does not have is not waited for until all time is over.
func TestKindThatIsNotServed(t *testing.T) {
	c, _ := on(t, kube.Shared(t))
	_, rest, err := Manifests(Options{Overlay: "vxlan"})
	if err != nil {
		t.Fatal(err)
	}
	o := named(t, rest, "ValidatingAdmissionPolicy", "weft-node-token")
	o["apiVersion"] = "admissionregistration.k8s.io/v9"
	limit := testkit.Patient(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begin := time.Now()
	err = c.apply(ctx, o)
	took := time.Since(begin)
	var refused *refusal
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "Kubernetes 1.30 or later") || ctx.Err() != nil || took < servedWithin {
		t.Errorf("after %v: %v", took, err)
	}
}
