package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"weft/internal/testkit/kube"
)

// weft install leaves a cluster alone whose pool has another CIDR than it is told; told none, it keeps that one, and the
// node service's pods are of its version. Nobody runs pods here, which it says.
func TestInstallOnKubernetes(t *testing.T) {
	const nodes, pool = "/apis/apps/v1/namespaces/kube-system/daemonsets/weft-node", "/apis/projectcalico.org/v3/ippools"
	c := kube.Start(t)
	c.MustDo(t, http.MethodPost, pool, map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
		"metadata": map[string]any{"name": "default-ipv4-ippool"}, "spec": map[string]any{"cidr": "10.20.0.0/16", "vxlanMode": "Never"}})
	install := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := Root("v7")
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{"install", "--kubeconfig", c.Kubeconfig(t, kube.Admin, "")}, args...))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := install("--pool", "10.21.0.0/16")
	if err == nil || out != "" || !strings.Contains(err.Error(), "default-ipv4-ippool has 10.20.0.0/16") {
		t.Errorf("another pool: %v\n%s", err, out)
	}
	var refused *kube.StatusError
	if _, err := c.Do(t.Context(), kube.Admin, http.MethodGet, nodes, nil); !errors.As(err, &refused) || refused.Code != http.StatusNotFound {
		t.Errorf("something was applied for a pool that cannot be: %v", err)
	}
	if out, err = install("--timeout", "25s"); err == nil || !strings.Contains(err.Error(), "weft-node is applied, but") && !strings.Contains(err.Error(), "weft-keeper is applied, but") && !strings.Contains(err.Error(), "weft-controllers is applied, but") {
		t.Errorf("no pool named: %v\n%s", err, out)
	}
	var has struct {
		Spec struct {
			CIDR, VXLANMode string
			Template        struct {
				Metadata struct{ Annotations map[string]string }
			}
		}
	}
	for _, path := range []string{pool + "/default-ipv4-ippool", nodes} {
		if err := json.Unmarshal(c.MustDo(t, http.MethodGet, path, nil), &has); err != nil {
			t.Fatal(err)
		}
	}
	if s := has.Spec; s.CIDR != "10.20.0.0/16" || s.VXLANMode != "Always" || s.Template.Metadata.Annotations["weft.io/release"] != "v7" {
		t.Errorf("the cluster has %+v", s)
	}
}
