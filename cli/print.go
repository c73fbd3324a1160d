package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
)

// shown is what is printed of a resource: of a Secret, the values only when it was asked for by its name.
func shown(o v3.Object, named bool) any {
	if named {
		return o
	}
	return v3.Redacted(o)
}

// printList writes resources as one List, which apply takes as well.
func printList(w io.Writer, format string, objects []any) error {
	if objects == nil {
		objects = []any{}
	}
	return printValue(w, format, map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
}

// printValue writes a resource or what is made of some as YAML or JSON, as apply takes it.
func printValue(w io.Writer, format string, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the answer as JSON: %w", err)
	}
	text := cleanJSON(b.String())
	if format == "yaml" {
		y, err := yaml.JSONToYAML([]byte(text))
		if err != nil {
			return fmt.Errorf("write the answer as YAML: %w", err)
		}
		text = string(y)
	}
	_, err := io.WriteString(w, text)
	return err
}
