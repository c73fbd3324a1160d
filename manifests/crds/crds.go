// Package crds holds the CustomResourceDefinitions of projectcalico.org/v3, which are generated from package
// api/v3, as files. It does not read them.
package crds

import "embed"

// Files are the CustomResourceDefinitions, one file each.
//
//go:embed projectcalico.org_*.yaml
var Files embed.FS
