// Package examples reads api/v3/testdata/refused: manifests, one a line, and what is wrong with each. They are
// files so that everything that judges manifests is held to the same ones: the Go rules and the CRDs' schemas.
// It does not judge them.
//
// A line is a kind and its specification in YAML; the lines behind it that begin with "->" say what is wrong,
// "ok" that nothing is. Instead of the specification there may stand
//
//	as NAME SPEC   an object of another name than a
//	metadata META  an object without a specification
//	object FIELDS  what stands beside apiVersion, kind and metadata
//	full FIELDS    what stands beside apiVersion and kind
//
// {N x TEXT} stands for TEXT N times, # in it for a number that counts, RULE, PATH and such for one of those,
// LONG for a name of 64 letters, {N a} for N letters.
package examples

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Example is one manifest.
type Example struct {
	Line     string // as the file has it, to name it by
	Manifest string // YAML
	Kind     schema.GroupVersionKind
}

// Lookup finds a kind by one of its names.
type Lookup func(name string) (gvk schema.GroupVersionKind, namespaced, ok bool)

// Files are the names of the files in a folder, and Lines the lines of one of them with their comments.
func Files(folder string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no files of examples in %s", folder)
	}
	return files, err
}

// Lines returns the lines of a file without what it says is wrong: examples, comments and empty ones.
func Lines(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
		if !strings.HasPrefix(line, "  -> ") {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// Parse makes a manifest of a line. It is nil for a comment.
func Parse(line string, lookup Lookup) (*Example, error) {
	if line == "" || strings.HasPrefix(line, "#") {
		return nil, nil
	}
	name, body, _ := strings.Cut(line, " ")
	gvk, namespaced, ok := lookup(name)
	if !ok {
		return nil, fmt.Errorf("%q: unknown kind", name)
	}
	meta := "name: a"
	if rest, ok := strings.CutPrefix(body, "as "); ok {
		meta, body, _ = strings.Cut(rest, " ")
		meta = "name: " + meta
	}
	if namespaced {
		meta += ", namespace: shop"
	}
	fields := fmt.Sprintf("metadata: {%s}, spec: %s", meta, body)
	if rest, ok := strings.CutPrefix(body, "metadata "); ok {
		fields = "metadata: " + rest
	}
	if rest, ok := strings.CutPrefix(body, "object "); ok {
		fields = fmt.Sprintf("metadata: {%s}, %s", meta, rest)
	}
	if rest, ok := strings.CutPrefix(body, "full "); ok {
		fields = rest
	}
	manifest := fmt.Sprintf("{apiVersion: %s, kind: %s, %s}", gvk.GroupVersion(), gvk.Kind, Expand(fields))
	return &Example{Line: line, Manifest: manifest, Kind: gvk}, nil
}

// ParseUpdate makes manifests of a line "KIND OLD => NEW". They are nil for a comment.
func ParseUpdate(line string, lookup Lookup) (old, updated *Example, err error) {
	before, after, ok := strings.Cut(line, " => ")
	if !ok {
		return nil, nil, nil
	}
	name, _, _ := strings.Cut(line, " ")
	if old, err = Parse(before, lookup); err != nil {
		return nil, nil, err
	}
	updated, err = Parse(name+" "+after, lookup)
	return old, updated, err
}

var (
	repetition = regexp.MustCompile(`\{(\d+) x ([^}]*)\}`)
	letters    = regexp.MustCompile(`\{(\d+) a\}`)
)

// Expand writes out what stands for many or long words.
func Expand(s string) string {
	s = strings.ReplaceAll(s, "LONG", strings.Repeat("a", 64))
	s = letters.ReplaceAllStringFunc(s, func(m string) string {
		n, _ := strconv.Atoi(letters.FindStringSubmatch(m)[1])
		return strings.Repeat("a", n)
	})
	return repetition.ReplaceAllStringFunc(s, func(m string) string {
		parts := repetition.FindStringSubmatch(m)
		n, _ := strconv.Atoi(parts[1])
		items := make([]string, n)
		for i := range items {
			items[i] = strings.NewReplacer("#", strconv.Itoa(i%250), "RULE", "{action: Allow}", "PATH", "{exact: /a}",
				"PREFIX", `{cidr: 10.0.0.0/8, communities: ["1:1"]}`, "COMMUNITY", `{name: "a#", value: "1:1"}`, "OPERATION", "{setPriority: {value: 1}}",
				"CNPRULE", "{action: Deny, from: [{namespaces: {}}]}", "ENDPOINT", "{addresses: [10.0.0.1]}").Replace(parts[2])
		}
		return strings.Join(items, ", ")
	})
}
