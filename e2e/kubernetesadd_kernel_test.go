package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
)

// kubernetesRequests counts what ADDs ask of the API server, and has pools made just before an ADD that names them.
func kubernetesRequests(t *testing.T, w *testkube.Whole, socket string) {
	t.Helper()
	const pods = "/api/v1/namespaces/default/pods"
	make1 := func(name string, annotations map[string]any) {
		t.Helper()
		w.MustDo(t, http.MethodPost, pods, map[string]any{"metadata": map[string]any{"name": name, "annotations": annotations},
			"spec": map[string]any{"nodeName": "host0", "containers": []any{map[string]any{"name": "c", "image": "i"}}}})
	}
	add := func(name string) string {
		t.Helper()
		ns := testkit.NewNetns(t)
		var result struct{ IPs []struct{ Address string } }
		if out := runPlugin(t, "ADD", socket, name, ns); json.Unmarshal(out, &result) != nil || len(result.IPs) != 1 {
			t.Fatalf("ADD of %s answered %s", name, out)
		}
		t.Cleanup(func() { runPlugin(t, "DEL", socket, name, ns) })
		return result.IPs[0].Address
	}
	asked := func(from int) map[string]int {
		count := map[string]int{}
		for _, c := range w.Calls(t)[from:] {
			if c.Verb != "watch" {
				count[c.Verb+" "+c.Resource]++
			}
		}
		return count
	}
	atRest := func() int {
		t.Helper()
		var n int
		testkit.Eventually(t, 60*time.Second, "the node services ask nothing", func() bool {
			n = len(w.Calls(t))
			time.Sleep(500 * time.Millisecond)
			return len(w.Calls(t)) == n
		})
		return n
	}

	const adds = 5
	for i := range adds {
		make1(fmt.Sprintf("counted%d", i), nil)
	}
	from := atRest()
	for i := range adds {
		add(fmt.Sprintf("counted%d", i))
	}
	atRest()
	want := map[string]int{"get pods": adds, "create ipamhandles": adds, "update ipamblocks": adds, "patch pods/status": adds}
	if got := asked(from); !maps.Equal(got, want) {
		t.Errorf("%d ADDs asked of the API server %v, want %v", adds, got, want)
	}

	// Only the outcome is checked here: whether the watch or a list brought a pool is a matter of timing, and is logged. That an
	// ADD lists the pools when it has to is what TestFreshPools of node/ipam proves.
	const pools = 5
	listed := 0
	for i := range pools {
		name := fmt.Sprintf("late%d", i)
		make1(name, map[string]any{"cni.projectcalico.org/ipv4pools": fmt.Sprintf("[%q]", name)})
		from := atRest()
		w.MustDo(t, http.MethodPost, "/apis/projectcalico.org/v3/ippools", map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"cidr": fmt.Sprintf("10.%d.0.0/24", 20+i)}})
		if got := add(name); !strings.HasPrefix(got, fmt.Sprintf("10.%d.0.", 20+i)) {
			t.Errorf("a pod that asks for pool %s, made just before, has address %s", name, got)
		}
		if got := asked(from); slices.Contains(slices.Collect(maps.Keys(got)), "list ippools") {
			listed++
		}
	}
	t.Logf("%d of %d ADDs that name a pool made just before listed the pools", listed, pools)
}
