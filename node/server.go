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
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/node/flows"
	"weft/node/status"
)

// tcpTimeout bounds what a client over TCP may take for its request and for reading the answer.
const tcpTimeout = 30 * time.Second

// serve answers on the node's Unix socket (everything, for root on this host) and on the
// configured TCP addresses (health, metrics) until ctx ends.
func (s *service) serve(ctx context.Context) error {
	var servers []*http.Server
	errs := make(chan error, 3)
	start := func(l net.Listener, srv *http.Server) {
		srv.ReadHeaderTimeout, srv.IdleTimeout, srv.MaxHeaderBytes = 5*time.Second, time.Minute, 1<<14
		servers = append(servers, srv)
		go func() { errs <- srv.Serve(l) }()
	}
	path := filepath.Join(s.cfg.RunDir, status.SocketName)
	l, err := listenUnix(path)
	if err != nil {
		return err
	}
	start(l, &http.Server{Handler: s.localHandler()})
	for addr, h := range s.tcpHandlers() {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			// Two nodes in one namespace, or another program: the socket still serves, so go on.
			s.log.Warn("cannot serve health or metrics over TCP", "address", addr, "err", err)
			continue
		}
		start(l, &http.Server{Handler: h, ReadTimeout: tcpTimeout, WriteTimeout: tcpTimeout})
	}
	var failed error
	running := len(servers)
	select {
	case <-ctx.Done():
	case failed = <-errs:
		running--
	}
	for _, srv := range servers {
		_ = srv.Close()
	}
	for range running {
		<-errs
	}
	if failed != nil && !errors.Is(failed, http.ErrServerClosed) {
		return fmt.Errorf("serve status: %w", failed)
	}
	return nil
}

// tcpHandlers returns what is served at each TCP address; health and metrics may share one.
func (s *service) tcpHandlers() map[string]http.Handler {
	out := map[string]http.Handler{}
	mux := func(addr string) *http.ServeMux {
		m, ok := out[addr].(*http.ServeMux)
		if !ok {
			m = http.NewServeMux()
			out[addr] = m
		}
		return m
	}
	if addr := s.cfg.Health.Listen; addr != "" {
		s.addHealth(mux(addr))
	}
	if addr := s.cfg.Health.Metrics; addr != "" {
		mux(addr).Handle("GET /metrics", s.metricsHandler())
	}
	return out
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
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.status(r.Context()))
	})
	mux.HandleFunc("GET /plan/{area}", s.servePlan)
	mux.HandleFunc("GET /"+status.PeersPath, s.servePeers)
	mux.HandleFunc("GET /"+status.BGPPeersPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.speaker.peers(r.Context()))
	})
	mux.HandleFunc("GET /"+status.BGPRoutesPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.bgpRoutes(r.Context()))
	})
	mux.Handle("GET /"+flows.Path, s.flows.Handler())
	mux.Handle("GET /"+flows.CountersPath, flows.CountersHandler(s.counters))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return mux
}

func (s *service) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}

func (s *service) addHealth(mux *http.ServeMux) { status.AddHealth(mux, s.checks) }

func (s *service) servePlan(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("area") {
	case "policy":
		text, ok := s.enforcer.format()
		if !ok {
			http.Error(w, "nothing is planned yet: the node has not read its store", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, text)
		return
	case "bgp":
		fmt.Fprint(w, s.speaker.format())
		return
	}
	p := s.engine.current()
	if p == nil {
		s.unplanned(w)
		return
	}
	switch area := r.PathValue("area"); area {
	case "topology":
		fmt.Fprint(w, p.view.Format())
	case "tunnel":
		fmt.Fprint(w, p.tunnel.Format())
	case "nat":
		fmt.Fprint(w, p.nat.Format())
	case "routing":
		fmt.Fprint(w, p.routing.Format(), p.hosts.Format())
		if p.services != nil {
			fmt.Fprint(w, p.services.Format())
		}
	case "encryption":
		fmt.Fprint(w, p.encryption.Format(), p.hosts.Format())
	default:
		http.Error(w, fmt.Sprintf("no plan %q: want topology, tunnel, encryption, nat, routing, bgp or policy", area), http.StatusNotFound)
	}
}

// unplanned answers for what there is not before the first run.
func (s *service) unplanned(w http.ResponseWriter) {
	why := "see weft status"
	if err := s.ready(); err != nil {
		why = err.Error()
	}
	http.Error(w, "nothing is planned yet: "+why, http.StatusServiceUnavailable)
}
