package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	v3 "weft/api/v3"
	"weft/model/selector"
	"weft/node/datastore"
)

// outputs are the forms that get prints in; the first is the default.
func outputs() []string { return []string{"table", "wide", "yaml", "json", "name"} }

// getOptions say what to show and how.
type getOptions struct {
	namespace     string
	allNamespaces bool
	output        string
	selector      string
	watch         bool
	showLabels    bool
	noHeaders     bool

	matches func(map[string]string) bool
}

func getCommand() *cobra.Command {
	var o getOptions
	c := &cobra.Command{
		Use:   "get KIND[,KIND...] [NAME...]",
		Short: "Show resources",
		Long: `Shows resources of a kind, all or by name, as a table or in a form that "weft apply" takes.

Kinds go by their plural, singular and short names: ippools, ippool, pool. Namespaced kinds are
looked up in the namespace "default", unless -n or -A says otherwise. The selector of -l is the one
of the resources themselves (rack == 'r1' && !has(old)); rack=r1,old!=yes is understood as well.

The values of Secrets are shown where one is asked for by its name, as YAML or JSON, and nowhere else.

With -w the changes are shown as they come, until interrupted, also over a restart of the store; as
JSON, each is {"type": "ADDED"|"MODIFIED"|"DELETED", "object": ...}.`,
		Example: `  weft get nodes
  weft get ippools -o wide
  weft get ippool rack1 -o yaml
  weft get nodes -l 'rack == "r1"' -o name
  weft get workloadendpoints -A
  weft get ippools -w`,
		ValidArgsFunction: completeKindThenNames,
		Args:              minArgs("KIND"),
	}
	f := c.Flags()
	f.StringVarP(&o.namespace, "namespace", "n", "", "`namespace` of namespaced resources (default \"default\")")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "resources of all namespaces")
	f.StringVarP(&o.output, "output", "o", "table", "output `format`: "+oneOf(outputs()))
	f.StringVarP(&o.selector, "selector", "l", "", "only resources whose labels match this `selector`")
	f.BoolVarP(&o.watch, "watch", "w", false, "go on showing changes")
	f.BoolVar(&o.showLabels, "show-labels", false, "show labels in the last column of a table")
	f.BoolVar(&o.noHeaders, "no-headers", false, "leave the header of a table out")
	fixedCompletion(c, "output", outputs()...)
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		targets, err := o.check(args)
		if err != nil {
			return err
		}
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		g := getter{store: store, o: o, cmd: cmd}
		if o.watch {
			return g.watch(cmd.Context(), targets[0])
		}
		return g.get(cmd.Context(), targets)
	}
	return c
}

// check validates the options together with the arguments.
func (o *getOptions) check(args []string) ([]target, error) {
	if !slices.Contains(outputs(), o.output) {
		return nil, Usagef("unknown output format %q: want %s", o.output, oneOf(outputs()))
	}
	targets, err := parseTargets(spellOut(args))
	if err != nil {
		return nil, err
	}
	names := 0
	for _, t := range targets {
		names += len(t.names)
	}
	switch {
	case o.watch && len(targets) > 1:
		return nil, Usagef("-w takes one kind, not %d", len(targets))
	case names > 0 && o.selector != "":
		return nil, Usagef("-l and names exclude each other")
	case names > 0 && o.allNamespaces:
		return nil, Usagef("-A and names exclude each other: a name is one of a namespace, give -n")
	case o.namespace != "" && o.allNamespaces:
		return nil, Usagef("-n and -A exclude each other")
	}
	o.matches, err = parseSelector(o.selector)
	return targets, err
}

// spellOut takes a plain name that kinds of several groups have for all of them, where nothing but the
// kinds is asked for.
func spellOut(args []string) []string {
	if len(args) != 1 || strings.Contains(args[0], "/") {
		return args
	}
	var kinds []string
	for _, name := range strings.Split(args[0], ",") {
		if several := v3.Ambiguous(name); several != nil {
			kinds = append(kinds, several...)
		} else {
			kinds = append(kinds, name)
		}
	}
	return []string{strings.Join(kinds, ",")}
}

