package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
)

// printObject writes one resource as YAML or JSON, as apply takes it.
func printObject(w io.Writer, format string, o v3.Object) error {
	return printValue(w, format, o)
}

// printList writes resources as one List, which apply takes as well.
func printList(w io.Writer, format string, objects []v3.Object) error {
	items := make([]any, 0, len(objects))
	for _, o := range objects {
		items = append(items, o)
	}
	return printValue(w, format, map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

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
