package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
)

const nodesPath = "/apis/projectcalico.org/v3/nodes/"

// Two node services with a Kubernetes API server as their store: what Kubernetes says of the hosts is in their records,
// their tunnel addresses reach each other, and go on doing so while the API server is away.
func TestKubernetesStore(t *testing.T) {
	w := testkube.StartWhole(t)
	w.Install(t)
	w.MustDo(t, http.MethodPost, "/apis/projectcalico.org/v3/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "p"}, "spec": map[string]any{"cidr": "10.9.0.0/16", "vxlanMode": "Always"}})
	kubeconfig := w.Kubeconfig(t, testkube.Node, "")
	var spaces []testkit.NS
	for i := range 2 {
		name := fmt.Sprintf("host%d", i)
		ns, address := w.AddHost(t, i)
		spaces = append(spaces, ns)
		w.MustDo(t, http.MethodPost, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"rack": "1"}},
			"spec": map[string]any{"podCIDRs": []string{fmt.Sprintf("10.244.%d.0/24", i)}, "podCIDR": fmt.Sprintf("10.244.%d.0/24", i)}})
		w.MustDo(t, http.MethodPatch, "/api/v1/nodes/"+name+"/status", map[string]any{"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": address.String()}}}})
		startNodeService(t, ns, "--node-name", name, "--datastore", "kubernetes", "--kubeconfig", kubeconfig, "--health-listen=", "--bgp=false")
	}
	record := func(name string) (n v3.Node) {
		b, err := w.Do(t.Context(), testkube.Admin, http.MethodGet, nodesPath+name, nil)
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		var refused *testkube.StatusError
		if err != nil && (!errors.As(err, &refused) || refused.Code != http.StatusNotFound) {
			t.Fatal(err)
		}
		return n
	}
	tunnels := make([]string, 2)
	for i := range 2 {
		name := fmt.Sprintf("host%d", i)
		var n v3.Node
		took := testkit.Eventually(t, 60*time.Second, name+" publishes its record", func() bool {
			n = record(name)
			tunnels[i] = n.Spec.IPv4VXLANTunnelAddr
			return tunnels[i] != "" && n.Status.Tunnels != nil
		})
		t.Logf("%s has published its record after %v", name, took.Round(10*time.Millisecond))
		if n.Labels["rack"] != "1" || len(n.OwnerReferences) != 1 || n.OwnerReferences[0].UID == "" || len(n.Status.PodCIDRs) != 1 || len(n.Spec.Addresses) == 0 {
			t.Errorf("the record of %s has of Kubernetes' Node: labels %v, owners %v, pod ranges %v, addresses %v", name, n.Labels, n.OwnerReferences, n.Status.PodCIDRs, n.Spec.Addresses)
		}
	}
	reaches := func() bool {
		_, err := testkit.Try(t, spaces[0], "ping", "-c1", "-W1", "-I", tunnels[0], tunnels[1])
		return err == nil
	}
	testkit.Eventually(t, 30*time.Second, "the tunnel's other end answers", reaches)

	w.MustDo(t, http.MethodPatch, "/api/v1/nodes/host0", map[string]any{"metadata": map[string]any{"labels": map[string]any{"rack": "2"}}})
	took := testkit.Eventually(t, 20*time.Second, "a label follows", func() bool { n := record("host0"); return n.Labels["rack"] == "2" })
	t.Logf("a label of the Node is in the record after %v", took.Round(time.Millisecond))

	w.StopAPI()
	lost := 0
	for range 10 {
		if !reaches() {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of 10 packets were lost while the API server was away", lost)
	}
	if err := w.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.MustDo(t, http.MethodPatch, "/apis/projectcalico.org/v3/ippools/p", map[string]any{"spec": map[string]any{"vxlanMode": "Never"}})
	took = testkit.Eventually(t, 60*time.Second, "a change after the API server came back", func() bool {
		out, err := testkit.Try(t, spaces[0], "ip", "-o", "link", "show", "type", "vxlan")
		return err == nil && strings.TrimSpace(out) == ""
	})
	t.Logf("a change made once the API server is back is in the kernel after %v", took.Round(10*time.Millisecond))
}

// startNodeService starts weft node in a namespace, with directories of its own, until the test ends.
func startNodeService(t *testing.T, ns testkit.NS, args ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-k-") // a test's own is too long for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--net=" + ns.Path, filepath.Join(binaries, "weft"), "node", "--run-dir", filepath.Join(dir, "run"), "--data-dir", filepath.Join(dir, "data")}, args...)
	cmd := exec.Command("nsenter", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("weft node ends: %v", err)
		}
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("weft node %v:\n%s", args, b[max(0, len(b)-6000):])
		}
		_ = log.Close()
		_ = os.RemoveAll(dir)
	})
}
