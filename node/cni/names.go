package cni

import (
	"crypto/sha1"
	"encoding/hex"
	"strings"
)

// validLabel tells whether s is a DNS-1123 label: a namespace.
func validLabel(s string) bool {
	return len(s) <= 63 && !strings.Contains(s, ".") && validSubdomain(s)
}

// validSubdomain tells whether s is a DNS-1123 subdomain: a pod's or node's name.
func validSubdomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// podOfContainer makes a pod's name of a container ID, for runtimes that know no pods. An ID that
// is not a name already gets a digest at its end, so that two IDs never share a name.
func podOfContainer(id string) string {
	if validSubdomain(id) {
		return id
	}
	sum := sha1.Sum([]byte(id))
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, id)
	return strings.Trim(name, "-") + "-" + hex.EncodeToString(sum[:])[:10]
}

// recordName is the name of a WorkloadEndpoint: node, orchestrator, workload and interface joined
// by dashes, with their own dashes doubled (reference of WorkloadEndpoint.metadata.name).
func recordName(node, orchestrator, workload, ifName string) string {
	parts := []string{node, orchestrator, workload, strings.ToLower(strings.ReplaceAll(ifName, "_", "-"))}
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(p, "-", "--")
	}
	return strings.Join(parts, "-")
}

// handleOf names the owner of an attachment's addresses: network and container, as allocations
// made by others are named, and the interface unless it is the usual one.
func handleOf(network string, k key) string {
	h := network + "." + k.container
	if k.ifName != "eth0" {
		h += "." + k.ifName
	}
	return h
}
