package kube

import (
	"path/filepath"
	"slices"
	"testing"

	"os"

	"sigs.k8s.io/yaml"
)

// Every file of a folder of manifests is in the folder's list.
func TestListsAreWhole(t *testing.T) {
	for _, folder := range []string{"crds", "rbac", "base", "overlays/vxlan", "overlays/ipip", "overlays/crosssubnet", "overlays/bgp", "overlays/wireguard"} {
		dir := manifests(t, folder)
		var list struct{ Resources []string }
		b, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
		if err == nil {
			err = yaml.Unmarshal(b, &list)
		}
		files, err2 := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || err2 != nil || len(files) < 2 {
			t.Fatalf("%s: %v, %v, %d files", dir, err, err2, len(files))
		}
		for _, f := range files {
			if name := filepath.Base(f); name != "kustomization.yaml" && !slices.Contains(list.Resources, name) {
				t.Errorf("%s/kustomization.yaml does not list %s", folder, name)
			}
		}
	}
}
