package node

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/encryption"
	"weft/encryption/wireguard"
)

// encryptionCollector tells of encryption when it is asked; nothing while that is off.
type encryptionCollector struct{ service *service }

// scrapeTimeout bounds what a scrape may take for reading the devices.
const scrapeTimeout = 10 * time.Second

// The names and labels that begin with wireguard_ are Calico's, with iface and peer_node added: a key may be the
// peer of two devices, and is nobody's name.
type encryptionDescs struct {
	meta, handshake, received, sent, clear, refused *prometheus.Desc
}

func newEncryptionDescs() encryptionDescs {
	peer := []string{"hostname", "public_key", "iface", "peer_node", "peer_key", "peer_endpoint"}
	return encryptionDescs{
		meta: prometheus.NewDesc("wireguard_meta", "1 for each WireGuard device of this node.",
			[]string{"hostname", "public_key", "iface", "listen_port"}, nil),
		handshake: prometheus.NewDesc("wireguard_latest_handshake_seconds", "When keys were last agreed on with a peer, in Unix seconds; 0: never.", peer, nil),
		received:  prometheus.NewDesc("wireguard_bytes_rcvd", "Bytes received from a peer, with the protocol's own.", peer, nil),
		sent:      prometheus.NewDesc("wireguard_bytes_sent", "Bytes sent to a peer, with the protocol's own.", peer, nil),
		clear: prometheus.NewDesc("weft_encryption_clear_peers",
			"Other nodes to which something goes in clear that is to be encrypted.", nil, nil),
		refused: prometheus.NewDesc("weft_encryption_refused_packets_total",
			"Packets that were dropped since they were in clear and must not be.", []string{"direction"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *encryptionCollector) Describe(ch chan<- *prometheus.Desc) {
	d := newEncryptionDescs()
	for _, desc := range []*prometheus.Desc{d.meta, d.handshake, d.received, d.sent, d.clear, d.refused} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *encryptionCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.service
	p := s.engine.current()
	if p == nil || !p.snapshot.Encryption.Any() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	d := newEncryptionDescs()
	e := s.encryption(ctx, p)
	ch <- prometheus.MustNewConstMetric(d.clear, prometheus.GaugeValue, float64(len(e.Clear)))
	switch {
	case len(p.view.Guard.Pools) == 0: // nothing is refused
	case e.Error != "":
		s.log.Debug("the guard's counters cannot be read", "err", e.Error)
	default:
		ch <- prometheus.MustNewConstMetric(d.refused, prometheus.CounterValue, float64(e.RefusedOut), "out")
		ch <- prometheus.MustNewConstMetric(d.refused, prometheus.CounterValue, float64(e.RefusedIn), "in")
	}
	if s.wireguard == nil || len(p.encryption.Devices) == 0 || !s.cluster.wireguardMetrics() {
		return
	}
	peers, err := s.wireguard.Peers(ctx)
	if err != nil {
		s.log.Debug("the WireGuard devices cannot be asked for their peers", "err", err)
	}
	d.collect(ch, s.cfg.NodeName, p.encryption.Devices, peers)
}

// collect tells of devices and peers.
func (d encryptionDescs) collect(ch chan<- prometheus.Metric, host string, devices []encryption.Device, peers []wireguard.PeerStatus) {
	own := map[string]string{}
	for i := range devices {
		dev := &devices[i]
		key, err := dev.Key.Public()
		if err != nil {
			continue
		}
		own[dev.Name] = key.String()
		ch <- prometheus.MustNewConstMetric(d.meta, prometheus.GaugeValue, 1, host, key.String(), dev.Name, strconv.Itoa(dev.Port))
	}
	for i := range peers {
		q := &peers[i]
		endpoint, handshake := "", 0.0
		if q.Endpoint.IsValid() {
			endpoint = q.Endpoint.String()
		}
		if !q.LastHandshake.IsZero() {
			handshake = float64(q.LastHandshake.Unix())
		}
		labels := []string{host, own[q.Device], q.Device, string(q.Node), q.Key.String(), endpoint}
		ch <- prometheus.MustNewConstMetric(d.handshake, prometheus.GaugeValue, handshake, labels...)
		ch <- prometheus.MustNewConstMetric(d.received, prometheus.CounterValue, float64(q.Rx), labels...)
		ch <- prometheus.MustNewConstMetric(d.sent, prometheus.CounterValue, float64(q.Tx), labels...)
	}
}
