package controllers

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weft/node/ipam"
)

// metrics are what Prometheus reads. No label carries a node's name or an address.
type metrics struct {
	registry   *prometheus.Registry
	lastLook   prometheus.Gauge
	looks      *prometheus.CounterVec
	seen       *prometheus.GaugeVec
	freed      *prometheus.CounterVec
	hosts      *prometheus.CounterVec
	leader     prometheus.Gauge
	conditions prometheus.Counter
}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(),
		lastLook: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weft_controllers_last_run_timestamp_seconds",
			Help: "When the whole store was last looked at, in Unix seconds."}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_controllers_runs_total", Help: "Looks at the whole store."}, []string{"result"}),
		seen: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weft_controllers_candidates",
			Help: "What had no owner at the last look: nodes that are gone and left something, and the problems of weft ipam check that go by themselves."}, []string{"reason"}),
		freed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_controllers_released_total",
			Help: "What was given back or removed: by kind of problem, and of nodes that are gone by kind of resource."}, []string{"reason"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weft_controllers_leader", Help: "1 while this process leads."}),
		hosts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_controllers_host_endpoints_total",
			Help: "Host endpoints of nodes that were created, updated and removed."}, []string{"action"}),
		conditions: prometheus.NewCounter(prometheus.CounterOpts{Name: "weft_controllers_conditions_written_total",
			Help: "Conditions Accepted that were written, but those of pools and tiers."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "weft_build_info", Help: "1, with the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(build, m.lastLook, m.looks, m.seen, m.freed, m.hosts, m.leader, m.conditions, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) looked(err error) {
	if err != nil {
		m.looks.WithLabelValues("error").Inc()
		return
	}
	m.looks.WithLabelValues("ok").Inc()
	m.lastLook.SetToCurrentTime()
}

func (m *metrics) candidates(gone map[string]*left, problems map[garbage]ipam.Problem) {
	n := map[string]int{"node-gone": len(gone)}
	for _, kind := range collectable() {
		n[kind] = 0
	}
	for g := range problems {
		n[g.kind]++
	}
	for reason, count := range n {
		m.seen.WithLabelValues(reason).Set(float64(count))
	}
}

func (m *metrics) released(reason string, n int) { m.freed.WithLabelValues(reason).Add(float64(n)) }

func (m *metrics) lead(leads bool) {
	n := 0.0
	if leads {
		n = 1
	}
	m.leader.Set(n)
}
