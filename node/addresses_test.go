package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"weft/internal/kernel"
	"weft/model"
	"weft/node/cni"
)

// TestInUseIsALookup: IPAM asks about every free address of a block, under a lock, for each pod.
func TestInUseIsALookup(t *testing.T) {
	dir := t.TempDir()
	const pods = 100
	for i := range pods {
		pod, container := fmt.Sprintf("p%d", i), fmt.Sprintf("c%d", i)
		doc, err := json.Marshal(map[string]any{"network": "weft", "containerID": container, "ifName": "eth0",
			"namespace": "default", "pod": pod, "mtu": 1450, "mac": "02:00:00:00:00:01", "handle": "weft." + container,
			"record": "n1-k8s-" + pod + "-eth0", "state": "ready", "boot": "b", "addresses": []string{fmt.Sprintf("10.244.1.%d", i)},
			"device": kernel.PodDeviceName(model.EndpointID{Namespace: "default", Pod: pod, Interface: "eth0"})})
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(doc)
		line := fmt.Sprintf(`{"checksum":%q,"attachment":%s}`+"\n", "sha256:"+hex.EncodeToString(sum[:]), doc)
		if err := os.WriteFile(filepath.Join(dir, container+"@eth0.json"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registry, err := cni.OpenRegistry(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	c := newTestCluster()
	feed(t, c, manifests)
	s := &service{registry: registry, cluster: c}
	for addr, want := range map[string]bool{"10.244.1.0": true, "10.244.1.99": true, "10.244.1.100": false, "10.244.0.1": true} {
		if got := s.inUse(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: in use %v, want %v", addr, got, want)
		}
	}
	free := netip.MustParseAddr("10.244.1.100")
	if n := testing.AllocsPerRun(100, func() { s.inUse(free) }); n != 0 {
		t.Errorf("a question about one address beside %d pods allocates %.0f times, want 0", pods, n)
	}
}