// parseSelector reads the selector language of the resources, or else that of Kubernetes' tools.
func parseSelector(s string) (func(map[string]string) bool, error) {
	own, err := selector.Parse(s)
	if err == nil {
		return own.Matches, nil
	}
	if kube, kubeErr := labels.Parse(s); kubeErr == nil {
		return func(l map[string]string) bool { return kube.Matches(labels.Set(l)) }, nil
	}
	return nil, Usagef("selector of -l: %w", err)
}

// getter carries out one get.
type getter struct {
	store datastore.Store
	o     getOptions
	cmd   *cobra.Command
}

// found is what get shows of one kind.
type found struct {
	kind    v3.KindInfo
	objects []v3.Object
	named   bool // each was asked for by its name
}

func (g getter) get(ctx context.Context, targets []target) error {
	var all []found
	missing, one := 0, len(targets) == 1 && len(targets[0].names) == 1
	for _, t := range targets {
		var objects []v3.Object
		var err error
		if len(t.names) > 0 {
			var m int
			objects, m, err = g.byName(ctx, t)
			missing += m
		} else {
			objects, err = g.list(ctx, t.kind)
		}
		if err != nil {
			return err
		}
		all = append(all, found{t.kind, objects, len(t.names) > 0})
	}
	if !one || missing == 0 {
		if err := g.print(all, one); err != nil {
			return err
		}
	}
	if missing > 0 {
		return &ExitError{Code: exitFailed}
	}
	return nil
}

// byName reads each name; what cannot be read is told and counted.
func (g getter) byName(ctx context.Context, t target) ([]v3.Object, int, error) {
	var objects []v3.Object
	missing := 0
	for _, name := range t.names {
		key := keyFor(t.kind, g.o.namespace, name)
		o, err := g.store.Get(ctx, key)
		if builtin, ok := v3.BuiltinTier(name); ok && t.kind.Kind == v3.KindTier && errors.Is(err, datastore.ErrNotFound) {
			o, err = builtin, nil
		}
		switch {
		case errors.Is(err, datastore.ErrUnavailable) || ctx.Err() != nil:
			return nil, 0, failed("get", refOf(t.kind, name), err)
		case errors.Is(err, datastore.ErrNotFound):
			where := ""
			if t.kind.Namespaced {
				where = " in namespace " + key.Namespace
			}
			printError(g.cmd.ErrOrStderr(), fmt.Errorf("get %s: not found%s; `weft get %s` shows what there is", refOf(t.kind, name), where, t.kind.Plural))
			missing++
		case err != nil:
			printError(g.cmd.ErrOrStderr(), failed("get", refOf(t.kind, name), err))
			missing++
		default:
			objects = append(objects, o)
		}
	}
	return objects, missing, nil
}

