package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
)

// spare are rights that this test does not see used, with the reason why they are needed.
var spare = map[string]string{
	"update ipamhandles.projectcalico.org":                  "a pod that has an address already gets one of another block, as when a family is added",
	"watch clusternetworkpolicies.policy.networking.k8s.io": "the kind is not installed here",
}

// rights compares what the node service has asked the API server for until now with what its roles allow: nothing was
// refused, and nothing is allowed that is not used.
func rights(t *testing.T, r *rig, web []pod) {
	r.useRights()
	asked := map[string]int{}
	refused, early, count := 0, 0, 0
	for _, a := range r.Calls(t) {
		if a.User != kube.ServiceAccount {
			continue
		}
		count++
		switch {
		case a.Code != 401 && a.Code != 403:
		case r.Starting(a.At):
			early++
		default:
			refused++
			t.Errorf("refused: %s %s: %s", a.Verb, a.URI, a.Reason)
		}
		if a.Resource != "" {
			asked[a.Verb+" "+a.Resource+"."+a.Group]++
		}
	}
	t.Logf("%d of %d requests were refused, and %d by an API server that was not ready yet", refused, count, early)
	for _, k := range slices.Sorted(maps.Keys(asked)) {
		t.Logf("%6d %s", asked[k], k)
	}
	granted := r.granted()
	for _, k := range slices.Sorted(maps.Keys(granted)) {
		switch {
		case asked[k] == 0 && spare[k] == "":
			t.Errorf("allowed and not used: %s", k)
		case asked[k] > 0 && spare[k] != "":
			t.Errorf("used after all: %s", k)
		}
	}
	for k := range spare {
		if !granted[k] {
			t.Errorf("not allowed, although it is needed (%s): %s", spare[k], k)
		}
	}
	if count < 500 || len(granted) < 50 {
		t.Errorf("%d requests and %d rights are too few to say anything", count, len(granted))
	}
}

// granted is what the roles allow: "verb resource.group".
func (r *rig) granted() map[string]bool {
	r.t.Helper()
	out := map[string]bool{}
	for _, args := range [][]string{{"get", "clusterrole", "weft-node"}, {"-n", "kube-system", "get", "role", "weft-node"}} {
		var role struct {
			Rules []struct{ APIGroups, Resources, Verbs []string }
		}
		if err := json.Unmarshal([]byte(r.Kubectl(r.t, append(args, "-o", "json")...)), &role); err != nil {
			r.t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, g := range rule.APIGroups {
				for _, res := range rule.Resources {
					for _, v := range rule.Verbs {
						if strings.Contains(g+res+v, "*") {
							r.t.Errorf("the role has a rule for everything: %v", rule)
						}
						out[v+" "+res+"."+g] = true
					}
				}
			}
		}
	}
	return out
}

const things = `
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: asked}
spec: {node: node1, classes: [Agent], updatePeriodSeconds: 1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: passing}
spec: {cidr: 10.243.0.0/28, blockSize: 30, vxlanMode: Always}
---
apiVersion: v1
kind: Pod
metadata: {name: passing, annotations: {cni.projectcalico.org/ipv4pools: '["passing"]'}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/testpod:1", imagePullPolicy: Never, args: [serve, ":7000"]}]
`

// useRights has the node service do what it does rarely: report when it is asked, give back a block whose pool is gone, say
// since when the keys are in use that are to rotate.
func (r *rig) useRights() {
	r.t.Helper()
	r.Apply(r.t, things)
	r.Kubectl(r.t, "wait", "pod/passing", "--for=condition=Ready", "--timeout=60s")
	r.Kubectl(r.t, "delete", "ippool/passing", "--wait=false")
	r.Kubectl(r.t, "delete", "pod/passing")
	r.Kubectl(r.t, "patch", "felixconfiguration", "default", "--type=merge", "-p", `{"spec":{"wireguardEnabled":true,"wireguardKeyRotationPeriod":"24h"}}`)
	for _, what := range []struct {
		name string
		args []string
		is   func(string) bool
	}{
		{"the report", []string{"get", "caliconodestatus/asked", "-o", "jsonpath={.status.lastUpdated}"}, func(s string) bool { return s != "" }},
		{"since when the keys are in use", []string{"get", "felixconfiguration/default", "-o", "jsonpath={.metadata.annotations}"}, func(s string) bool { return strings.Contains(s, "key-rotated") }},
		{"no block of the pool that is gone", []string{"get", "ipamblocks"}, func(s string) bool { return !strings.Contains(s, "10.243.0") }},
	} {
		testkit.Eventually(r.t, 60*time.Second, what.name, func() bool {
			time.Sleep(200 * time.Millisecond)
			out, err := r.TryKubectl(r.t, "", what.args...)
			return err == nil && what.is(out)
		})
	}
}
