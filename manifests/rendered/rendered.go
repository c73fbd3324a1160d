// Package rendered holds what Kustomize makes of each folder of manifests/overlays, as files. It does not read them.
package rendered

import "embed"

//go:generate go run -C ../../hack/render . ../../manifests/overlays ../../manifests/rendered

// Files are named weft-OVERLAY.yaml. The kinds that they use come before them, from package crds.
//
//go:embed weft-*.yaml
var Files embed.FS
