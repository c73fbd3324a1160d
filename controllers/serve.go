package controllers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/node/status"
)

// handlers returns what is served at each address; health and metrics may share one.
func (c *controllers) handlers() map[string]*http.ServeMux {
	muxes := map[string]*http.ServeMux{}
	at := func(addr string) *http.ServeMux {
		if muxes[addr] == nil {
			muxes[addr] = http.NewServeMux()
		}
		return muxes[addr]
	}
	if c.cfg.Health != "" {
		status.AddHealth(at(c.cfg.Health), c.checks)
	}
	if c.cfg.Metrics != "" {
		at(c.cfg.Metrics).Handle("GET /metrics", promhttp.HandlerFor(c.metrics.registry, promhttp.HandlerOpts{}))
	}
	return muxes
}

// serve answers probes and Prometheus until ctx ends.
func (c *controllers) serve(ctx context.Context) error {
	muxes := c.handlers()
	errs := make(chan error, len(muxes))
	var servers []*http.Server
	defer func() {
		for _, srv := range servers {
			_ = srv.Close()
		}
		for range servers {
			<-errs
		}
	}()
	for addr, mux := range muxes {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("serve health and metrics: %w", err)
		}
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
			IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
		servers = append(servers, srv)
		go func() {
			err := srv.Serve(l)
			if !errors.Is(err, http.ErrServerClosed) {
				c.log.Error("serve health and metrics", "address", addr, "err", err)
			}
			errs <- err
		}()
	}
	<-ctx.Done()
	return context.Cause(ctx)
}
