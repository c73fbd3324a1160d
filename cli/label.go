package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// labelChange is one "k=v" or "k-".
type labelChange struct {
	key, value string
	remove     bool
}

func labelCommand() *cobra.Command {
	var namespace string
	var overwrite bool
	c := &cobra.Command{
		Use:   "label KIND NAME... KEY=VALUE... KEY-...",
		Short: "Set and take away labels of a resource",
		Long: `Sets labels (KEY=VALUE) and takes labels away (KEY-). A label that has another value already is left
alone, which is an error, unless --overwrite is given. Everything else of the resource stays.`,
		Example: `  weft label node n1 rack=r1
  weft label node n1 rack=r2 old- --overwrite`,
		ValidArgsFunction: completeKindThenNames,
		Args:              minArgs("KIND", "NAME", "KEY=VALUE or KEY-"),
	}
	addNamespaceFlag(c, &namespace)
	c.Flags().BoolVar(&overwrite, "overwrite", false, "change labels that have another value already")
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		names, changes, err := parseLabelArgs(args)
		if err != nil {
			return err
		}
		in, err := namedInputs(names, namespace)
		if err != nil {
			return err
		}
		for _, i := range in {
			if err := writable(i.kind, "label"); err != nil {
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
			return w.modify(cmd.Context(), "label", i, "labeled", func(o v3.Object) (v3.Object, error) {
				return o, setLabels(o, changes, overwrite)
			})
		})
	}
	return c
}

// parseLabelArgs tells names from changes.
func parseLabelArgs(args []string) ([]string, []labelChange, error) {
	var names []string
	var changes []labelChange
	for i, a := range args {
		key, value, set := strings.Cut(a, "=")
		remove := !set && strings.HasSuffix(a, "-")
		if i == 0 || !set && !remove {
			if len(changes) > 0 {
				return nil, nil, Usagef("%q: want KEY=VALUE or KEY-", a)
			}
			names = append(names, a)
			continue
		}
		if remove {
			key = strings.TrimSuffix(a, "-")
		}
		if bad := validation.IsQualifiedName(key); len(bad) > 0 {
			return nil, nil, Usagef("%q: %q is no label name: %s", a, key, strings.Join(bad, ", "))
		}
		if bad := validation.IsValidLabelValue(value); len(bad) > 0 {
			return nil, nil, Usagef("%q: %q is no label value: %s", a, value, strings.Join(bad, ", "))
		}
		if slices.ContainsFunc(changes, func(c labelChange) bool { return c.key == key }) {
			return nil, nil, Usagef("label %q is given twice", key)
		}
		changes = append(changes, labelChange{key, value, remove})
	}
	if len(changes) == 0 {
		return nil, nil, Usagef("KEY=VALUE or KEY- is missing")
	}
	return names, changes, nil
}

func setLabels(o v3.Object, changes []labelChange, overwrite bool) error {
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	for _, c := range changes {
		old, there := labels[c.key]
		switch {
		case c.remove:
			delete(labels, c.key)
		case there && old != c.value && !overwrite:
			return fmt.Errorf("label %s is %q already; give --overwrite to change it", c.key, old)
		default:
			labels[c.key] = c.value
		}
	}
	o.SetLabels(labels)
	return nil
}

// modify reads a resource, changes it with f and writes it back, until nobody came in between.
// done is what is said when it made a difference.
func (w writer) modify(ctx context.Context, verb string, in input, done string, f func(v3.Object) (v3.Object, error)) (string, error) {
	key := datastore.KeyOf(in.object)
	result := done
	err := retry(func() error {
		live, err := w.store.Get(ctx, key)
		if err != nil {
			return err
		}
		changed, err := f(live.DeepCopyObject().(v3.Object))
		if err != nil {
			return err
		}
		v3.Default(changed)
		if err := v3.Validate(changed); err != nil {
			return err
		}
		_, same, err := adopt(input{object: changed, kind: in.kind}, live)
		if err != nil {
			return err
		}
		if same {
			result = "unchanged"
			return nil
		}
		_, err = w.store.Update(ctx, changed)
		return err
	})
	if errors.Is(err, datastore.ErrInvalid) {
		return "", fmt.Errorf("%s %s: %w; replace it with `weft apply`", verb, w.ref(in), err)
	}
	if err != nil {
		return "", failed(verb, w.ref(in), err)
	}
	return result, nil
}
