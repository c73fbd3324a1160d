package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
)

func patchTypes() []string { return []string{"merge", "json", "strategic"} }

func patchCommand() *cobra.Command {
	var namespace, patch, kind string
	c := &cobra.Command{
		Use:   "patch KIND NAME... -p PATCH",
		Short: "Change some fields of a resource",
		Long: `Changes some fields of a resource and leaves the rest. The patch is JSON or YAML: a merge patch
(RFC 7396: null takes a field away, lists are replaced whole), or with --type json a list of
operations (RFC 6902). --type strategic is taken as merge.`,
		Example: `  weft patch ippool rack1 -p '{"spec":{"natOutgoing":true}}'
  weft patch node n1 -p '{"metadata":{"labels":{"rack":"r1"}}}'
  weft patch ippool rack1 --type json -p '[{"op":"replace","path":"/spec/vxlanMode","value":"CrossSubnet"}]'`,
		ValidArgsFunction: completeKindThenNames,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) < 1:
				return errors.New("KIND and NAME are missing")
			case patch == "":
				return errors.New("-p PATCH is missing")
			case !slices.Contains(patchTypes(), kind):
				return fmt.Errorf("unknown patch type %q: want %s", kind, oneOf(patchTypes()))
			}
			return nil
		},
	}
	addNamespaceFlag(c, &namespace)
	c.Flags().StringVarP(&patch, "patch", "p", "", "the `patch`, JSON or YAML")
	c.Flags().StringVar(&kind, "type", "merge", "`type` of the patch: merge, json or strategic (taken as merge)")
	fixedCompletion(c, "type", patchTypes()...)
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		apply, err := parsePatch(kind, patch)
		if err != nil {
			return err
		}
		in, err := namedInputs(args, namespace)
		if err != nil {
			return err
		}
		for _, i := range in {
			if err := writable(i.kind, "patch"); err != nil {
				return err
			}
		}
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		w := writer{store}
		return each(cmd, in, func(i input) (string, error) {
			changed := i
			result, err := w.modify(cmd.Context(), "patch", i, "patched", func(o v3.Object) (_ v3.Object, err error) {
				changed.object, err = patched(i.kind, o, apply)
				return changed.object, err
			})
			if err == nil {
				err = warnOfNoEffect(cmd.ErrOrStderr(), changed)
			}
			return result, err
		})
	}
	return c
}

// parsePatch reads a patch and returns what does it to a JSON document.
func parsePatch(kind, patch string) (func(any) (any, error), error) {
	data, err := yaml.YAMLToJSON([]byte(patch))
	if err != nil {
		return nil, Usagef("-p is neither JSON nor YAML: %w", err)
	}
	value, err := decodeJSON(data)
	if err != nil {
		return nil, Usagef("-p: %w", err)
	}
	if kind == "json" {
		if _, ok := value.([]any); !ok {
			return nil, Usagef(`-p is no list of operations, which --type json wants: [{"op":"replace","path":"/spec/...","value":...}]`)
		}
		return func(doc any) (any, error) { return jsonPatch(doc, data) }, nil
	}
	if _, ok := value.(map[string]any); !ok {
		return nil, Usagef(`-p is no object, which a merge patch is: {"spec":{...}}`)
	}
	return func(doc any) (any, error) { return mergePatch(doc, value), nil }, nil
}

// patched returns o after the patch, read as strictly as a file.
func patched(k v3.KindInfo, o v3.Object, apply func(any) (any, error)) (v3.Object, error) {
	before, err := toMap(o)
	if err != nil {
		return nil, err
	}
	after, err := apply(before)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("write the patched %s as JSON: %w", k.Kind, err)
	}
	objects, err := v3.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("the patched resource is not valid: %w", err)
	}
	if len(objects) != 1 {
		return nil, errors.New("the patch leaves no resource")
	}
	p := objects[0]
	kind, _ := v3.KindOf(p)
	for _, f := range []struct{ name, old, new string }{
		{"kind", k.Kind, kind},
		{"metadata.name", o.GetName(), p.GetName()},
		{"metadata.namespace", o.GetNamespace(), p.GetNamespace()},
		{"metadata.uid", string(o.GetUID()), string(p.GetUID())},
		{"metadata.resourceVersion", o.GetResourceVersion(), p.GetResourceVersion()},
	} {
		if f.old != f.new {
			return nil, fmt.Errorf("a patch cannot change %s from %q to %q", f.name, f.old, f.new)
		}
	}
	return p, nil
}
