package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/kube"
	"weft/node/rotation"
)

func TestMain(m *testing.M) { code := m.Run(); kube.StopShared(); os.Exit(code) }

const policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

// rig is an API server on which the service account of the node service may do everything, as far as roles go: what is
// refused is refused by the policies. It has tokens bound to pods on n1 and n2, and one that is bound to none.
type rig struct {
	*kube.Cluster
	t              *testing.T
	n1, n2, nobody string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := kube.Start(t)
	c.MustDo(t, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object{"metadata": object{"name": "all"},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{object{"kind": "ServiceAccount", "name": kube.Node, "namespace": "kube-system"}}})
	r := &rig{Cluster: c, t: t, n1: c.NodeToken(t, "n1"), n2: c.NodeToken(t, "n2"), nobody: c.NodeToken(t, "")}
	for path, objects := range stored() {
		for _, o := range objects {
			c.MustDo(t, http.MethodPost, full(path), o)
		}
	}
	testkit.Eventually(t, 20*time.Second, "policies are in force", func() bool {
		return r.try(r.n1, write{method: "PUT", path: "nodes/n2", body: of("Node", "n2", object{})}) != "" &&
			r.try(r.nobody, write{method: "PUT", path: "nodes/n1", body: of("Node", "n1", object{})}) != ""
	})
	return r
}

func full(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/apis/" + group + "/" + path
}

// try makes a write that changes nothing, and returns the refusal.
func (r *rig) try(bearer string, w write) string {
	r.t.Helper()
	var body any
	if w.body != nil {
		o := w.body()
		if w.method == http.MethodPut {
			o["metadata"].(object)["resourceVersion"] = r.revision(w.path)
		}
		body = o
	}
	_, err := r.DoAs(r.t.Context(), bearer, w.method, full(w.path)+"?dryRun=All", body)
	var refused *kube.StatusError
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &refused):
		r.t.Fatalf("%s: %v", w.name, err)
	case !bytes.Contains(refused.Body, []byte("denied request: ")):
		r.t.Errorf("%s: not refused by a policy: %d: %s", w.name, refused.Code, refused.Body)
	}
	var s struct{ Message string }
	if err := json.Unmarshal(refused.Body, &s); err != nil {
		r.t.Fatal(err)
	}
	return s.Message
}

// revision is what an update has to name.
func (r *rig) revision(path string) string {
	r.t.Helper()
	var o struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal(r.MustDo(r.t, http.MethodGet, full(path), nil), &o); err != nil {
		r.t.Fatal(err)
	}
	return o.Metadata.ResourceVersion
}

// A node service writes what is its own node's and nothing else, by the node that its token names; each rule is needed
// for that; without the policies every one of the writes goes through.
func TestIdentity(t *testing.T) {
	r := newRig(t)
	refused := map[string]string{}
	all := cases()
	for _, w := range all {
		got := r.try(r.n1, w)
		switch {
		case w.want == "" && got != "":
			t.Errorf("%s: refused: %s", w.name, got)
		case w.want != "" && got == "":
			t.Errorf("%s: done, want a refusal that says %q", w.name, w.want)
		case !strings.Contains(got, w.want) || strings.Contains(got, "resulted in error"):
			t.Errorf("%s: refused with %q, want it to say %q", w.name, got, w.want)
		}
		if refused[w.name] != "" {
			t.Errorf("two cases are named %q", w.name)
		}
		refused[w.name] = got
	}
	t.Logf("%d writes, of which %d are to be refused", len(all), countRefused(all))
	if t.Failed() {
		return
	}
	t.Run("others", func(t *testing.T) { r.others(t, all) })
	if !testing.Short() {
		t.Run("mutants", func(t *testing.T) { r.mutants(t, all) })
	}
	t.Run("unmarked", func(t *testing.T) { r.unmarked(t) })
	t.Run("control", func(t *testing.T) { r.control(t, all) })
}

func countRefused(all []write) (n int) {
	for _, w := range all {
		if w.want != "" {
			n++
		}
	}
	return n
}

// others: a token that names no node writes nothing of all that; an administrator everything.
func (r *rig) others(t *testing.T, all []write) {
	for _, w := range all {
		if got := r.try(r.nobody, w); !strings.Contains(got, "the token names no node") {
			t.Errorf("%s: by a token that names no node: %q", w.name, got)
		}
		if got := r.try(r.Token(kube.Admin), w); got != "" {
			t.Errorf("%s: by an administrator: %q", w.name, got)
		}
	}
	// The same writes are n2's right where they are not n1's: of its own record, say.
	if got := r.try(r.n2, write{method: "PUT", path: "nodes/n2", body: of("Node", "n2", object{})}); got != "" {
		t.Errorf("n2 may not write its own record: %s", got)
	}
}

