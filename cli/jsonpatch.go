package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decodeJSON reads one JSON value, keeping numbers as they are written.
func decodeJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after the value")
	}
	return v, nil
}

// mergePatch applies a JSON Merge Patch (RFC 7396) to doc and returns the result; doc may be changed.
func mergePatch(doc, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	d, ok := doc.(map[string]any)
	if !ok {
		d = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(d, k)
			continue
		}
		d[k] = mergePatch(d[k], v)
	}
	return d
}

// patchOp is one operation of a JSON Patch (RFC 6902).
type patchOp struct {
	Op    string          `json:"op"`
	Path  *string         `json:"path"`
	From  *string         `json:"from"`
	Value json.RawMessage `json:"value"` // nil when missing; null is a value
}

// maxPatchOps bounds a patch; each copy operation may double the document.
const maxPatchOps = 1000

// jsonPatch applies a JSON Patch (RFC 6902) to doc and returns the result. Nothing of a patch that
// fails is to be used.
func jsonPatch(doc any, patch []byte) (any, error) {
	var ops []patchOp
	d := json.NewDecoder(bytes.NewReader(patch))
	if err := d.Decode(&ops); err != nil {
		return nil, fmt.Errorf("read the patch as a JSON array of operations: %w", err)
	}
	if len(ops) > maxPatchOps {
		return nil, fmt.Errorf("the patch has %d operations, want at most %d", len(ops), maxPatchOps)
	}
	for i, op := range ops {
		var err error
		if doc, err = op.apply(doc); err != nil {
			return nil, fmt.Errorf("operation %d (%s): %w", i+1, op.Op, err)
		}
	}
	return doc, nil
}

func (o patchOp) apply(doc any) (any, error) {
	if o.Path == nil {
		return nil, errors.New(`"path" is missing`)
	}
	path, err := pointer(*o.Path)
	if err != nil {
		return nil, err
	}
	switch o.Op {
	case "remove":
		doc, _, err = edit(doc, path, remove)
		return doc, err
	case "add", "replace", "test":
		value, err := o.value()
		if err != nil {
			return nil, err
		}
		return o.put(doc, path, value)
	case "move", "copy":
		return o.transfer(doc, path)
	}
	return nil, fmt.Errorf("unknown operation %q: want add, remove, replace, move, copy or test", o.Op)
}

func (o patchOp) value() (any, error) {
	if o.Value == nil {
		return nil, errors.New(`"value" is missing`)
	}
	return decodeJSON(o.Value)
}

func (o patchOp) put(doc any, path []string, value any) (any, error) {
	switch o.Op {
	case "add":
		doc, _, err := edit(doc, path, insert(value))
		return doc, err
	case "replace":
		doc, _, err := edit(doc, path, replaceWith(value))
		return doc, err
	}
	_, old, err := edit(doc, path, look)
	if err != nil {
		return nil, err
	}
	if !sameJSON(old, value) {
		return nil, fmt.Errorf("%s is not the value that the test wants", *o.Path)
	}
	return doc, nil
}

func (o patchOp) transfer(doc any, path []string) (any, error) {
	if o.From == nil {
		return nil, errors.New(`"from" is missing`)
	}
	from, err := pointer(*o.From)
	if err != nil {
		return nil, err
	}
	if o.Op == "move" && len(path) > len(from) && slices.Equal(from, path[:len(from)]) {
		return nil, fmt.Errorf("%s cannot move into itself", *o.From)
	}
	verb := look
	if o.Op == "move" {
		verb = remove
	}
	doc, value, err := edit(doc, from, verb)
	if err != nil {
		return nil, err
	}
	if value, err = cloneJSON(value); err != nil {
		return nil, err
	}
	doc, _, err = edit(doc, path, insert(value))
	return doc, err
}

// pointer splits a JSON Pointer (RFC 6901).
func pointer(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, fmt.Errorf("path %q does not begin with a slash", s)
	}
	parts := strings.Split(s[1:], "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
	}
	return parts, nil
}

