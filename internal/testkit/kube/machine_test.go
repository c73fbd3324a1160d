package kube

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
)

const hostPods = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: host, namespace: default}
spec:
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: localhost/testpod:1
        imagePullPolicy: Never
        args: [serve, ":7000"]
        readinessProbe: {httpGet: {port: 7000, host: 127.0.0.1}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: host, namespace: default}
spec: {selector: {app: host}, clusterIP: 10.96.7.7, ports: [{name: h, port: 80, targetPort: 7000}]}
`

// A cluster of two machines runs pods, before any pod network is there: those of the hosts' own network. What the
// service proxy serves they reach, and each other; when the test ends nothing is left.
func TestMachines(t *testing.T) {
	testkit.LeakCheck(t)
	begin := time.Now()
	w := StartWhole(t)
	t.Logf("control plane after %v", time.Since(begin).Round(time.Millisecond))
	for range 2 {
		w.AddMachine(t, "nftables", Image(t, "testpod"))
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.Logs(t)
		}
	})
	w.Apply(t, hostPods)
	var pods []string
	testkit.Eventually(t, 60*time.Second, "a pod is ready on each machine", func() bool {
		time.Sleep(200 * time.Millisecond)
		out, _ := w.TryKubectl(t, "", "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		pods = nil
		for l := range strings.Lines(out) {
			if name, ready, _ := strings.Cut(strings.TrimSpace(l), " "); ready == "True" {
				pods = append(pods, name)
			}
		}
		return len(pods) == 2
	})
	t.Logf("pods of hosts ready after %v", time.Since(begin).Round(time.Millisecond))
	var c struct{ Sent, Answered int }
	out := w.Kubectl(t, "exec", pods[0], "--", "/testpod", "udp", w.Machines[1].Address.String()+":7000", "100", "2ms")
	if err := json.Unmarshal([]byte(out), &c); err != nil || c.Sent != 100 || c.Answered != 100 {
		t.Errorf("packets between the machines: %s (%v)", out, err)
	}
	by := map[string]int{}
	out = w.Kubectl(t, "exec", pods[0], "--", "/testpod", "http", "http://10.96.7.7/", "40")
	if err := json.Unmarshal([]byte(out), &by); err != nil || by["node1"]+by["node2"] != 40 || by["node1"] == 0 || by["node2"] == 0 {
		t.Errorf("the service was answered by %s (%v)", out, err)
	}
}
