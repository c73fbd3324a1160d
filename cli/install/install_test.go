package install

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every overlay of the repository is carried, with the kinds and the node service; pool and image are what is asked for,
// and nothing else changes.
func TestManifests(t *testing.T) {
	folders, err := os.ReadDir("../../manifests/overlays")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range folders {
		names = append(names, f.Name())
	}
	if !slices.Equal(names, Overlays()) || len(names) < 5 {
		t.Fatalf("overlays %v, of which the binary carries %v: make generate", names, Overlays())
	}
	for _, name := range names {
		kinds, rest, err := Manifests(Options{Overlay: name})
		if err != nil || len(kinds) < 20 || len(rest) < 20 {
			t.Fatalf("%s: %d kinds, %d others, %v", name, len(kinds), len(rest), err)
		}
		_, changed, err := Manifests(Options{Overlay: name, Pool: "10.9.0.0/16", Image: "images.test/weft:1"})
		if err != nil {
			t.Fatal(err)
		}
		before, err := YAML(rest)
		if err != nil {
			t.Fatal(err)
		}
		after, err := YAML(changed)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.NewReplacer("cidr: 10.244.0.0/16", "cidr: 10.9.0.0/16", "image: localhost/weft:latest", "image: images.test/weft:1").Replace(string(before))
		if string(after) != want || want == string(before) || strings.Contains(want, "localhost/weft") {
			t.Errorf("%s: pool and image were not changed, or more was", name)
		}
	}
}

func TestManifestsRefused(t *testing.T) {
	for want, o := range map[string]Options{
		`overlay "none": want one of`:            {Overlay: "none"},
		`pool "10.9.0.1/16": want a CIDR`:        {Overlay: "vxlan", Pool: "10.9.0.1/16"},
		`pool "x": want a CIDR`:                  {Overlay: "vxlan", Pool: "x"},
		"pool fd00::/48: IPIP carries IPv4 only": {Overlay: "ipip", Pool: "fd00::/48"},
	} {
		if _, _, err := Manifests(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}

func TestPaths(t *testing.T) {
	for want, o := range map[string]Object{
		"/apis/apps/v1/namespaces/kube-system/daemonsets/a":                     {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"name": "a", "namespace": "kube-system"}},
		"/api/v1/namespaces/b/serviceaccounts/a":                                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "a", "namespace": "b"}},
		"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/a":   {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": map[string]any{"name": "a"}},
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a.example.org": {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "a.example.org"}},
	} {
		if got := o.path(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The unit runs the program that installed it; settings of before stay; systemd understands the unit.
func TestUnit(t *testing.T) {
	root := t.TempDir()
	files, err := Unit("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		var said []string
		err := WriteUnit(context.Background(), root, files, func(format string, args ...any) { said = append(said, format) })
		if !errors.Is(err, ErrNoSystemd) {
			t.Fatalf("%v, want to be told that systemd does not run there", err)
		}
		settings := filepath.Join(root, EnvironmentFile)
		if b, err := os.ReadFile(settings); i == 1 && (err != nil || string(b) != "A=b\n") {
			t.Errorf("settings were changed: %q, %v", b, err)
		}
		if err := os.WriteFile(settings, []byte("A=b\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unit := filepath.Join(root, unitFile)
	b, err := os.ReadFile(unit)
	if err != nil || !strings.Contains(string(b), "\nExecStart=/bin/true node ") || strings.Contains(string(b), "/usr/local") {
		t.Errorf("the unit does not run the program (%v):\n%s", err, b)
	}
	for _, bad := range []string{"weft", "/a b/weft", "/a%b/weft"} {
		if _, err := Unit(bad); err == nil {
			t.Errorf("program %q is taken", bad)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not here: the unit is not verified")
		return
	}
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "weft.service")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(b), "KillMode=process", "KillMode=nobody", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", broken).CombinedOutput(); err == nil && len(out) == 0 {
		t.Errorf("systemd-analyze verify takes a unit that is wrong")
	}
}

// What becomes part of Kubernetes' roles view, edit and admin says of this project's kinds alone; nodes are in a role of
// their own, which is no part of any.
func TestRolesAddThisProjectsKindsOnly(t *testing.T) {
	for _, overlay := range Overlays() {
		_, rest, err := Manifests(Options{Overlay: overlay})
		if err != nil {
			t.Fatal(err)
		}
		added := 0
		for _, o := range rest {
			labels, _ := o.at("metadata", "labels").(map[string]any)
			part := false
			for label := range labels {
				part = part || strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-")
			}
			text, err := YAML([]Object{{"rules": o["rules"]}})
			if err != nil {
				t.Fatal(err)
			}
			if o.Name() == "weft-view-nodes" && (part || !strings.Contains(string(text), "- nodes")) {
				t.Errorf("%s: weft-view-nodes has labels %v and\n%s", overlay, labels, text)
			}
			if !part {
				continue
			}
			rules, _ := o["rules"].([]any)
			for _, r := range rules {
				rule, _ := r.(map[string]any)
				groups, _ := rule["apiGroups"].([]any)
				if added++; !slices.Equal(groups, []any{"projectcalico.org"}) {
					t.Errorf("%s: %s adds rights in the groups %q to Kubernetes' own roles", overlay, o.Name(), groups)
				}
			}
		}
		if added < 2 || named(t, rest, "ClusterRole", "weft-view-nodes") == nil {
			t.Errorf("%s: %d rules are added, want 2 or more", overlay, added)
		}
	}
}
