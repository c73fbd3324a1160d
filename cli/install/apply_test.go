package install

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
	store "weft/node/datastore/kube"
)

func TestMain(m *testing.M) { code := m.Run(); kube.StopShared(); os.Exit(code) }

// said is what an installation told.
type said []string

func (s *said) tell(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }

func (s *said) has(text string) bool {
	return slices.ContainsFunc(*s, func(line string) bool { return strings.Contains(line, text) })
}

// on is an installation on a real API server, as its administrator.
func on(t *testing.T, c *kube.Cluster) (*Cluster, *said) {
	t.Helper()
	client, base, err := store.HTTPClient(store.Config{Kubeconfig: c.Kubeconfig(t, kube.Admin, "")})
	if err != nil {
		t.Fatal(err)
	}
	s := &said{}
	return &Cluster{Client: client, Base: base, Say: s.tell}, s
}

func named(t *testing.T, all []Object, kind, name string) Object {
	t.Helper()
	i := slices.IndexFunc(all, func(o Object) bool { return o.Kind() == kind && o.Name() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s in %d manifests", kind, name, len(all))
	}
	return all[i]
}

// fetch reads a resource as the API server has it.
func fetch(t *testing.T, c *kube.Cluster, o Object) Object {
	t.Helper()
	var now Object
	if err := json.Unmarshal(c.MustDo(t, http.MethodGet, o.path(), nil), &now); err != nil {
		t.Fatal(err)
	}
	return now
}

// A DaemonSet whose pods only people replace is installed once its pods are available, of whatever release, and the old
// ones are told of; one that is rolled out waits for the new ones. Nobody runs DaemonSets here: the test writes the status.
func TestOnDeleteIsNotWaitedFor(t *testing.T) {
	server := kube.Shared(t)
	_, rest, err := Manifests(Options{Overlay: "vxlan"})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name    string
		updated int
		ok      bool
		old     bool
	}{{"weft-keeper", 3, true, false}, {"weft-keeper", 1, true, true}, {"weft-node", 1, false, false}, {"weft-node", 3, true, false}} {
		c, said := on(t, server)
		o := named(t, rest, "DaemonSet", x.name)
		if err := c.apply(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		generation := fetch(t, server, o).at("metadata", "generation")
		server.MustDo(t, http.MethodPatch, o.path()+"/status", map[string]any{"status": map[string]any{"observedGeneration": generation,
			"desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberAvailable": 3, "numberReady": 3, "updatedNumberScheduled": x.updated}})
		limit := testkit.Patient(20 * time.Second)
		if !x.ok {
			limit = time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err := c.await(ctx, o, "not ready", c.rolledOut)
		cancel()
		if (err == nil) != x.ok || said.has("old release on 2 of 3 nodes") != x.old || said.has("k8s-app=weft-keeper --field-selector") != x.old {
			t.Errorf("%s, %d of 3 updated: %v, %q", x.name, x.updated, err, *said)
		}
	}
}

// Another release under the same name of the image changes the templates of the pods that are rolled out, and so their
// generation; the same one again changes nothing, and the keeper's is never changed.
func TestAnotherReleaseRollsOut(t *testing.T) {
	server := kube.Start(t)
	c, _ := on(t, server)
	generations := func(release string) map[string]any {
		_, rest, err := Manifests(Options{Overlay: "vxlan", Release: release})
		if err != nil {
			t.Fatal(err)
		}
		is := map[string]any{}
		for _, o := range rest {
			if k := o.Kind(); k == "DaemonSet" || k == "Deployment" {
				if err := c.apply(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				is[o.Name()] = fetch(t, server, o).at("metadata", "generation")
			}
		}
		return is
	}
	for _, x := range []struct {
		release string
		rolled  float64
	}{{"v1", 1}, {"v1", 1}, {"v2", 2}} {
		is := generations(x.release)
		if len(is) != 3 || is["weft-node"] != x.rolled || is["weft-controllers"] != x.rolled || is["weft-keeper"] != 1.0 {
			t.Errorf("release %s: generations %v, want %v and 1 of weft-keeper", x.release, is, x.rolled)
		}
	}
}

// The pool of a cluster keeps its CIDR where none is asked for, and another one is refused.
func TestPoolIsKept(t *testing.T) {
	server := kube.Start(t)
	c, _ := on(t, server)
	check := func(pool, want, refused string) {
		t.Helper()
		o, err := c.KeepPool(t.Context(), Options{Overlay: "vxlan", Pool: pool})
		if refused != "" {
			if err == nil || !strings.Contains(err.Error(), refused) {
				t.Errorf("--pool %q: %v, want %q", pool, err, refused)
			}
			return
		}
		if err != nil || o.Pool != want {
			t.Errorf("--pool %q: %q, %v, want %q", pool, o.Pool, err, want)
		}
	}
	check("", "", "")
	check("10.20.0.0/16", "10.20.0.0/16", "")
	apply := func(o Options) error {
		_, rest, err := Manifests(o)
		if err != nil {
			return err
		}
		return c.apply(t.Context(), named(t, rest, "IPPool", "default-ipv4-ippool"))
	}
	if err := apply(Options{Overlay: "vxlan", Pool: "10.20.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	check("", "10.20.0.0/16", "")
	check("10.20.0.0/16", "10.20.0.0/16", "")
	check("10.21.0.0/16", "", "IPPool default-ipv4-ippool has 10.20.0.0/16, and a pool keeps its CIDR")
	if err := apply(Options{Overlay: "vxlan"}); err == nil {
		t.Error("the API server lets a pool change its CIDR: there is nothing to refuse")
	}
}
