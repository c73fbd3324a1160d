package kube

import (
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	v3 "weft/api/v3"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore"
	"weft/node/datastore/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testkube.StopShared()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// open returns a client of the API server as a role, at url or where it is.
func open(t testing.TB, c *testkube.Cluster, role, url string) *Store {
	t.Helper()
	return openWith(t, Config{Kubeconfig: c.Kubeconfig(t, role, url)})
}

func openWith(t testing.TB, cfg Config) *Store {
	t.Helper()
	cfg.Logger = storetest.Logger(t)
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestContract(t *testing.T) {
	s := open(t, testkube.Shared(t), testkube.Admin, "")
	storetest.Run(t, func(testing.TB) datastore.Store { return s })
}

func TestResume(t *testing.T) {
	c := testkube.Start(t)
	p := storetest.NewProxy(t, "tcp", "127.0.0.1:0", strings.TrimPrefix(c.URL, "https://"))
	storetest.Resume(t, storetest.Wire{Writer: open(t, c, testkube.Admin, ""),
		Reader: open(t, c, testkube.Node, "https://"+p.Address()), Proxy: p}, 3000)
}

// A node service's role reads all that a node follows.
func TestFollowEverything(t *testing.T) {
	c := testkube.Shared(t)
	var kinds []string
	for _, k := range v3.Kinds() {
		kinds = append(kinds, k.Kind)
	}
	sink := storetest.NewRecorder()
	begin := time.Now()
	storetest.Follow(t, open(t, c, testkube.Node, ""), sink, kinds...)
	sink.Wait(t, "in sync", 20*time.Second, (*storetest.Recorder).InSync)
	t.Logf("%d kinds in sync after %v, %d objects", len(kinds), time.Since(begin).Round(time.Millisecond), len(sink.Changes))
	seen := map[string]int{}
	for _, ch := range sink.Changes {
		seen[ch.Key.Kind]++
		if ch.Err != nil {
			t.Errorf("%s: %v", ch.Key, ch.Err)
		}
	}
	if seen[v3.KindNamespace] < 4 || seen[v3.KindService] < 1 || seen[v3.KindEndpointSlice] < 1 {
		t.Errorf("of what every cluster has there came %v", seen)
	}
}