// change is what an operation does at its place: old and there say what is in it; list tells that
// it is in an array. It returns what shall be there, and whether anything.
type change func(old any, there, list bool) (value any, keep bool, err error)

var errAbsent = errors.New("there is nothing")

func look(old any, there, _ bool) (any, bool, error) {
	if !there {
		return nil, false, errAbsent
	}
	return old, true, nil
}

func remove(_ any, there, _ bool) (any, bool, error) {
	if !there {
		return nil, false, errAbsent
	}
	return nil, false, nil
}

func replaceWith(v any) change {
	return func(_ any, there, _ bool) (any, bool, error) {
		if !there {
			return nil, false, errAbsent
		}
		return v, true, nil
	}
}

// inserted marks a value that moves the elements after it, where replaceWith takes their place.
type inserted struct{ value any }

func insert(v any) change {
	return func(_ any, _, list bool) (any, bool, error) {
		if list {
			return inserted{v}, true, nil
		}
		return v, true, nil
	}
}

// edit does f at path below doc and returns the changed document and what was at path.
func edit(doc any, path []string, f change) (any, any, error) {
	if len(path) == 0 {
		v, keep, err := f(doc, true, false)
		if !keep {
			v = nil
		}
		return v, doc, err
	}
	switch d := doc.(type) {
	case map[string]any:
		return editMap(d, path, f)
	case []any:
		return editList(d, path, f)
	}
	return nil, nil, fmt.Errorf("%q: its parent is neither an object nor an array", path[0])
}

func editMap(d map[string]any, path []string, f change) (any, any, error) {
	key := path[0]
	old, there := d[key]
	if len(path) > 1 {
		if !there {
			return nil, nil, fmt.Errorf("%q: %w", key, errAbsent)
		}
		v, was, err := edit(old, path[1:], f)
		if err != nil {
			return nil, nil, fmt.Errorf("%s/%w", key, err)
		}
		d[key] = v
		return d, was, nil
	}
	v, keep, err := f(old, there, false)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%q: %w", key, err)
	case keep:
		d[key] = v
	default:
		delete(d, key)
	}
	return d, old, nil
}

func editList(d []any, path []string, f change) (any, any, error) {
	i, err := listIndex(path[0], len(d))
	if err != nil {
		return nil, nil, err
	}
	var old any
	there := i < len(d)
	if there {
		old = d[i]
	}
	if len(path) > 1 {
		if !there {
			return nil, nil, fmt.Errorf("%q: %w", path[0], errAbsent)
		}
		v, was, err := edit(old, path[1:], f)
		if err != nil {
			return nil, nil, fmt.Errorf("%s/%w", path[0], err)
		}
		d[i] = v
		return d, was, nil
	}
	v, keep, err := f(old, there, true)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", path[0], err)
	}
	if in, ok := v.(inserted); ok {
		return slices.Insert(d, i, in.value), old, nil
	}
	if !keep {
		return slices.Delete(d, i, i+1), old, nil
	}
	d[i] = v
	return d, old, nil
}

// listIndex reads an array index; "-" and n are the place behind the last of n elements.
func listIndex(s string, n int) (int, error) {
	if s == "-" {
		return n, nil
	}
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 || strconv.Itoa(i) != s {
		return 0, fmt.Errorf("%q is not an index of an array", s)
	}
	if i > n {
		return 0, fmt.Errorf("index %d is outside of an array of %d", i, n)
	}
	return i, nil
}

// sameJSON compares as RFC 6902 section 4.6 wants: numbers by value, objects in any order.
func sameJSON(a, b any) bool {
	x, ok1 := a.(json.Number)
	y, ok2 := b.(json.Number)
	if ok1 && ok2 {
		f, err1 := x.Float64()
		g, err2 := y.Float64()
		return x == y || err1 == nil && err2 == nil && f == g
	}
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, there := y[k]
			if !there || !sameJSON(v, w) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, sameJSON)
	}
	return reflect.DeepEqual(a, b)
}

func cloneJSON(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decodeJSON(data)
}
