package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustJSON(t testing.TB, s string) any {
	t.Helper()
	v, err := decodeJSON([]byte(s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The cases are those of RFC 7396, appendix A.
func TestMergePatch(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		got := text(t, mergePatch(mustJSON(t, c[0]), mustJSON(t, c[1])))
		if diff := cmp.Diff(c[2], got); diff != "" {
			t.Errorf("%s with %s (-want +got):\n%s", c[0], c[1], diff)
		}
	}
}

// The first cases are those of RFC 6902, appendix A.
func TestJSONPatch(t *testing.T) {
	for _, c := range [][3]string{
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux"}]`, `{"baz":"qux","foo":"bar"}`},
		{`{"foo":["bar","baz"]}`, `[{"op":"add","path":"/foo/1","value":"qux"}]`, `{"foo":["bar","qux","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"remove","path":"/baz"}]`, `{"foo":"bar"}`},
		{`{"foo":["bar","qux","baz"]}`, `[{"op":"remove","path":"/foo/1"}]`, `{"foo":["bar","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"replace","path":"/baz","value":"boo"}]`, `{"baz":"boo","foo":"bar"}`},
		{`{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}`, `[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]`, `{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}`},
		{`{"foo":["all","grass","cows","eat"]}`, `[{"op":"move","from":"/foo/1","path":"/foo/3"}]`, `{"foo":["all","cows","eat","grass"]}`},
		{`{"baz":"qux","foo":["a",2,"c"]}`, `[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2.0}]`, `{"baz":"qux","foo":["a",2,"c"]}`},
		{`{"baz":"qux"}`, `[{"op":"test","path":"/baz","value":"bar"}]`, `error`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/child","value":{"grandchild":{}}}]`, `{"child":{"grandchild":{}},"foo":"bar"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","xyz":123}]`, `{"baz":"qux","foo":"bar"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz/bat","value":"qux"}]`, `error`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":10}]`, `{"/":9,"~1":10}`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":"10"}]`, `error`},
		{`{"foo":["bar"]}`, `[{"op":"add","path":"/foo/-","value":["abc","def"]}]`, `{"foo":["bar",["abc","def"]]}`},
		{`{"a":{"b":1}}`, `[{"op":"copy","from":"/a","path":"/c"},{"op":"replace","path":"/c/b","value":2}]`, `{"a":{"b":1},"c":{"b":2}}`},
		{`{"a":1}`, `[{"op":"replace","path":"","value":{"b":2}}]`, `{"b":2}`},
		{`{"a":null}`, `[{"op":"test","path":"/a","value":null}]`, `{"a":null}`},
		{`{"a":1}`, `[{"op":"remove","path":"/b"}]`, `error`},
		{`{"a":[1]}`, `[{"op":"remove","path":"/a/-"}]`, `error`},
		{`{"a":[1]}`, `[{"op":"replace","path":"/a/1","value":2}]`, `error`},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/2","value":2}]`, `error`},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/01","value":2}]`, `error`},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/-1","value":2}]`, `error`},
		{`{"a":{"b":1}}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, `error`},
		{`{"a":1}`, `[{"op":"add","path":"/b"}]`, `error`},
		{`{"a":1}`, `[{"op":"add","value":1}]`, `error`},
		{`{"a":1}`, `[{"op":"move","path":"/b"}]`, `error`},
		{`{"a":1}`, `[{"op":"frob","path":"/b"}]`, `error`},
		{`{"a":1}`, `[{"op":"add","path":"b","value":1}]`, `error`},
		{`{"a":1}`, `{"op":"add"}`, `error`},
	} {
		got := "error"
		if v, err := jsonPatch(mustJSON(t, c[0]), []byte(c[1])); err == nil {
			got = text(t, v)
		}
		if diff := cmp.Diff(c[2], got); diff != "" {
			t.Errorf("%s with %s (-want +got):\n%s", c[0], c[1], diff)
		}
	}
}

// No patch of any document ends in a panic or leaves what is no JSON.
func FuzzJSONPatch(f *testing.F) {
	f.Add(`{"a":[1,{"b":2}]}`, `[{"op":"add","path":"/a/-","value":1},{"op":"move","from":"/a/0","path":"/c"}]`)
	f.Add(`{"a":1}`, `[{"op":"remove","path":""},{"op":"add","path":"/x","value":1}]`)
	f.Add(`[[]]`, `[{"op":"copy","from":"","path":"/0/0"}]`)
	f.Add(`[1]`, `[{"op":"move","from":"/0","path":""}]`)
	f.Fuzz(func(t *testing.T, doc, patch string) {
		// Copies of copies grow exponentially, as they must: keep the fuzzer's memory.
		if strings.Count(patch, "copy") > 8 || len(doc)+len(patch) > 4096 {
			return
		}
		v, err := decodeJSON([]byte(doc))
		if err != nil {
			return
		}
		got, err := jsonPatch(v, []byte(patch))
		if err != nil {
			return
		}
		mustJSON(t, text(t, got))
	})
}
