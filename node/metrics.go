package node

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weft/internal/reconcile"
	"weft/node/datastore"
)

// metrics are what Prometheus reads. No label carries a pod's name or a pod's address.
type metrics struct {
	registry     *prometheus.Registry
	syncState    *prometheus.GaugeVec
	lastEvent    prometheus.Gauge
	applySeconds *prometheus.HistogramVec
	applyErrors  *prometheus.CounterVec
	repairs      *prometheus.CounterVec
	cniSeconds   *prometheus.HistogramVec

	policyLatency    prometheus.Histogram
	policyQuarantine prometheus.Histogram
}

func newMetrics(version string, endpoints func() int, paths func() map[string]int) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		syncState: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weft_datastore_sync_state",
			Help: "1 for the state that the node's view of the store is in."}, []string{"state"}),
		lastEvent: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weft_datastore_last_event_timestamp_seconds",
			Help: "When the store last told of a change, in Unix seconds."}),
		applySeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weft_apply_duration_seconds",
			Help:    "How long one driver took to make the kernel as wanted.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}, []string{"driver"}),
		applyErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_apply_errors_total",
			Help: "Applications of a driver that ended in an error."}, []string{"driver"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_drift_repairs_total",
			Help: "Kernel objects that somebody else changed and that were put back; store/record and store/address count what the store had lost of pods."}, []string{"driver"}),
		cniSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weft_cni_duration_seconds",
			Help:    "How long CNI calls took inside the node.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 13)}, []string{"op", "result"}),
		policyLatency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weft_policy_latency_seconds",
			Help:    "From the store's word of a change to the kernel that enforces it.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		policyQuarantine: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weft_endpoint_quarantine_seconds",
			Help:    "How long new pods waited for their policy.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "weft_build_info", Help: "1, with the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()}})
	build.Set(1)
	eps := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weft_endpoints",
		Help: "Pods attached on this node.", ConstLabels: prometheus.Labels{"state": "attached"}},
		func() float64 { return float64(endpoints()) })
	m.registry.MustRegister(build, m.syncState, m.lastEvent, m.applySeconds, m.applyErrors, m.repairs,
		m.cniSeconds, m.policyLatency, m.policyQuarantine, eps, &pathCollector{paths: paths}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) applied(driver string, d time.Duration, r reconcile.Result, err error) {
	m.applySeconds.WithLabelValues(driver).Observe(d.Seconds())
	m.repairs.WithLabelValues(driver).Add(float64(r.Repaired))
	if err != nil {
		m.applyErrors.WithLabelValues(driver).Inc()
	}
}

func (m *metrics) state(now datastore.State) {
	for _, s := range []datastore.State{datastore.StateWait, datastore.StateResync, datastore.StateInSync} {
		v := 0.0
		if s == now {
			v = 1
		}
		m.syncState.WithLabelValues(string(s)).Set(v)
	}
}

// kept counts what of a pod the store had lost and was given again.
func (m *metrics) kept(what string) { m.repairs.WithLabelValues("store/" + what).Inc() }

func (m *metrics) cni(op, result string, d time.Duration) {
	m.cniSeconds.WithLabelValues(op, result).Observe(d.Seconds())
}

// newStoreRequests counts what the node asks its store, watches apart; etcd only.
func newStoreRequests() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_datastore_requests_total",
		Help: "Requests to the etcd store, but for watches, by gRPC method."}, []string{"method"})
}

// pathCollector counts the paths by reach when it is asked.
type pathCollector struct{ paths func() map[string]int }

var pathDesc = prometheus.NewDesc("weft_paths", "Prefixes of the cluster by how this node reaches them.", []string{"reach"}, nil)

// Describe implements prometheus.Collector.
func (c *pathCollector) Describe(ch chan<- *prometheus.Desc) { ch <- pathDesc }

// Collect implements prometheus.Collector.
func (c *pathCollector) Collect(ch chan<- prometheus.Metric) {
	for reach, n := range c.paths() {
		ch <- prometheus.MustNewConstMetric(pathDesc, prometheus.GaugeValue, float64(n), reach)
	}
}

// policyCollector tells what status tells of policy, when it is asked.
type policyCollector struct{ enforcer *enforcer }

func policyDescs() map[string]*prometheus.Desc {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return map[string]*prometheus.Desc{
		"desired":    desc("weft_policy_desired_generation", "Of the program that the store's resources make."),
		"programmed": desc("weft_policy_programmed_generation", "Of the program that is in the kernel."),
		"policies":   desc("weft_policy_active", "Policies that select something of this node."),
		"chains":     desc("weft_policy_chains", "Chains of rules of the program."),
		"sets":       desc("weft_policy_sets", "Sets of addresses of the program."),
		"pods":       desc("weft_policy_endpoints", "Pods of this node that have a program."),
		"isolated":   desc("weft_policy_isolated_endpoints", "Pods of this node that nothing passes to or from, since the store does not know them."),
		"rejected":   desc("weft_policy_rejected_resources", "Resources of which not all could be understood; weft status says what is done instead."),
	}
}

// Describe implements prometheus.Collector.
func (c *policyCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range policyDescs() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *policyCollector) Collect(ch chan<- prometheus.Metric) {
	st, problems := c.enforcer.status()
	descs := policyDescs()
	for name, v := range map[string]float64{"desired": float64(st.Generation), "programmed": float64(st.Programmed), "policies": float64(st.Policies),
		"chains": float64(st.Chains), "sets": float64(st.Sets), "pods": float64(st.Pods), "isolated": float64(len(st.Isolated)),
		"rejected": float64(len(problems) - len(st.Isolated))} {
		ch <- prometheus.MustNewConstMetric(descs[name], prometheus.GaugeValue, v)
	}
}
