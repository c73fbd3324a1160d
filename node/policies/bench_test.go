package policies

import (
	"fmt"
	"runtime"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/policy"
)

// stored is the record of a pod of another node, as the store keeps it.
func stored(t testing.TB, n int) (datastore.Key, []byte) {
	w := &v3.WorkloadEndpoint{}
	node, pod := fmt.Sprintf("node-%d", n%5000), fmt.Sprintf("app-%d-5d8f7c9b4-x%dz", n%300, n)
	w.Namespace, w.Name = fmt.Sprintf("team-%d", n%100), fmt.Sprintf("node--%d-k8s-app--%d--5d8f7c9b4--x%dz-eth0", n%5000, n%300, n)
	w.Labels = map[string]string{"app": fmt.Sprintf("app-%d", n%300), "tier": fmt.Sprint("t", n%20), "pod-template-hash": "5d8f7c9b4", "version": fmt.Sprint("v", n%7),
		"projectcalico.org/namespace": w.Namespace, "projectcalico.org/orchestrator": "k8s", "projectcalico.org/serviceaccount": "default"}
	w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, Pod: pod, Endpoint: "eth0", ContainerID: fmt.Sprintf("%064d", n), ServiceAccountName: "default",
		IPNetworks: []string{fmt.Sprintf("10.%d.%d.%d/32", n>>16, n>>8&255, n&255)}, InterfaceName: fmt.Sprintf("weft%011x", n), MAC: "02:00:00:00:00:01",
		Profiles: []string{"kns." + w.Namespace, "ksa." + w.Namespace + ".default"}}
	data, err := v3.Encode(w)
	if err != nil {
		t.Fatal(err)
	}
	return datastore.KeyOf(w), data
}

// BenchmarkRecord is what one record of another node's pod costs: to decode it, and to pass it on.
func BenchmarkRecord(b *testing.B) {
	b.Run("decode", func(b *testing.B) {
		_, data := stored(b, 7)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v3.DecodeStored(v3.KindWorkloadEndpoint, data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("feed", func(b *testing.B) {
		k, data := stored(b, 7)
		o, err := v3.DecodeStored(v3.KindWorkloadEndpoint, data)
		if err != nil {
			b.Fatal(err)
		}
		f := NewFeeder("n1", policy.NewCompiler("n1"), true)
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Change(datastore.Change{Key: k, Object: o}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMemory is the heap that records of 100,000 pods of other nodes take, without the key and
// revision of each that a follower holds.
func BenchmarkMemory(b *testing.B) {
	const count = 100_000
	for b.Loop() {
		f := NewFeeder("n1", policy.NewCompiler("n1"), true)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for n := range count {
			k, data := stored(b, n)
			o, err := v3.DecodeStored(v3.KindWorkloadEndpoint, data)
			if err == nil {
				err = f.Change(datastore.Change{Key: k, Object: o})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/count, "B/pod")
		runtime.KeepAlive(f)
	}
}
