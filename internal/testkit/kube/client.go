package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"weft/internal/testkit"
)

// CAFile holds the certificate that the API server's is checked against.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir, "pki", "apiserver.crt") }

// Token is what a role shows to the API server.
func (c *Cluster) Token(role string) string { return token(role) }

// Kubeconfig writes a kubeconfig file for a role, at url when that is not empty, and returns its path.
func (c *Cluster) Kubeconfig(t testing.TB, role, url string) string {
	t.Helper()
	return c.KubeconfigOf(t, token(role), url)
}

// KubeconfigOf is Kubeconfig for who has a bearer token.
func (c *Cluster) KubeconfigOf(t testing.TB, bearer, url string) string {
	t.Helper()
	if url == "" {
		url = c.URL
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, url, c.CAFile(), bearer)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Do makes one request; body is nil, or sent as JSON. An answer that is not 2xx is an error with its text.
func (c *Cluster) Do(ctx context.Context, role, method, path string, body any) ([]byte, error) {
	return c.DoAs(ctx, token(role), method, path, body)
}

// DoAs is Do for who has a bearer token.
func (c *Cluster) DoAs(ctx context.Context, bearer, method, path string, body any) ([]byte, error) {
	contentType := "application/json"
	if method == http.MethodPatch {
		contentType = "application/merge-patch+json"
	}
	var b []byte
	switch body := body.(type) {
	case nil:
	case []byte:
		b = body
	default:
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", contentType)
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: testkit.Patient(30 * time.Second)}).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &StatusError{resp.StatusCode, out, fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, out)}
	}
	return out, err
}

// StatusError is an answer of the API server that says no.
type StatusError struct {
	Code int    // of HTTP
	Body []byte // a Status of Kubernetes, in JSON
	text string
}

// Error is the request and the answer.
func (e *StatusError) Error() string { return e.text }

// MustDo is Do as the administrator, where an error ends the test.
func (c *Cluster) MustDo(t testing.TB, method, path string, body any) []byte {
	t.Helper()
	b, err := c.Do(t.Context(), Admin, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// paths of the kinds that manifests have.
var paths = map[string]string{
	"CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
	"ClusterRole":              "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":       "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"Role":                     "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles",
	"RoleBinding":              "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings",

	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// Install creates the CRDs and roles that this project ships, where the cluster began without.
func (c *Cluster) Install(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if err := c.applyManifests(ctx); err != nil {
		t.Fatal(err)
	}
}

// applyManifests creates the CRDs and roles that this project ships, binds the roles to the users of the
// tokens, and waits until the kinds are served.
func (c *Cluster) applyManifests(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	var names []string
	for _, what := range []string{"crds/*.yaml", "rbac/*.yaml", "controllers/rbac.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, "manifests", what))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("there are no manifests/%s (%w)", what, err)
		}
		for _, f := range files {
			created, err := c.applyFile(ctx, f)
			if err != nil {
				return err
			}
			names = append(names, created...)
		}
	}
	if err := c.bindRoles(ctx); err != nil {
		return err
	}
	for _, name := range names {
		if err := c.awaitServed(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// applyFile returns the names of the CRDs among what it created.
func (c *Cluster) applyFile(ctx context.Context, file string) (crds []string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		var o struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		asJSON, err := yaml.YAMLToJSON(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := json.Unmarshal(asJSON, &o); err != nil || o.Kind == "" {
			continue
		}
		path, ok := paths[o.Kind]
		if !ok {
			return nil, fmt.Errorf("%s: kind %s has no path here", file, o.Kind)
		}
		if err := c.create(ctx, path, asJSON); err != nil {
			return nil, fmt.Errorf("create %s: %w", file, err)
		}
		if o.Kind == "CustomResourceDefinition" {
			crds = append(crds, o.Metadata.Name)
		}
	}
	return crds, nil
}

// create waits for the namespace, if need be: the API server makes kube-system a moment after it is ready.
func (c *Cluster) create(ctx context.Context, path string, o any) error {
	for {
		_, err := c.Do(ctx, Admin, "POST", path, o)
		var refused *StatusError
		if err == nil || !errors.As(err, &refused) || refused.Code != http.StatusNotFound {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// NodeToken returns the token of service account weft-node that a pod of the DaemonSet on a node has, or, where node is
// empty, one that is bound to no pod. It makes the pod.
func (c *Cluster) NodeToken(t testing.TB, node string) string {
	t.Helper()
	const accounts, pods = "/api/v1/namespaces/kube-system/serviceaccounts", "/api/v1/namespaces/kube-system/pods"
	_, err := c.Do(t.Context(), Admin, http.MethodPost, accounts, map[string]any{"metadata": map[string]any{"name": Node}})
	var refused *StatusError
	if err != nil && (!errors.As(err, &refused) || refused.Code != http.StatusConflict) {
		t.Fatal(err)
	}
	spec := map[string]any{}
	if node != "" {
		var made struct{ Metadata struct{ UID string } }
		b := c.MustDo(t, http.MethodPost, pods, map[string]any{"metadata": map[string]any{"name": Node + "-" + node},
			"spec": map[string]any{"nodeName": node, "serviceAccountName": Node, "containers": []any{map[string]any{"name": "weft", "image": "weft"}}}})
		if err := json.Unmarshal(b, &made); err != nil {
			t.Fatal(err)
		}
		spec["boundObjectRef"] = map[string]any{"apiVersion": "v1", "kind": "Pod", "name": Node + "-" + node, "uid": made.Metadata.UID}
	}
	var answer struct{ Status struct{ Token string } }
	b := c.MustDo(t, http.MethodPost, accounts+"/"+Node+"/token", map[string]any{"spec": spec})
	if err := json.Unmarshal(b, &answer); err != nil || answer.Status.Token == "" {
		t.Fatalf("token of %s on node %q: %v: %.200s", Node, node, err, b)
	}
	return answer.Status.Token
}

// bindRoles gives the users of the tokens Node and Controllers what the manifests give the service accounts.
func (c *Cluster) bindRoles(ctx context.Context) error {
	for _, user := range []string{Node, Controllers} {
		bind := func(role string) map[string]any {
			return map[string]any{"metadata": map[string]any{"name": "test-" + user},
				"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": user},
				"subjects": []any{map[string]any{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}}}
		}
		if err := c.create(ctx, paths["ClusterRoleBinding"], bind("ClusterRole")); err != nil {
			return err
		}
		if err := c.create(ctx, paths["RoleBinding"], bind("Role")); err != nil {
			return err
		}
	}
	return nil
}

// awaitServed waits until the kind of a CRD can be listed.
func (c *Cluster) awaitServed(ctx context.Context, name string) error {
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct{ Name string }
		}
	}
	b, err := c.Do(ctx, Admin, "GET", paths["CustomResourceDefinition"]+"/"+name, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &crd); err != nil || len(crd.Spec.Versions) == 0 {
		return fmt.Errorf("read CRD %s: %w", name, err)
	}
	path := fmt.Sprintf("/apis/%s/%s/%s?limit=1", crd.Spec.Group, crd.Spec.Versions[0].Name, crd.Spec.Names.Plural)
	for {
		_, err := c.Do(ctx, Admin, "GET", path, nil)
		var refused *StatusError
		if err == nil || !errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("CRD %s is not served in time: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
