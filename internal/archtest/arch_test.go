// Package archtest guards the layout of docs/ARCHITECTURE.md: which packages may import which,
// and which must stay pure. Every rule has a sentence that says why.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "weft/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, "weft/")
		all = append(all, p)
	}
	if len(all) < 15 {
		t.Fatalf("go list found %d packages only: the rules would check nothing", len(all))
	}
	return all
}

// layers, from the bottom; a package imports only from layers below its own. A path ending in /
// covers what is under it. The longest match wins.
var layers = [][]string{
	{"model", "manifests/crds", "manifests/rendered", "manifests/systemd"},
	{"model/selector", "model/topology", "internal/reconcile", "bench/result"},
	{"tunnel", "routing", "nat", "policy", "encryption", "api/v3", "internal/kernel"},
	{"node/datastore", "node/cni/rpc", "node/cni/install", "node/status", "node/config", "internal/testkit", "internal/testkit/", "internal/examples", "internal/byhand", "api/schema", "internal/traffic", "internal/nft", "internal/supervise", "policy/eval", "bench/load", "bench/report"},
	{"tunnel/guard"},
	{"tunnel/", "routing/", "nat/", "policy/", "encryption/", "node/policies", "node/flows", "node/datastore/", "node/ipam", "node/ipam/", "cmd/weft-cni"},
	{"node/cni", "node/rotation", "node/accept"},
	{"node", "controllers"},
	{"cli", "cli/", "lab", "lab/"},
	{"bench", "bench/"},
	{"e2e", "e2e/"},
	{"cmd/"},
}

func layerOf(path string) int {
	best, layer := -1, -1
	for i, l := range layers {
		for _, e := range l {
			match := e == path || strings.HasSuffix(e, "/") && strings.HasPrefix(path, e)
			if match && len(e) > best {
				best, layer = len(e), i
			}
		}
	}
	return layer
}

// sideways lists imports within one layer that are meant.
var sideways = map[[2]string]string{
	{"cli", "node/ipam"}:                         "the ipam verbs print what the allocator's package knows",
	{"internal/testkit/figures", "bench/report"}: "the names of the records that belong to no experiment",
}

func TestImportDirection(t *testing.T) {
	edges := 0
	for _, p := range packages(t) {
		from := layerOf(p.ImportPath)
		if strings.HasPrefix(p.ImportPath, "internal/archtest") {
			continue
		}
		if from < 0 {
			t.Errorf("%s has no layer: add it to this test and to docs/ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, "weft/")
			if !ours {
				continue
			}
			edges++
			to := layerOf(imp)
			if nested(p.ImportPath, imp) || sideways[[2]string{p.ImportPath, imp}] != "" {
				continue
			}
			if to >= from {
				t.Errorf("%s (layer %d) imports %s (layer %d): arrows point downward only", p.ImportPath, from, imp, to)
			}
		}
	}
	if edges < 20 {
		t.Errorf("only %d imports were checked", edges)
	}
}

// nested tells that one is a folder of the other within one area, such as lab and lab/underlay.
func nested(a, b string) bool {
	return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") && layerOf(a) == layerOf(b)
}

// The areas never import each other: what two of them share belongs in model/topology.
func TestAreasAreApart(t *testing.T) {
	areas := []string{"tunnel", "encryption", "routing", "nat", "policy"}
	area := func(path string) string {
		top, _, _ := strings.Cut(path, "/")
		if slices.Contains(areas, top) {
			return top
		}
		return ""
	}
	for _, p := range packages(t) {
		from := area(p.ImportPath)
		for _, imp := range p.Imports {
			to := area(strings.TrimPrefix(imp, "weft/"))
			if strings.HasPrefix(imp, "weft/") && from != "" && to != "" && from != to {
				t.Errorf("%s imports %s: areas share through model/topology only", p.ImportPath, imp)
			}
		}
	}
}

// Pure packages decide and do nothing: the same input gives the same output, and no test of them
// needs root.
func TestPurity(t *testing.T) {
	pure := []string{"model", "model/selector", "model/topology", "tunnel", "routing", "nat", "encryption", "policy", "policy/eval", "policy/eval/reference"}
	banned := map[string]string{
		"os": "I/O", "net": "I/O (net/netip is fine)", "net/http": "I/O", "syscall": "I/O", "os/exec": "I/O",
		"time": "the clock; take a time.Time from the caller through package model if it is ever needed",
		"log":  "I/O", "log/slog": "I/O", "math/rand": "chance", "math/rand/v2": "chance", "context": "nothing blocks here",
	}
	third := []string{"github.com/gaissmai/bart"}
	checked := 0
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		checked++
		for _, imp := range p.Imports {
			if why, bad := banned[imp]; bad {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
			first, _, _ := strings.Cut(imp, "/")
			if strings.Contains(first, ".") && !slices.Contains(third, imp) {
				t.Errorf("%s imports %s: pure packages take data structures from outside only (%v)", p.ImportPath, imp, third)
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d pure packages found", checked)
	}
}

// Only some packages may open certain doors.
func TestDoors(t *testing.T) {
	doors := []struct {
		pkg string
		may []string
		why string
	}{
		{"github.com/vishvananda/netlink", []string{"internal/kernel"}, "internal/kernel is the only door to netlink"},
		{"go.etcd.io/etcd/client/v3", []string{"node/datastore/etcd", "internal/testkit/kube"}, "one driver knows the store's wire; Kubernetes' own is a test's"},
		{"go.etcd.io/etcd/server/v3/embed", []string{"node/datastore/etcd", "internal/testkit/kube"}, "one driver knows the store's wire; Kubernetes' own is a test's"},
		{"k8s.io/client-go/rest", []string{"node/datastore/kube", "cli/remote"}, "one driver knows Kubernetes' wire, one package asks nodes by it"},
		{"k8s.io/client-go/tools/clientcmd", []string{"node/datastore/kube"}, "one driver knows Kubernetes' wire"},
		{"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel", []string{"api/schema"}, "one package runs rules in CEL; api/v3, which all import, stays light"},
		{"weft/api/schema", []string{"node/datastore/etcd"}, "the API server asks the schemas itself; readers of a store do not ask again"},
		{"weft/tunnel/guard", []string{"tunnel/vxlan", "tunnel/ipip"}, "what a tunnel lets in is its driver's business"},
		{"weft/tunnel/vxlan", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/routing/fib", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/nat/nftables", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/policy/conntrack", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/policy/nftables", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/policy/offload", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/policy/iptables", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/encryption/wireguard", []string{"node"}, "node/wire.go alone names the drivers"},
		{"weft/routing/bgp", []string{"node"}, "node/wire.go alone names the drivers"},
		{"github.com/osrg/gobgp/v4/pkg/server", []string{"routing/bgp/speaker"}, "a process of its own speaks BGP"},
	}
	for _, p := range packages(t) {
		for _, d := range doors {
			if slices.Contains(p.Imports, d.pkg) && !slices.Contains(d.may, p.ImportPath) {
				t.Errorf("%s imports %s: %s", p.ImportPath, d.pkg, d.why)
			}
		}
	}
}

// A package's comment says what it owns and what it does not.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("%s has no package comment worth the name: %q", p.ImportPath, p.Doc)
		}
	}
}
