package v3

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxNesting bounds how deep a value may nest. No resource comes near; deeper input costs stack.
const maxNesting = 64

// document is one parsed value of an input.
type document struct {
	where string // "document 2 (line 14)"
	tree  any    // map[string]any, []any, string, json.Number, bool or nil
}

// parseDocuments splits and parses an input. What begins as JSON is read as a stream of JSON values,
// everything else as YAML documents. Empty documents are left out, and counted.
func parseDocuments(data []byte) ([]document, error) {
	if looksLikeJSON(data) {
		docs, err := parseJSONStream(data)
		if err == nil {
			return docs, nil
		}
		if docs, yamlErr := parseYAMLDocuments(data); yamlErr == nil {
			return docs, nil
		}
		return nil, err
	}
	return parseYAMLDocuments(data)
}

func looksLikeJSON(data []byte) bool {
	rest, ok := bytes.CutPrefix(bytes.TrimSpace(data), []byte("{"))
	rest = bytes.TrimSpace(rest)
	return ok && len(rest) > 0 && (rest[0] == '"' || rest[0] == '}')
}

func parseJSONStream(data []byte) ([]document, error) {
	var docs []document
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for {
		line := 1 + bytes.Count(data[:skipSpace(data, dec.InputOffset())], []byte("\n"))
		where := fmt.Sprintf("document %d (line %d)", len(docs)+1, line)
		tree, err := parseValue(dec, "", 0)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && len(bytes.TrimSpace(data[dec.InputOffset():])) == 0 {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		docs = append(docs, document{where, tree})
	}
}

func skipSpace(data []byte, from int64) int {
	return len(data) - len(bytes.TrimLeft(data[from:], " \t\r\n"))
}

// parseJSON reads exactly one JSON value.
func parseJSON(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	tree, err := parseValue(dec, "", 0)
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("not JSON: more text after the value, at byte %d", dec.InputOffset())
	}
	return tree, nil
}

// parseValue reads one value token by token, since the standard decoder passes over a repeated key.
func parseValue(dec *json.Decoder, path string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: nested deeper than %d levels", path, maxNesting)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return parseObject(dec, path, depth)
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
			if err != nil {
				return nil, unexpected(err)
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, unexpected(err)
	}
	return token, nil
}

func parseObject(dec *json.Decoder, path string, depth int) (any, error) {
	fields := map[string]any{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, unexpected(err)
		}
		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("%s: got %v, want a quoted field name", path, token)
		}
		at := strings.TrimPrefix(path+"."+key, ".")
		if _, dup := fields[key]; dup {
			return nil, fmt.Errorf("%s: duplicate field", at)
		}
		if fields[key], err = parseValue(dec, at, depth+1); err != nil {
			return nil, unexpected(err)
		}
	}
	_, err := dec.Token()
	return fields, unexpected(err)
}

// unexpected tells an end in the middle of a value from the end of the input.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func parseYAMLDocuments(data []byte) ([]document, error) {
	var docs []document
	var errs []error
	for i, text := range splitYAML(data) {
		where := fmt.Sprintf("document %d (line %d)", i+1, text.line)
		b, err := yaml.YAMLToJSONStrict(text.body)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", where, yamlMessage(err, text.line)))
			continue
		}
		tree, err := parseJSON(b)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
			continue
		}
		if tree != nil {
			docs = append(docs, document{where, tree})
		}
	}
	return docs, errors.Join(errs...)
}

// yamlText is one document of a YAML stream and the line, from 1, on which it begins.
type yamlText struct {
	line int
	body []byte
}

// splitYAML cuts a stream at its "---" lines. A separator before any content opens the first
// document and does not end an empty one.
func splitYAML(data []byte) []yamlText {
	texts := []yamlText{{line: 1}}
	blank := true
	n := 0
	for line := range bytes.Lines(data) {
		n++
		last := &texts[len(texts)-1]
		if isSeparator(line) {
			if len(texts) == 1 && blank {
				last.line, last.body = n+1, nil
			} else {
				texts = append(texts, yamlText{line: n + 1})
			}
			// What follows the dashes on the same line belongs to the document.
			if rest := bytes.TrimSpace(line[3:]); len(rest) > 0 && rest[0] != '#' {
				last = &texts[len(texts)-1]
				last.line, last.body, blank = n, append(rest, '\n'), false
			}
			continue
		}
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			blank = false
		}
		last.body = append(last.body, line...)
	}
	return texts
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// yamlMessage makes one line of the YAML parser's error, with line numbers of the whole input.
func yamlMessage(err error, start int) string {
	text := err.Error()
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:"} {
		text = strings.TrimSpace(strings.TrimPrefix(text, prefix))
	}
	text = regexp.MustCompile(`line \d+`).ReplaceAllStringFunc(text, func(s string) string {
		n, _ := strconv.Atoi(strings.TrimPrefix(s, "line "))
		return fmt.Sprintf("line %d", n+start-1)
	})
	text = strings.ReplaceAll(text, "already set in map", "is a duplicate field")
	// What is quoted in these messages may be the password of a Secret.
	text = regexp.MustCompile("(!!\\w+) `.*`").ReplaceAllString(text, "$1")
	text = regexp.MustCompile(`unknown anchor '.*' referenced`).ReplaceAllString(text, "a value begins with *, which YAML takes for an alias: put it in quotes")
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(slices.DeleteFunc(lines, func(s string) bool { return s == "" }), "; ")
}
