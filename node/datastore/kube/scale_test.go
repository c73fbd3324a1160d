package kube

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

// counter is a Sink that keeps nothing.
type counter struct {
	mu      sync.Mutex
	changes int
	synced  chan struct{}
}

func (c *counter) OnState(s datastore.State, _ error) {
	if s == datastore.StateInSync {
		c.mu.Lock()
		defer c.mu.Unlock()
		select {
		case <-c.synced:
		default:
			close(c.synced)
		}
	}
}

func (c *counter) OnChanges(ch []datastore.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes += len(ch)
}

// fillPods writes pods straight into etcd.
func fillPods(t *testing.T, c *testkube.Cluster, n int) {
	t.Helper()
	f := c.NewFiller(t)
	for i := range n {
		ip := fmt.Sprintf("10.%d.%d.%d", 64+i/65536, i/256%256, i%256)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("app-%d-6d4b75cb6d-%06d", i%200, i), Namespace: "default", UID: uuid.NewUUID(), CreationTimestamp: metav1.Now(),
			Labels: map[string]string{"app": fmt.Sprintf("app-%d", i%200), "tier": []string{"fe", "be", "db"}[i%3], "pod-template-hash": "6d4b75cb6d"}},
			Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%05d", i%1000), ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c", Image: "registry.example/app:v1",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}}
		f.Core("pods/default/"+p.Name, "v1", "Pod", p)
	}
	f.Wait(t)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What following 50,000 pods keeps of them, beside what its sink does: their names and revisions.
func TestMemoryOfManyPods(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 50,000 pods")
	}
	const n = 50000
	c := testkube.Start(t)
	begin := time.Now()
	fillPods(t, c, n)
	t.Logf("%d pods written in %v", n, time.Since(begin).Round(time.Millisecond))
	s := openWith(t, Config{Kubeconfig: c.Kubeconfig(t, testkube.Node, ""), NodeName: "node-00001", RequestTimeout: time.Minute})
	before := heap()
	sink := &counter{synced: make(chan struct{})}
	begin = time.Now()
	storetest.Follow(t, s, sink, v3.KindWorkloadEndpoint)
	select {
	case <-sink.synced:
	case <-time.After(2 * time.Minute):
		t.Fatal("not in sync within 2 min")
	}
	took := time.Since(begin)
	kept := heap() - before
	if sink.changes != n {
		t.Errorf("%d of %d pods came", sink.changes, n)
	}
	t.Logf("%d pods followed after %v; %.1f MB kept, %d bytes a pod", n, took.Round(time.Millisecond), float64(kept)/1e6, kept/n)
	if kept > 40<<20 {
		t.Errorf("%d bytes a pod are kept, want what a name and a revision take", kept/n)
	}
}
