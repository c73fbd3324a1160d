package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/node/status"
)

// serve answers on the node's Unix socket (everything, for root on this host) and on the
// configured TCP addresses (health, metrics) until ctx ends.
func (s *service) serve(ctx context.Context) error {
	var servers []*http.Server
	errs := make(chan error, 3)
	start := func(l net.Listener, h http.Handler) {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
		servers = append(servers, srv)
		go func() { errs <- srv.Serve(l) }()
	}
	path := filepath.Join(s.cfg.RunDir, status.SocketName)
	l, err := listenUnix(path)
	if err != nil {
		return err
	}
	start(l, s.localHandler())
	for addr, h := range map[string]http.Handler{s.cfg.Health.Listen: s.healthHandler(), s.cfg.Health.Metrics: s.metricsHandler()} {
		if addr == "" {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			// Two nodes in one namespace, or another program: the socket still serves, so go on.
			s.log.Warn("cannot serve health or metrics over TCP", "address", addr, "err", err)
			continue
		}
		start(l, h)
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-errs:
	}
	for _, srv := range servers {
		_ = srv.Close()
	}
	if failed != nil && !errors.Is(failed, http.ErrServerClosed) {
		return fmt.Errorf("serve status: %w", failed)
	}
	return nil
}

// listenUnix makes a root-only socket; one that an earlier process left is replaced (the run
// directory's lock says that no other process uses it).
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("protect %s: %w", path, err)
	}
	return l, nil
}

func (s *service) localHandler() http.Handler {
	mux := http.NewServeMux()
	s.addHealth(mux)
	mux.Handle("GET /metrics", s.metricsHandler())
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.status())
	})
	mux.HandleFunc("GET /plan/{area}", s.servePlan)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return mux
}

func (s *service) healthHandler() http.Handler {
	mux := http.NewServeMux()
	s.addHealth(mux)
	return mux
}

func (s *service) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}

func (s *service) addHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		checks, code := s.checks(), http.StatusOK
		var b strings.Builder
		for _, c := range checks {
			mark := "[+]" // as Kubernetes' own components print their checks
			if !c.OK {
				mark, code = "[-]", http.StatusServiceUnavailable
			}
			if _, verbose := r.URL.Query()["verbose"]; verbose || !c.OK {
				fmt.Fprintf(&b, "%s%s: %s\n", mark, c.Name, c.Reason)
			}
		}
		if b.Len() == 0 {
			b.WriteString("ok\n")
		}
		w.WriteHeader(code)
		fmt.Fprint(w, b.String())
	})
}

func (s *service) servePlan(w http.ResponseWriter, r *http.Request) {
	p := s.engine.current()
	if p == nil {
		http.Error(w, "nothing is planned yet: "+errText(s.ready()), http.StatusServiceUnavailable)
		return
	}
	switch area := r.PathValue("area"); area {
	case "topology":
		fmt.Fprint(w, p.view.Format())
	case "tunnel":
		fmt.Fprint(w, p.tunnel.Format())
	case "routing":
		fmt.Fprint(w, p.routing.Format())
	case "encryption", "policy":
		http.Error(w, "this release plans no "+area, http.StatusNotFound)
	default:
		http.Error(w, fmt.Sprintf("no plan %q: want topology, tunnel or routing", area), http.StatusNotFound)
	}
}