// unmarked: where nobody noted when the epoch began, a node notes the time that it is, and rotates no keys.
func (r *rig) unmarked(t *testing.T) {
	base := func(epoch int, text any) func() object {
		return felix(object{"wireguardKeyEpoch": epoch, "wireguardEnabled": true, "wireguardKeyRotationPeriod": "24h"}, set("x", "metadata", "annotations", "a"),
			set(text, "metadata", "annotations", rotation.Mark))
	}
	const path = "felixconfigurations/default"
	o := base(3, nil)()
	o["metadata"].(object)["resourceVersion"] = r.revision(path)
	r.MustDo(t, http.MethodPut, full(path), o)
	for _, w := range []write{
		{"say when the epoch began", "PUT", path, base(3, mark(3, time.Now())), ""},
		{"say that the epoch began long ago", "PUT", path, base(3, mark(3, due.Add(-24*time.Hour))), "of the API server it is"},
		{"begin the next epoch of an unknown one", "PUT", path, base(4, mark(4, time.Now())), "are not as old as"},
	} {
		if got := r.try(r.n1, w); !strings.Contains(got, w.want) || (got == "") != (w.want == "") {
			t.Errorf("%s: refused with %q, want it to say %q", w.name, got, w.want)
		}
	}
}

// control takes the policies away.
func (r *rig) control(t *testing.T, all []write) {
	for _, p := range r.policies(t) {
		r.MustDo(t, http.MethodDelete, policies+"/"+p.name, nil)
	}
	for _, w := range all {
		testkit.Eventually(t, 10*time.Second, w.name+" is done where there are no policies", func() bool { return r.try(r.n1, w) == "" })
	}
}

// policy is one as it is stored.
type policy struct {
	name        string
	object      object
	validations []object
}

func (r *rig) policies(t *testing.T) (all []policy) {
	t.Helper()
	var list struct{ Items []object }
	if err := json.Unmarshal(r.MustDo(t, http.MethodGet, policies, nil), &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		p := policy{name: o["metadata"].(object)["name"].(string), object: o}
		for _, v := range o["spec"].(object)["validations"].([]any) {
			p.validations = append(p.validations, v.(object))
		}
		all = append(all, p)
	}
	return all
}

// mutants weakens one rule at a time: then some write is done that was refused.
func (r *rig) mutants(t *testing.T, all []write) {
	count := 0
	for _, p := range r.policies(t) {
		for i := range p.validations {
			r.replace(t, p, i, fmt.Sprintf(" [%d]", i))
			count++
			var done string
			testkit.Eventually(t, 10*time.Second, fmt.Sprintf("%s: without its rule %d something is done that was refused", p.name, i), func() bool {
				done = r.passes(p, i, all)
				return done != ""
			})
			t.Logf("%s without %q: done: %s", p.name, short(p.validations[i]), done)
		}
		r.replace(t, p, -1, "")
		for _, w := range all {
			testkit.Eventually(t, 10*time.Second, w.name+" is as before", func() bool {
				got := r.try(r.n1, w)
				return strings.Contains(got, w.want) && (got == "") == (w.want == "")
			})
		}
	}
	if count < 15 {
		t.Errorf("only %d rules", count)
	}
}

func short(v object) string {
	text, _ := v["expression"].(string)
	return text[:min(len(text), 60)]
}

// passes returns a write that is done although it is to be refused, once the mutant i is known to be in force: where the
// policy has other rules, their refusals are marked.
func (r *rig) passes(p policy, i int, all []write) (done string) {
	bearer := r.n1
	if p.name == "weft-node-token" {
		bearer = r.nobody
	}
	if mark := fmt.Sprintf(" [%d]", i); len(p.validations) > 1 && !slices.ContainsFunc(all, func(w write) bool {
		return w.want != "" && strings.Contains(r.try(bearer, w), mark)
	}) {
		return ""
	}
	for _, w := range all {
		if (w.want != "" || bearer == r.nobody) && r.try(bearer, w) == "" {
			return w.name
		}
	}
	return ""
}

// replace stores a policy whose rule i is always met, and whose other refusals end with mark.
func (r *rig) replace(t *testing.T, p policy, i int, mark string) {
	t.Helper()
	var validations []any
	for j, v := range p.validations {
		v = copied(v)
		if e, ok := v["messageExpression"].(string); ok {
			v["messageExpression"] = e + " + '" + mark + "'"
		}
		if j == i {
			v["expression"] = "true"
		}
		validations = append(validations, v)
	}
	spec := copied(p.object["spec"].(object))
	spec["validations"] = validations
	meta := copied(p.object["metadata"].(object))
	delete(meta, "resourceVersion")
	delete(meta, "managedFields")
	meta["resourceVersion"] = r.revision(policies + "/" + p.name)
	r.MustDo(t, http.MethodPut, policies+"/"+p.name, object{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": meta, "spec": spec})
}
