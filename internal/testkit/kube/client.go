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
)

// CAFile holds the certificate that the API server's is checked against.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir, "pki", "apiserver.crt") }

// Token is what a role shows to the API server.
func (c *Cluster) Token(role string) string { return token(role) }

// Kubeconfig writes a kubeconfig file for a role, at url when that is not empty, and returns its path.
func (c *Cluster) Kubeconfig(t testing.TB, role, url string) string {
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
`, url, c.CAFile(), token(role))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Do makes one request; body is nil, or sent as JSON. An answer that is not 2xx is an error with its text.
func (c *Cluster) Do(ctx context.Context, role, method, path string, body any) ([]byte, error) {
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
	req.Header.Set("Authorization", "Bearer "+token(role))
	req.Header.Set("Content-Type", contentType)
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(req)
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
	for _, folder := range []string{"crds", "rbac"} {
		files, err := filepath.Glob(filepath.Join(root, "manifests", folder, "*.yaml"))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("manifests/%s has no manifests (%w)", folder, err)
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

// bindRoles gives the user of the token Node what manifests/rbac gives the node's service account.
func (c *Cluster) bindRoles(ctx context.Context) error {
	bind := func(role string) map[string]any {
		return map[string]any{"metadata": map[string]any{"name": "test-" + Node},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": Node},
			"subjects": []any{map[string]any{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": Node}}}
	}
	if err := c.create(ctx, paths["ClusterRoleBinding"], bind("ClusterRole")); err != nil {
		return err
	}
	return c.create(ctx, paths["RoleBinding"], bind("Role"))
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
