package node

import (
	"github.com/prometheus/client_golang/prometheus"

	daemon "weft/routing/bgp/speaker"
)

// bgpCollector tells of BGP when it is asked; nothing while the node has no sessions.
type bgpCollector struct{ speaker *speaker }

type bgpDescs struct {
	sessions, routes, up, since, flaps, malformed *prometheus.Desc
}

func newBGPDescs() bgpDescs {
	peer := []string{"peer", "address"}
	return bgpDescs{
		sessions:  prometheus.NewDesc("weft_bgp_sessions", "BGP sessions of this node by state.", []string{"state"}, nil),
		routes:    prometheus.NewDesc("weft_bgp_routes", "Prefixes that this node originates (out) and knows from others (in).", []string{"dir"}, nil),
		up:        prometheus.NewDesc("weft_bgp_session_up", "1 for a session that is established, else 0.", peer, nil),
		since:     prometheus.NewDesc("weft_bgp_session_state_since_seconds", "When a session's state began, in Unix seconds.", peer, nil),
		flaps:     prometheus.NewDesc("weft_bgp_session_flaps_total", "How often an established session ended.", peer, nil),
		malformed: prometheus.NewDesc("weft_bgp_malformed_messages_total", "Messages of the peer that were refused, or taken for a withdrawal (RFC 7606).", peer, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *bgpCollector) Describe(ch chan<- *prometheus.Desc) {
	d := newBGPDescs()
	for _, desc := range []*prometheus.Desc{d.sessions, d.routes, d.up, d.since, d.flaps, d.malformed} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *bgpCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.speaker
	b := s.describe()
	if b == nil || !b.On {
		return
	}
	d := newBGPDescs()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(d.routes, float64(b.Advertised), "out")
	gauge(d.routes, float64(b.Learned), "in")
	states := byAddress(s.driver.States())
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[daemon.PeerState]int{daemon.Established: 0}
	for i := range s.plan.Sessions {
		x := &s.plan.Sessions[i]
		p, ok := states[x.Peer]
		if !ok {
			p.State = daemon.Idle
		}
		counts[p.State]++
		up := 0.0
		if p.State == daemon.Established {
			up = 1
		}
		name, address := x.Node, x.Peer.String()
		if name == "" {
			name = x.Name
		}
		gauge(d.up, up, name, address)
		if !p.Since.IsZero() {
			gauge(d.since, float64(p.Since.UnixMilli())/1000, name, address)
		}
		ch <- prometheus.MustNewConstMetric(d.flaps, prometheus.CounterValue, float64(p.Flaps), name, address)
		ch <- prometheus.MustNewConstMetric(d.malformed, prometheus.CounterValue, float64(p.Malformed), name, address)
	}
	for state, n := range counts {
		gauge(d.sessions, float64(n), string(state))
	}
}
