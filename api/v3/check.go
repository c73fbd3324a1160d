package v3

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checker compares a parsed value with a Go type and names every place where they differ. The
// standard decoder stops at the first, and names the Go field.
type checker struct {
	strict bool // unknown fields are errors
}

// checkTree returns what keeps tree from being read into an object of o's type.
func checkTree(c checker, tree any, o Object) field.ErrorList {
	errs := c.check(nil, tree, reflect.TypeOf(o).Elem())
	if _, ok := o.(*corev1.Secret); ok {
		errs = redacted(append(errs, checkSecretData(tree)...))
	}
	return errs
}

// check returns what keeps v from being read into a t. path is nil at the root.
func (c checker) check(path *field.Path, v any, t reflect.Type) field.ErrorList {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if v == nil {
		return nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return checkUnmarshaler(path, v, t)
	}
	switch {
	case t == reflect.TypeFor[BGPPassword]():
		// Somebody may have written the password itself.
		if _, ok := v.(map[string]any); !ok {
			return redacted(wrongType(path, v, "want secretKeyRef, with the name of a Secret and a key in it"))
		}
		return redacted(c.checkStruct(path, v, t))
	case t == reflect.TypeFor[[]byte]():
		if _, ok := v.(string); !ok {
			return wrongType(path, v, "want base64: put it in quotes")
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return c.checkStruct(path, v, t)
	case reflect.Map:
		return c.checkMap(path, v, t)
	case reflect.Slice, reflect.Array:
		return c.checkSlice(path, v, t)
	default:
		return checkScalar(path, v, t)
	}
}

func (c checker) checkStruct(path *field.Path, v any, t reflect.Type) field.ErrorList {
	fields, ok := v.(map[string]any)
	if !ok {
		return wrongType(path, v, "want an object")
	}
	known := jsonFields(t)
	var errs field.ErrorList
	for _, name := range sortedKeys(fields) {
		child := path.Child(name)
		if ft, ok := known[name]; ok {
			errs = append(errs, c.check(child, fields[name], ft)...)
		} else if c.strict {
			unknown := field.ErrorList{field.Invalid(child, excerpt(fields[name]), unknownField(name, known))}
			if strings.Contains(strings.ToLower(name), "pass") {
				redacted(unknown)
			}
			errs = append(errs, unknown...)
		}
	}
	return errs
}

func unknownField(name string, known map[string]reflect.Type) string {
	names := slices.Sorted(maps.Keys(known))
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("unknown field, did you mean %q?", near)
	}
	if len(names) > 24 {
		return "unknown field"
	}
	return "unknown field, want one of " + strings.Join(names, ", ")
}

func (c checker) checkMap(path *field.Path, v any, t reflect.Type) field.ErrorList {
	entries, ok := v.(map[string]any)
	if !ok {
		return wrongType(path, v, "want an object")
	}
	var errs field.ErrorList
	for _, key := range sortedKeys(entries) {
		if entries[key] == nil && t.Elem().Kind() != reflect.Pointer && t.Elem() != reflect.TypeFor[[]byte]() {
			errs = append(errs, wrongType(path.Key(key), nil, want(t.Elem()))...)
			continue
		}
		errs = append(errs, c.check(path.Key(key), entries[key], t.Elem())...)
	}
	return errs
}

func (c checker) checkSlice(path *field.Path, v any, t reflect.Type) field.ErrorList {
	list, ok := v.([]any)
	if !ok {
		return wrongType(path, v, "want a list")
	}
	var errs field.ErrorList
	for i, item := range list {
		if item == nil && t.Elem().Kind() != reflect.Pointer {
			errs = append(errs, wrongType(path.Index(i), nil, want(t.Elem()))...)
			continue
		}
		errs = append(errs, c.check(path.Index(i), item, t.Elem())...)
	}
	return errs
}

// checkUnmarshaler asks a type that reads itself.
func checkUnmarshaler(path *field.Path, v any, t reflect.Type) field.ErrorList {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, reflect.New(t).Interface())
	}
	if err == nil {
		return nil
	}
	switch t.Name() {
	case "Duration":
		return wrongType(path, v, `want a duration such as "90s" or "1m30s"`)
	case "Time", "MicroTime":
		return wrongType(path, v, `want a time such as "2026-01-31T12:00:00Z"`)
	case "IntOrString":
		return wrongType(path, v, "want a number or a string")
	}
	return wrongType(path, v, err.Error())
}

func checkScalar(path *field.Path, v any, t reflect.Type) field.ErrorList {
	number, isNumber := v.(json.Number)
	var err error
	switch t.Kind() {
	case reflect.String:
		if _, ok := v.(string); ok {
			return nil
		}
		if isComposite(v) {
			return wrongType(path, v, "want a string")
		}
		return wrongType(path, v, "want a string: put it in quotes")
	case reflect.Bool:
		if _, ok := v.(bool); ok {
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if _, err = strconv.ParseInt(number.String(), 10, t.Bits()); isNumber && err == nil {
			return nil
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if _, err = strconv.ParseUint(number.String(), 10, t.Bits()); isNumber && err == nil {
			return nil
		}
	case reflect.Float32, reflect.Float64:
		if _, err = strconv.ParseFloat(number.String(), t.Bits()); isNumber && err == nil {
			return nil
		}
	default: // an interface takes anything
		return nil
	}
	return wrongType(path, v, want(t))
}

// want says in words what a value of t looks like.
func want(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "want a string"
	case reflect.Bool:
		return "want true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("want a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("want a whole number from 0 to %d", uint64(1)<<(t.Bits()-1)*2-1)
	case reflect.Float32, reflect.Float64:
		return "want a number"
	case reflect.Slice, reflect.Array:
		return "want a list"
	default:
		return "want an object"
	}
}

func wrongType(path *field.Path, v any, detail string) field.ErrorList {
	if v == nil {
		detail = "null: " + detail
	}
	return field.ErrorList{field.TypeInvalid(path, excerpt(v), detail)}
}

func isComposite(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// excerpt shortens a value so that an error stays one line. Scalars keep their type, since the
// printed form of the error shows it.
func excerpt(v any) any {
	const limit = 80
	switch v := v.(type) {
	case bool, nil:
		return v
	case string:
		if len(v) > limit {
			return v[:limit] + "..."
		}
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if len(b) > limit {
		return string(b[:limit]) + "..."
	}
	return json.RawMessage(b)
}

// jsonFields returns the fields of a struct by their name on the wire, those of embedded structs
// included.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name != "":
			out[name] = f.Type
		case f.Anonymous:
			maps.Copy(out, jsonFields(f.Type))
		default:
			out[f.Name] = f.Type
		}
	}
	return out
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// nearest returns the candidate that was probably meant: the same word in another case, or one
// within two edits (one for short words).
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 3
	if len(word) < 6 {
		bestDistance = 2
	}
	if len(word) > 128 {
		return ""
	}
	for _, c := range candidates {
		d := editDistance(strings.ToLower(word), strings.ToLower(c))
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
