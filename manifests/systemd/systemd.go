// Package systemd holds the unit of the node service for hosts without Kubernetes, and the file of its settings.
package systemd

import "embed"

// Files are weft.service and weft.env.
//
//go:embed weft.service weft.env
var Files embed.FS
