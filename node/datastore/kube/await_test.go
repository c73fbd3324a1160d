package kube

import (
	"net/http"
	"slices"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	testkube "weft/internal/testkit/kube"
	"weft/node/datastore/storetest"
)

// A kind that is not installed is followed as soon as it is, by the rights of the node service, and is not asked for
// meanwhile.
func TestKindThatComesLater(t *testing.T) {
	c := testkube.Start(t)
	s := openWith(t, Config{Kubeconfig: c.Kubeconfig(t, testkube.Node, "")})
	sink := storetest.NewRecorder()
	storetest.Follow(t, s, sink, v3.KindClusterNetworkPolicy)
	sink.Wait(t, "in sync without the kind", 20*time.Second, func(r *storetest.Recorder) bool { return r.LastState() == "in-sync" })
	kind, _ := v3.LookupKind(v3.KindClusterNetworkPolicy)
	group, version := kind.GroupVersion.Group, kind.GroupVersion.Version
	lists := func() (n int) {
		for _, call := range c.Calls(t) {
			if call.Verb == "list" && call.Resource == "clusternetworkpolicies" {
				n++
			}
		}
		return n
	}
	watched := func() bool {
		for _, call := range c.Calls(t) {
			if call.Verb == "watch" && call.Resource == "customresourcedefinitions" {
				if call.Code != http.StatusOK {
					t.Fatalf("the node service's watch of the definition was answered %d", call.Code)
				}
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(20 * time.Second); !watched(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the definition is not watched")
		}
	}
	before := lists()
	time.Sleep(2 * time.Second)
	if n := lists(); n != before {
		t.Errorf("%d lists of a kind that is not there within 2 s", n-before)
	}
	// An API server that begins anew meanwhile is asked again soon.
	c.StopAPI()
	stopped := time.Now()
	if err := c.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := func() bool {
		return slices.ContainsFunc(c.Calls(t), func(call testkube.Call) bool {
			return call.Verb == "watch" && call.Resource == "customresourcedefinitions" && call.At.After(stopped)
		})
	}
	testkit.Eventually(t, testkit.Patient(30*time.Second), "the definition is watched by the API server that began anew", again)
	begin := time.Now()
	c.MustDo(t, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", map[string]any{
		"metadata": map[string]any{"name": "clusternetworkpolicies." + group, "annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, for a test"}},
		"spec": map[string]any{"group": group, "scope": "Cluster", "names": map[string]any{"kind": kind.Kind, "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy"},
			"versions": []any{map[string]any{"name": version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}})
	for path := "/apis/" + group + "/" + version + "/clusternetworkpolicies"; ; time.Sleep(50 * time.Millisecond) {
		_, err := c.Do(t.Context(), testkube.Admin, http.MethodPost, path, map[string]any{"apiVersion": group + "/" + version, "kind": kind.Kind, "metadata": map[string]any{"name": "p"},
			"spec": map[string]any{"tier": "Admin", "priority": 1, "subject": map[string]any{"namespaces": map[string]any{}}}})
		if err == nil {
			break
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatal(err)
		}
	}
	sink.Wait(t, "the first object", 30*time.Second, func(r *storetest.Recorder) bool { return len(r.Changes) == 1 })
	t.Logf("an object of a kind that was not there is told %v after the kind was defined", time.Since(begin).Round(time.Millisecond))
}
