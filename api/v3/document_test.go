package v3

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestFelixDocument holds the table of docs/resources.md to the fields there are. The meaning comes
// from the fields' comments by way of the CRD; the state stays as somebody wrote it, and is "kept"
// for a field that is new.
func TestFelixDocument(t *testing.T) {
	const path = "../../docs/resources.md"
	have := readFile(t, path)
	head, table, ok := bytes.Cut(have, []byte("| field | state | meaning |\n|---|---|---|\n"))
	if !ok {
		t.Fatalf("%s has no table of fields", path)
	}
	states := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(table), -1) {
		states[row[1]] = row[2]
	}
	spec := customResources(t)[KindFelixConfiguration].Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	want := bytes.NewBuffer(bytes.Clone(head))
	want.WriteString("| field | state | meaning |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(spec.Properties)) {
		state := states[name]
		if state == "" {
			state = "kept"
		}
		if state != "kept" && state != "in effect" {
			t.Errorf("%s: state %q, want in effect or kept", name, state)
		}
		// The Go name that the comment begins with says what the first column says.
		_, meaning, _ := strings.Cut(strings.Join(strings.Fields(spec.Properties[name].Description), " "), " ")
		fmt.Fprintf(want, "| `%s` | %s | %s |\n", name, state, strings.ReplaceAll(meaning, "|", `\|`))
	}
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		have = want.Bytes()
	}
	if diff := gocmp.Diff(want.String(), string(have)); diff != "" {
		t.Errorf("%s differs from the fields (-fields +document):\n%s", path, diff)
	}
}

// TestBGPDocument does the same for the table of the kinds of BGP and what Node has about BGP.
func TestBGPDocument(t *testing.T) {
	const path, title = "../../docs/resources.md", "| field of BGP | state | meaning |\n|---|---|---|\n"
	have := string(readFile(t, path))
	head, rest, ok := strings.Cut(have, title)
	table, tail, ended := strings.Cut(rest, "\n## ")
	if !ok || !ended {
		t.Fatalf("%s has no table of fields of BGP", path)
	}
	states := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([\\w.]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(table, -1) {
		states[row[1]] = row[2]
	}
	want := head + title
	add := func(prefix string, fields map[string]schemaNode, names ...string) {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if len(names) > 0 && !slices.Contains(names, name) {
				continue
			}
			state := cmp.Or(states[prefix+name], "kept")
			if state != "kept" && state != "in effect" {
				t.Errorf("%s: state %q, want in effect or kept", prefix+name, state)
			}
			_, meaning, _ := strings.Cut(strings.Join(strings.Fields(fields[name].Description), " "), " ")
			want += fmt.Sprintf("| `%s` | %s | %s |\n", prefix+name, state, strings.ReplaceAll(meaning, "|", `\|`))
		}
	}
	spec := func(kind string) map[string]schemaNode {
		return customResources(t)[kind].Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
	}
	for _, kind := range []string{KindBGPConfiguration, KindBGPPeer, KindBGPFilter, KindCalicoNodeStatus} {
		add(kind+".", spec(kind))
	}
	add("Node.bgp.", spec(KindNode)["bgp"].Properties, "asNumber", "routeReflectorClusterID")
	want += "\n## " + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		have = want
	}
	if diff := gocmp.Diff(want, have); diff != "" {
		t.Errorf("%s differs from the fields (-fields +document):\n%s", path, diff)
	}
}