func (g getter) list(ctx context.Context, k v3.KindInfo) ([]v3.Object, error) {
	list, err := g.store.List(ctx, k.Kind)
	if err != nil {
		return nil, failed("get", k.Plural, err)
	}
	for _, r := range list.Rejected {
		if r.Key.Kind == k.Kind && g.inNamespace(k, r.Key.Namespace) {
			g.reject(k, r.Key, r.Err)
		}
	}
	var objects []v3.Object
	for _, o := range withBuiltin(k, list.Items) {
		if g.wanted(k, o) {
			objects = append(objects, o)
		}
	}
	slices.SortFunc(objects, func(a, b v3.Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objects, nil
}

// withBuiltin adds the tiers that exist although nobody wrote them.
func withBuiltin(k v3.KindInfo, items []v3.Object) []v3.Object {
	if k.Kind != v3.KindTier {
		return items
	}
	for _, b := range v3.BuiltinTiers() {
		if !slices.ContainsFunc(items, func(o v3.Object) bool { return o.GetName() == b.Name }) {
			items = append(items, b)
		}
	}
	return items
}

func (g getter) reject(k v3.KindInfo, key datastore.Key, err error) {
	printError(g.cmd.ErrOrStderr(), fmt.Errorf("get %s: it is stored but cannot be understood, so it is left out: %w; replace it with `weft apply` or delete it", refOf(k, key.Name), err))
}

func (g getter) inNamespace(k v3.KindInfo, namespace string) bool {
	return !k.Namespaced || g.o.allNamespaces || namespace == cmp.Or(g.o.namespace, defaultNamespace)
}

func (g getter) wanted(k v3.KindInfo, o v3.Object) bool {
	return g.inNamespace(k, o.GetNamespace()) && g.o.matches(o.GetLabels())
}

// print shows what was found; one tells that a single resource was asked for by name.
func (g getter) print(all []found, one bool) error {
	out := g.cmd.OutOrStdout()
	switch g.o.output {
	case "yaml", "json":
		var objects []any
		for _, f := range all {
			for _, o := range f.objects {
				objects = append(objects, shown(o, f.named))
			}
		}
		if one {
			return printValue(out, g.o.output, objects[0])
		}
		return printList(out, g.o.output, objects)
	case "name":
		for _, f := range all {
			for _, o := range f.objects {
				if _, err := fmt.Fprintln(out, clean(refOf(f.kind, o.GetName()))); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for i, f := range all {
		if len(f.objects) == 0 {
			fmt.Fprintln(g.cmd.ErrOrStderr(), g.none(f.kind))
			continue
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		rows := newRows(f.kind, g.o, time.Now())
		t := table{header: rows.header()}
		for _, o := range f.objects {
			t.add(rows.row(o, len(all) > 1)...)
		}
		if err := t.print(out); err != nil {
			return err
		}
	}
	return nil
}

// none says that there is nothing to show, and where it was looked for.
func (g getter) none(k v3.KindInfo) string {
	text := "No " + k.Plural + " found"
	if g.o.selector != "" {
		text += " that match " + g.o.selector
	}
	if k.Namespaced && !g.o.allNamespaces {
		text += " in namespace " + cmp.Or(g.o.namespace, defaultNamespace) + "; -A looks in all"
	}
	return clean(text) + "."
}

// rows turns resources of one kind into rows of a table.
type rows struct {
	kind    v3.KindInfo
	columns []v3.Column
	o       getOptions
	now     time.Time
}

func newRows(k v3.KindInfo, o getOptions, now time.Time) rows {
	r := rows{kind: k, o: o, now: now}
	for _, c := range k.Columns {
		if !c.Wide || o.output == "wide" {
			r.columns = append(r.columns, c)
		}
	}
	return r
}

func (r rows) header() []string {
	if r.o.noHeaders {
		return nil
	}
	var h []string
	if r.kind.Namespaced && r.o.allNamespaces {
		h = append(h, "NAMESPACE")
	}
	h = append(h, "NAME")
	for _, c := range r.columns {
		h = append(h, c.Name)
	}
	h = append(h, "AGE")
	if r.o.showLabels {
		h = append(h, "LABELS")
	}
	return h
}

func (r rows) row(o v3.Object, withKind bool) []string {
	var cells []string
	if r.kind.Namespaced && r.o.allNamespaces {
		cells = append(cells, o.GetNamespace())
	}
	name := o.GetName()
	if withKind {
		name = refOf(r.kind, name)
	}
	cells = append(cells, name)
	for _, c := range r.columns {
		cells = append(cells, orDash(c.Value(o)))
	}
	cells = append(cells, age(r.now, o.GetCreationTimestamp().Time))
	if r.o.showLabels {
		cells = append(cells, labelText(o.GetLabels()))
	}
	return cells
}

func labelText(l map[string]string) string {
	if len(l) == 0 {
		return "-"
	}
	var pairs []string
	for k, v := range l {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
