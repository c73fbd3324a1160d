package calico

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

const (
	page = 100 // objects asked for at once
	// maxAnswer bounds one answer of the API server, in bytes.
	maxAnswer = 256 << 20
	// maxPages bounds what is read of a kind: 2 million objects.
	maxPages = 20_000
)

// Parse reads what kubectl or calicoctl printed: documents of YAML or JSON, and lists of them. source is what to call it.
func Parse(data []byte, source string) ([]Stored, error) {
	var out []Stored
	docs := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for n := 1; ; n++ {
		var raw json.RawMessage
		err := docs.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s, document %d: %w", source, n, err)
		}
		if len(raw) == 0 { // an empty document
			continue
		}
		var fields map[string]any
		if err := utiljson.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("read %s, document %d: %w", source, n, err)
		}
		if fields == nil {
			continue
		}
		found, err := spread(fields, source)
		if err != nil {
			return nil, fmt.Errorf("read %s, document %d: %w", source, n, err)
		}
		out = append(out, found...)
	}
}

// spread takes a list apart. Its items need not repeat what kind they are.
func spread(fields map[string]any, source string) ([]Stored, error) {
	kind, _ := fields["kind"].(string)
	itemKind, isList := strings.CutSuffix(kind, "List")
	items, there := fields["items"]
	if !isList || !there {
		return []Stored{{source, fields}}, nil
	}
	list, ok := items.([]any)
	if !ok && items != nil {
		return nil, fmt.Errorf("items of %s: want a list", kind)
	}
	var out []Stored
	for i, item := range list {
		f, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("items[%d] of %s: want an object", i, kind)
		}
		if itemKind != "" && f["kind"] == nil && f["apiVersion"] == nil {
			f["kind"], f["apiVersion"] = itemKind, fields["apiVersion"]
		}
		found, err := spread(f, source)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// Cluster is a Kubernetes API server that has Calico's objects.
type Cluster struct {
	Client *http.Client // with credentials
	Base   *url.URL
}

// Read reads every object of crd.projectcalico.org/v1. A cluster that does not have that group is an error.
func (c Cluster) Read(ctx context.Context) ([]Stored, error) {
	var found metav1.APIResourceList
	if err := c.get(ctx, "/apis/"+oldVersion, &found); err != nil {
		return nil, fmt.Errorf("find Calico's objects: %w", err)
	}
	var out []Stored
	for _, r := range found.APIResources {
		if !slices.Contains(r.Verbs, "list") { // a part of an object, as its status
			continue
		}
		next := ""
		for n := 0; ; n++ {
			if n == maxPages {
				return nil, fmt.Errorf("read %s: more than %d pages of %d", r.Name, maxPages, page)
			}
			query := url.Values{"limit": {fmt.Sprint(page)}}
			if next != "" {
				query.Set("continue", next)
			}
			var list map[string]any
			if err := c.get(ctx, "/apis/"+oldVersion+"/"+r.Name+"?"+query.Encode(), &list); err != nil {
				return nil, fmt.Errorf("read %s: %w", r.Name, err)
			}
			items, err := spread(list, c.Base.String())
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", r.Name, err)
			}
			out = append(out, items...)
			meta, _ := list["metadata"].(map[string]any)
			if next, _ = meta["continue"].(string); next == "" {
				break
			}
		}
	}
	return out, nil
}

func (c Cluster) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Base.String(), "/")+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("GET %s of %s: %w", path, c.Base, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("GET %s of %s: more than %d MiB", path, c.Base, maxAnswer>>20)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s does not have %s: name the cluster that has, or files with -f", c.Base, path)
	case resp.StatusCode != http.StatusOK:
		var status metav1.Status
		_ = json.Unmarshal(data, &status)
		return fmt.Errorf("GET %s of %s: %s %s", path, c.Base, resp.Status, status.Message)
	}
	return utiljson.Unmarshal(data, into)
}
