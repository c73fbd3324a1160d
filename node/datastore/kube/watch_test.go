package kube

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// What one event does to where a watch stands.
func TestTake(t *testing.T) {
	s, err := Open(Config{Kubeconfig: writeKubeconfig(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	node := func(revision string) string {
		return fmt.Sprintf(`{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"n","resourceVersion":%q}}`, revision)
	}
	status := func(reason string, code int) string {
		return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
	}
	for _, tc := range []struct {
		what   string
		event  watch.EventType
		raw    string
		at     string // afterwards
		change bool
		err    error
	}{
		{"newer", watch.Modified, node("101"), "101", true, nil},
		{"gone", watch.Deleted, node("102"), "102", true, nil},
		{"told already", watch.Modified, node("100"), "100", false, nil},
		{"older", watch.Modified, node("99"), "100", false, datastore.ErrCompacted},
		{"older by number, not by letter", watch.Modified, node("1000"), "1000", true, nil},
		{"without a revision", watch.Added, node(""), "100", false, datastore.ErrCompacted},
		{"bookmark", watch.Bookmark, node("150"), "150", false, nil},
		{"older bookmark", watch.Bookmark, node("50"), "100", false, datastore.ErrCompacted},
		{"history gone", watch.Error, status("Expired", 410), "100", false, datastore.ErrCompacted},
		{"server in trouble", watch.Error, status("InternalError", 500), "100", false, datastore.ErrUnavailable},
		{"of no known type", "SURPRISE", node("101"), "100", false, datastore.ErrCompacted},
		{"without a name", watch.Added, `{"metadata":{"resourceVersion":"101"}}`, "100", false, datastore.ErrCompacted},
	} {
		w := &watcher{store: s, source: s.sources[v3.KindNode], at: "100"}
		c, err := w.take(frame{tc.event, []byte(tc.raw)})
		if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) || w.at != tc.at || (c.Key.Name != "") != tc.change {
			t.Errorf("%s: revision %s, change %+v, error %v; want revision %s, a change %v, error %v", tc.what, w.at, c, err, tc.at, tc.change, tc.err)
		}
		if tc.change && (c.Object == nil) != (tc.event == watch.Deleted) {
			t.Errorf("%s: object %v", tc.what, c.Object)
		}
	}
}

// A token is in no text about the client.
func TestKubeconfigIsNotTold(t *testing.T) {
	conf, err := RESTConfig(Config{Kubeconfig: writeKubeconfig(t)})
	if err != nil {
		t.Fatal(err)
	}
	if conf.BearerToken != "swordfish" || conf.Host != "https://192.0.2.1:6443" {
		t.Errorf("read as host %s", conf.Host)
	}
	if text := fmt.Sprintf("%v %+v %#v", conf, conf, rest.CopyConfig(conf)); strings.Contains(text, "swordfish") {
		t.Error("the client's configuration shows its token when it is printed")
	}
}
