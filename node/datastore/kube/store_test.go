package kube

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
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
		switch k.Kind {
		case v3.KindBlockAffinity, v3.KindIPAMHandle, v3.KindClusterInformation, v3.KindKubeControllersConfiguration: // read one by one, or not by nodes
		default:
			kinds = append(kinds, k.Kind)
		}
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

// labels is what a sink has by what it was told: the label of each Node.
func labels(changes []datastore.Change) map[string]string {
	out := map[string]string{}
	for _, c := range changes {
		if c.Object == nil {
			delete(out, c.Key.Name)
		} else {
			out[c.Key.Name] = c.Object.GetLabels()["i"]
		}
	}
	return out
}

// The API server is restarted, and later its etcd is put back to an earlier state: a follower has what is there each
// time, what was taken back included.
func TestFollowOverRestartAndSetBack(t *testing.T) {
	c := testkube.Start(t)
	s := open(t, c, testkube.Admin, "")
	sink := storetest.NewRecorder()
	storetest.Follow(t, open(t, c, testkube.Node, ""), sink, v3.KindNode, v3.KindIPPool)
	sink.Wait(t, "first snapshot", 20*time.Second, (*storetest.Recorder).InSync)
	want := map[string]string{}
	set := func(name, i string) {
		t.Helper()
		o := storetest.Node(name, map[string]string{"i": i})
		_, err := s.Create(t.Context(), o)
		if errors.Is(err, datastore.ErrAlreadyExists) {
			_, err = s.Update(t.Context(), o)
		}
		if err != nil {
			t.Fatal(err)
		}
		want[name] = i
	}
	same := func(what string) {
		t.Helper()
		begin := time.Now()
		sink.Wait(t, what, 40*time.Second, func(r *storetest.Recorder) bool { return r.InSync() && maps.Equal(labels(r.Changes), want) })
		t.Logf("%s: after %v, %d changes in all", what, time.Since(begin).Round(time.Millisecond), len(sink.Changes))
	}
	for i := range 20 {
		set(fmt.Sprintf("n%d", i), "1")
	}
	same("created")
	before := len(sink.Changes)
	c.Backup(t)
	same("restarted")
	if n := len(sink.Changes); n != before {
		t.Errorf("a restart brought %d changes, want 0", n-before)
	}
	old := maps.Clone(want)
	for i := range 10 {
		set(fmt.Sprintf("n%d", i), "2")
		set(fmt.Sprintf("m%d", i), "2")
	}
	if err := s.Delete(t.Context(), datastore.Key{Kind: v3.KindNode, Name: "n15"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	delete(want, "n15")
	same("changed")
	c.Restore(t)
	want = old
	same("set back")
	set("n3", "3")
	same("changed after that")
}

// writeKubeconfig writes a kubeconfig file that leads nowhere.
func writeKubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],
clusters: [{name: a, cluster: {server: "https://192.0.2.1:6443"}}], users: [{name: a, user: {token: swordfish}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
