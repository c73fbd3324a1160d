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
// their tunnel addresses reach each other, and go on doing so while the API server is away. A pod that CNI attaches has
// the policy of the labels that Kubernetes says.
func TestKubernetesStore(t *testing.T) {
	w := testkube.StartWhole(t)
	w.Install(t)
	w.MustDo(t, http.MethodPost, "/apis/projectcalico.org/v3/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "p"}, "spec": map[string]any{"cidr": "10.9.0.0/16", "vxlanMode": "Always"}})
	kubeconfig := w.Kubeconfig(t, testkube.Node, "")
	var spaces []testkit.NS
	var sockets []string
	for i := range 2 {
		name := fmt.Sprintf("host%d", i)
		ns, address := w.AddHost(t, i)
		spaces = append(spaces, ns)
		w.MustDo(t, http.MethodPost, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"rack": "1"}},
			"spec": map[string]any{"podCIDRs": []string{fmt.Sprintf("10.244.%d.0/24", i)}, "podCIDR": fmt.Sprintf("10.244.%d.0/24", i)}})
		w.MustDo(t, http.MethodPatch, "/api/v1/nodes/"+name+"/status", map[string]any{"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": address.String()}}}})
		sockets = append(sockets, filepath.Join(startNodeService(t, ns, "--node-name", name, "--datastore", "kubernetes", "--kubeconfig", kubeconfig, "--health-listen=", "--bgp=false"), "cni.sock"))
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

	kubernetesPods(t, w, sockets)
	kubernetesRequests(t, w, sockets[0])

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

// kubernetesPods attaches a pod on each host, by the plugin, with nothing about the pods but their names.
func kubernetesPods(t *testing.T, w *testkube.Whole, sockets []string) {
	t.Helper()
	const pods = "/api/v1/namespaces/default/pods"
	w.MustDo(t, http.MethodPost, "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", map[string]any{"metadata": map[string]any{"name": "closed"},
		"spec": map[string]any{"podSelector": map[string]any{"matchLabels": map[string]any{"app": "closed"}}, "policyTypes": []string{"Ingress"}}})
	var spaces []testkit.NS
	var addresses []string
	attach := func(host int, name string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "pod "+name+" is made", func() bool { // its service account comes when it comes
			_, err := w.Do(t.Context(), testkube.Admin, http.MethodPost, pods, map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"app": name}},
				"spec": map[string]any{"nodeName": fmt.Sprintf("host%d", host), "containers": []any{map[string]any{"name": "c", "image": "i"}}}})
			return err == nil
		})
		ns := testkit.NewNetns(t)
		var result struct{ IPs []struct{ Address string } }
		if out := runPlugin(t, "ADD", sockets[host], name, ns); json.Unmarshal(out, &result) != nil || len(result.IPs) == 0 {
			t.Fatalf("ADD of %s answered %s", name, out)
		}
		t.Cleanup(func() { runPlugin(t, "DEL", sockets[host], name, ns) })
		ip, _, _ := strings.Cut(result.IPs[0].Address, "/")
		spaces, addresses = append(spaces, ns), append(addresses, ip)
	}
	attach(0, "client")
	attach(1, "open")
	attach(1, "closed")
	ping := func(to int) bool {
		_, err := testkit.Try(t, spaces[0], "ping", "-c1", "-W1", addresses[to])
		return err == nil
	}
	testkit.Eventually(t, 10*time.Second, "a pod on the other host answers", func() bool { return ping(1) })
	for range 5 {
		if ping(2) {
			t.Error("a pod that a policy closes, by its labels in Kubernetes, answers")
		}
	}
	var pod struct {
		Metadata struct{ Annotations map[string]string }
	}
	annotation := func() string {
		if err := json.Unmarshal(w.MustDo(t, http.MethodGet, pods+"/open", nil), &pod); err != nil {
			t.Fatal(err)
		}
		return pod.Metadata.Annotations["cni.projectcalico.org/podIPs"]
	}
	if got := annotation(); got != addresses[1] {
		t.Errorf("the pod's annotation has address %q, CNI gave it %s", got, addresses[1])
	}
	runPlugin(t, "DEL", sockets[1], "open", spaces[1])
	if got := annotation(); got != "" {
		t.Errorf("after DEL the pod's annotation still has address %q", got)
	}
}

// runPlugin runs weft-cni as a container runtime does, for pod default/name, and returns what it prints.
func runPlugin(t *testing.T, command, socket, name string, ns testkit.NS) []byte {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "weft-cni"))
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + name + "0123456789", "CNI_NETNS=" + ns.Path, "CNI_IFNAME=eth0", "CNI_PATH=/",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + name}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"weft","type":"weft-cni","socket":%q}`, socket))
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("CNI %s of %s: %v: %s", command, name, err, out)
	}
	return out
}

// startNodeService starts weft node in a namespace, with directories of its own, until the test ends, and returns that
// of its sockets.
func startNodeService(t *testing.T, ns testkit.NS, args ...string) string {
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
	return filepath.Join(dir, "run")
}
