package schema

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v3 "weft/api/v3"
	"weft/internal/examples"
	"weft/manifests/crds"
)

// goOnly is what Go alone refuses: fields and messages, and why no schema can. On Kubernetes the API server takes
// such objects; who reads them refuses them.
var goOnly = []struct{ field, detail, why string }{
	{`[sS]elector$`, `^selector ".*column \d`, "the grammar of selectors is not a regular one"},
	{`(natPortRange|ports\[\d+\])$`, `^want a port from 0`, "that the second port is the greater: what may be numbers or text is not compared at a bearable cost"},
	{`^spec\.prefixAdvertisements\[\d+\]\.communities\[\d+\]$`, `^want a name of spec\.communities`, "500 lists of 50 names against 500 names cost more than a rule may"},
	{`[pP]orts\[\d+\]$`, `^needs protocol TCP`, "that text is digits and no name: as above"},
	{`\[[^0-9\]][^\]]*\]$`, ``, "keys of maps have no schema"},
	{`^spec\.bfd\.interval$`, `^want whole milliseconds`, "CEL tells no parts of a millisecond"},
	{`^spec\.ipNetworks\[\d+\]$`, ``, "an address and its /32 are one: sets compare text"},
	{`^spec\.(podSelector\.matchExpressions|ingress\[\d+\]\.from)\[\d+\]`, ``, "fields of Kubernetes' own types have no markers"},
}

// verdict is how the two answers to one manifest relate.
type verdict string

const (
	agreed   verdict = "" // both take it, or both refuse it and name the same field
	excused  verdict = "they differ where they have to"
	laxer    verdict = "only Go refuses"
	stricter verdict = "only the schema refuses"
	apart    verdict = "they refuse different fields"
)

// judge compares the answers. Go stops at fields and types that are wrong before it looks at rules.
func judge(inGo, inSchema []*field.Error, stopped bool, used map[string]int) verdict {
	switch {
	case len(inGo) == 0 && len(inSchema) == 0:
		return agreed
	case len(inGo) == 0 && !slices.ContainsFunc(inSchema, func(e *field.Error) bool { return !isEmpty(e) }):
		return excused
	case len(inGo) == 0:
		return stricter
	case len(inSchema) == 0:
		for _, e := range inGo {
			why := excuse(e)
			if why == "" {
				return laxer
			}
			used[why]++
		}
		return excused
	}
	common := 0
	for _, s := range inSchema {
		if slices.ContainsFunc(inGo, func(g *field.Error) bool { return near(s.Field, g.Field) }) {
			common++
		} else if !stopped {
			return apart
		}
	}
	if common == 0 {
		return apart
	}
	return agreed
}

// isEmpty tells whether what a schema refuses is an empty word or number, which to Go is an absent one.
func isEmpty(e *field.Error) bool {
	return e.Type == field.ErrorTypeNotSupported && e.BadValue == "" ||
		e.BadValue == int64(0) && strings.Contains(e.Detail, "greater than or equal to 1")
}

func excuse(e *field.Error) string {
	for _, x := range goOnly {
		if regexp.MustCompile(x.field).MatchString(e.Field) && regexp.MustCompile(x.detail).MatchString(e.Detail) {
			return x.why
		}
	}
	return ""
}

// near tells whether one path is the other or contains it: a rule of a list names the list, one of a name the
// object. The root contains nothing else here.
func near(a, b string) bool {
	inside := func(a, b string) bool {
		rest, ok := strings.CutPrefix(a, b)
		return ok && b != "" && b != "<nil>" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return inside(a, b) || inside(b, a) || a == "<nil>" && b == "metadata.name"
}

// TestAgree puts every example to the Go rules and to what an API server does with the CRDs. They take the same
// objects, and refuse the same fields.
func TestAgree(t *testing.T) {
	all := everyExample(t)
	used := map[string]int{}
	count := map[verdict]int{}
	refused := 0
	for _, e := range all {
		inGo, stopped := byGo(t, e.Manifest)
		inSchema := byServer(t, Embedded(), e)
		v := judge(inGo, inSchema, stopped, used)
		if count[v]++; v != agreed && v != excused {
			t.Errorf("%s: %.200s\n  Go     %v\n  schema %v", v, e.Line, inGo, inSchema)
		}
		if len(inGo) > 0 {
			refused++
		}
	}
	for _, x := range goOnly {
		if used[x.why] == 0 {
			t.Errorf("nothing needs the excuse %q", x.why)
		}
	}
	if len(all) < 450 || refused < 350 {
		t.Errorf("%d examples, of which %d are refused: too few", len(all), refused)
	}
	t.Logf("%d examples, %d of them refused: %d agree, %d only Go can refuse", len(all), refused, count[agreed], count[excused])
}

// TestAgreeWithoutRules is the control of TestAgree: without the rules in CEL it finds hundreds of examples.
func TestAgreeWithoutRules(t *testing.T) {
	bare := New(without(t, "x-kubernetes-validations"))
	found := 0
	for _, e := range everyExample(t) {
		inGo, stopped := byGo(t, e.Manifest)
		if v := judge(inGo, byServer(t, bare, e), stopped, map[string]int{}); v != agreed && v != excused {
			found++
		}
	}
	if found < 100 {
		t.Errorf("the schemas without rules disagree in %d examples only", found)
	}
	t.Logf("%d examples disagree", found)
}

// without returns the CRDs less a field, wherever it is.
func without(t *testing.T, name string) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	files, err := fs.Glob(crds.Files, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := fs.ReadFile(crds.Files, file)
		if err != nil {
			t.Fatal(err)
		}
		tree := parse(t, string(data))
		strip(tree, name)
		out[file] = &fstest.MapFile{Data: []byte(toJSON(t, tree))}
	}
	return out
}

