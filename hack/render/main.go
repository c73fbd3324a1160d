// Command render writes what Kustomize makes of each overlay into one file, which the binary carries: nobody needs
// Kustomize to install from it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: render FOLDER-OF-OVERLAYS FOLDER")
		os.Exit(2)
	}
	if err := render(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

// render writes weft-NAME.yaml for each overlay, and removes those of overlays that are gone.
func render(overlays, out string) error {
	old, err := filepath.Glob(filepath.Join(out, "weft-*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	folders, err := os.ReadDir(overlays)
	if err != nil {
		return err
	}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy // as kubectl does: what others need comes first
	for _, f := range folders {
		made, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(overlays, f.Name()))
		if err != nil {
			return fmt.Errorf("overlay %s: %w", f.Name(), err)
		}
		text, err := made.AsYaml()
		if err != nil {
			return fmt.Errorf("overlay %s: %w", f.Name(), err)
		}
		if err := os.WriteFile(filepath.Join(out, "weft-"+f.Name()+".yaml"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
