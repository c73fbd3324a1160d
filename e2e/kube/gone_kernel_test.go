package kube

import (
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
)

const hasty = `
apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {leakGracePeriod: 5s, reconcilerPeriod: 1s}}}
`

// gone deletes a node from Kubernetes, whose node service goes on until Kubernetes ends its pod: what the store has of
// it goes, what it has of the other stays.
func gone(t *testing.T, r *rig, web []pod) {
	r.Kubectl(t, "-n", "kube-system", "rollout", "status", "deployment/weft-controllers", "--timeout=120s")
	stays, goes := web[0].node, web[2].node
	of := func(node string) string {
		out := r.Kubectl(t, "get", "nodes.projectcalico.org,blockaffinities,ipamblocks", "-o",
			`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.spec.node} {.spec.affinity}{"\n"}{end}`)
		var has []string
		for l := range strings.Lines(out) {
			f := strings.Fields(l)
			if strings.HasSuffix(f[0], "/"+node) || len(f) > 1 && (f[1] == node || f[1] == "host:"+node) {
				has = append(has, f[0])
			}
		}
		return strings.Join(has, " ")
	}
	kept, before := of(stays), of(goes)
	if strings.Count(before, "IPAMBlock/") == 0 || strings.Count(before, "BlockAffinity/") == 0 || strings.Count(before, "Node/") != 1 {
		t.Fatalf("the store has of node %s %q: the test tests nothing", goes, before)
	}
	r.Apply(t, hasty)
	r.Kubectl(t, "delete", "node", goes)
	took := testkit.Eventually(t, 120*time.Second, "nothing is left of node "+goes, func() bool {
		time.Sleep(500 * time.Millisecond)
		return of(goes) == ""
	})
	t.Logf("of node %s the store had %s: gone %v after kubectl delete node, with a grace of 5 s", goes, before, took.Round(100*time.Millisecond))
	testkit.Eventually(t, 60*time.Second, "the pods of the web are ready on other nodes", func() bool {
		time.Sleep(500 * time.Millisecond)
		ready := 0
		for _, p := range r.pods("app=web") {
			if p.ready && p.node != goes {
				ready++
			}
		}
		return ready == len(web)
	})
	for _, what := range strings.Fields(kept) {
		if !strings.Contains(of(stays), what) {
			t.Errorf("of node %s, which stays, %s is gone", stays, what)
		}
	}
}
