package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
	"weft/model/topology"
	"weft/node/status"
)

func TestStorePorts(t *testing.T) {
	got := storePorts([]string{"https://10.0.0.1:2379", "http://[fd00::1]:4001", "https://etcd.example:2379", "unix:///run/weft/etcd.sock", "https://etcd", "%"})
	if d := cmp.Diff([]uint16{443, 2379, 4001}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestHostEncryptionOf(t *testing.T) {
	p := rotating()
	host := func(a string, node string, reach topology.Reach, device, why string) {
		p.view.Hosts = append(p.view.Hosts, topology.Path{Dst: netip.MustParsePrefix(a), Node: model.NodeName(node), Reach: reach, Device: device, Why: why})
	}
	host("172.31.0.1/32", "moved", topology.WireGuard, "weft-wg2", "encrypted, key 1")
	host("172.31.0.2/32", "twice", topology.WireGuard, "weft-wg", "encrypted, key 0")
	host("fd00:31::2/128", "twice", topology.Direct, "eth0", "not encrypted, since")
	host("172.31.0.3/32", "shy", topology.Direct, "eth0", "not encrypted, since node shy has no key")
	host("172.31.0.4/32", "keyless", topology.Unreachable, "", "was encrypted")
	if e := encryptionOf(p).Hosts; e != nil {
		t.Errorf("without, status has %+v", e)
	}
	p.snapshot.Encryption.Host = true
	want := &status.HostEncryption{Encrypted: []string{"moved"}, Clear: []string{"shy", "twice"}, Unreachable: []string{"keyless"}}
	if d := cmp.Diff(want, encryptionOf(p).Hosts); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	rows := map[string]string{}
	for _, r := range peersOf(p, nil, true) {
		if len(r.Hosts) > 0 {
			rows[r.Node+" "+r.Device] = strings.Join(r.Hosts, ",") + " | " + strings.Join(slices.DeleteFunc(r.Why, func(w string) bool { return w == notThere }), "; ")
		}
	}
	wantRows := map[string]string{
		"moved weft-wg2": "172.31.0.1 | encrypted, key 1; the node's own address 172.31.0.1: the same",
		"twice weft-wg":  "172.31.0.2,fd00:31::2 | encrypted, key 0; the node's own address 172.31.0.2: the same; the node's own address fd00:31::2: not encrypted, since",
		"shy ":           "172.31.0.3 | the node's own address 172.31.0.3: not encrypted, since node shy has no key; node shy has no prefixes yet that are to be encrypted, and has published no public key",
		"keyless ":       "172.31.0.4 | node keyless has published no public key; the node's own address 172.31.0.4: was encrypted",
	}
	if d := cmp.Diff(wantRows, rows); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
