package kube

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	carried "weft/cli/install"
	"weft/internal/testkit/kube"
	"weft/manifests/rendered"
)

// Every file of a folder of manifests is in the folder's list.
func TestListsAreWhole(t *testing.T) {
	for _, folder := range []string{"crds", "rbac", "controllers", "base", "overlays/vxlan", "overlays/ipip", "overlays/crosssubnet", "overlays/bgp", "overlays/wireguard"} {
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

// What the binary carries is what Kustomize makes of the overlays now.
func TestRenderedIsCurrent(t *testing.T) {
	kubectl := kube.Binary(t, "kubectl")
	for _, overlay := range carried.Overlays() {
		want, err := exec.Command(kubectl, "kustomize", manifests(t, "overlays/"+overlay)).Output()
		if err != nil {
			t.Fatal(err)
		}
		have, err := rendered.Files.ReadFile("weft-" + overlay + ".yaml")
		if err != nil || string(have) != string(want) {
			t.Errorf("manifests/rendered/weft-%s.yaml is not what kubectl kustomize makes of the overlay (%v): make generate", overlay, err)
		}
	}
}