func strip(v any, name string) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, name)
		for _, child := range v {
			strip(child, name)
		}
	case []any:
		for _, child := range v {
			strip(child, name)
		}
	}
}

// TestUpdatesAgree does the same with what takes the place of something else.
func TestUpdatesAgree(t *testing.T) {
	lines, err := examples.Lines("../v3/testdata/updates.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range lines {
		old, updated, err := examples.ParseUpdate(line, lookup)
		if err != nil {
			t.Fatal(err)
		}
		if old == nil {
			continue
		}
		n++
		before, after := decode(t, old.Manifest), decode(t, updated.Manifest)
		inGo := fieldErrors(v3.ValidateUpdate(after, before))
		inSchema, err := Embedded().Admit(updated.Kind.Kind, parse(t, updated.Manifest), parse(t, old.Manifest))
		if err != nil {
			t.Fatal(err)
		}
		if v := judge(inGo, inSchema, false, map[string]int{}); v != agreed {
			t.Errorf("%s: %s\n  Go     %v\n  schema %v", v, line, inGo, inSchema)
		}
	}
	if n < 10 {
		t.Errorf("%d updates only", n)
	}
}

// TestManifestsAgree puts the manifests that people have to the schemas, and their stored forms.
func TestManifestsAgree(t *testing.T) {
	files, err := filepath.Glob("../v3/testdata/manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	n := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(data, []byte("\n---\n")) {
			for _, o := range decodeAll(t, string(doc)) {
				kind, _ := v3.KindOf(o)
				if !Embedded().Has(kind) || kind == v3.KindIPAMBlock { // whose counts are beyond JSON's whole numbers on purpose
					continue
				}
				n++
				v3.Default(o)
				stored, err := v3.Encode(o)
				if err != nil {
					t.Fatal(err)
				}
				if errs, err := Embedded().AdmitJSON(kind, stored, nil); err != nil || len(errs) > 0 {
					t.Errorf("%s: %s %s as stored: %v %v", file, kind, o.GetName(), errs, err)
				}
			}
			defaultsAgree(t, file, string(doc))
		}
	}
	if n < 30 {
		t.Errorf("%d objects only", n)
	}
	t.Logf("%d objects", n)
}

// defaultsAgree takes a manifest as the API server would and holds what it fills in to what Go does.
func defaultsAgree(t *testing.T, file, doc string) {
	t.Helper()
	objects, tree := decodeAll(t, doc), parse(t, doc)
	if _, isList := tree["items"]; isList || len(objects) != 1 {
		return
	}
	kind, _ := v3.KindOf(objects[0])
	if info, _ := v3.LookupKind(kind); !Embedded().Has(kind) || info.Internal { // older releases wrote those in other ways
		return
	}
	tree["apiVersion"] = v3.Group + "/" + v3.Version
	if errs, err := Embedded().Admit(kind, tree, nil); err != nil || len(errs) > 0 {
		t.Errorf("%s: %s %s as written: %v %v", file, kind, objects[0].GetName(), errs, err)
	}
	v3.Default(objects[0])
	want, err := v3.Encode(objects[0])
	if err != nil {
		t.Fatal(err)
	}
	filled := decode(t, toJSON(t, tree))
	v3.Default(filled)
	got, err := v3.Encode(filled)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s: %s %s: the defaults of the schema and of Go differ:\n%s\n%s", file, kind, objects[0].GetName(), got, want)
	}
}
