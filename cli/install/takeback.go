package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v3 "weft/api/v3"
)

// takeBack clears what an installation with another overlay has set of the network and this one says nothing of. What
// anybody else has set since, or as well, stays.
func (c *Cluster) takeBack(ctx context.Context, rest []Object) error {
	others, err := settingsOfOthers(rest)
	if err != nil {
		return err
	}
	for _, o := range others {
		now, err := c.get(ctx, o)
		if err != nil {
			return err
		}
		if !now.managed() {
			continue
		}
		if err := c.apply(ctx, o); err != nil {
			return fmt.Errorf("take back what another overlay has set: %w", err)
		}
		c.Say("%s %s: what another overlay has set is taken back", o.Kind(), o.Name())
	}
	return nil
}

// settingsOfOthers are this project's resources in any overlay that are not in rest, without fields.
func settingsOfOthers(rest []Object) ([]Object, error) {
	known := map[string]bool{}
	for _, o := range rest {
		known[o.path()] = true
	}
	var others []Object
	for _, name := range Overlays() {
		_, all, err := Manifests(Options{Overlay: name})
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			version, _ := o["apiVersion"].(string)
			if !strings.HasPrefix(version, v3.Group+"/") || known[o.path()] {
				continue
			}
			known[o.path()] = true
			others = append(others, Object{"apiVersion": version, "kind": o.Kind(), "metadata": map[string]any{"name": o.Name()}})
		}
	}
	return others, nil
}

// managed tells whether fields of a resource are what weft install applied.
func (o Object) managed() bool {
	all, _ := o.at("metadata", "managedFields").([]any)
	return slices.ContainsFunc(all, func(f any) bool {
		m, ok := f.(map[string]any)
		return ok && m["manager"] == manager && m["operation"] == "Apply"
	})
}
