package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
	"weft/node/accept"
	"weft/node/datastore"
)

func applyCommand() *cobra.Command {
	return fileCommand(fileVerb{
		name:  "apply",
		short: "Create or change resources from files",
		long: `Makes every resource of the files what the file says: creates it, or replaces what is stored, or
leaves it alone when nothing differs. Each resource is read and checked before anything is written;
what depends on other resources (two pools that overlap, say) is checked as it is written, and then
what came before stays. The order is one that works (namespaces and pools first). A file made by
"weft get -o yaml" is refused when the resource changed since, unless its resourceVersion is taken
out. A field that has no effect yet gives a warning.`,
		example: `  weft apply -f pool.yaml
  weft apply -f manifests -f more.json
  weft apply -f -`,
		do: writer.apply,
	})
}

func createCommand() *cobra.Command {
	return fileCommand(fileVerb{
		name:  "create",
		short: "Create resources from files; fails on those that exist",
		long: `Creates every resource of the files and fails on those that exist already. Each resource is read and
checked before anything is written.`,
		example: `  weft create -f pool.yaml`,
		do:      writer.create,
	})
}

func replaceCommand() *cobra.Command {
	return fileCommand(fileVerb{
		name:  "replace",
		short: "Replace resources from files; fails on those that do not exist",
		long: `Replaces every resource of the files and fails on those that do not exist. Each resource is read and
checked before anything is written.`,
		example: `  weft replace -f pool.yaml`,
		do:      writer.replace,
	})
}

// fileVerb is a command that does one thing to each resource of the files it is given.
type fileVerb struct {
	name, short, long, example string
	// do returns what became of the resource.
	do func(writer, context.Context, input) (string, error)
}

func fileCommand(v fileVerb) *cobra.Command {
	var files []string
	var namespace string
	c := &cobra.Command{
		Use:     v.name + " -f FILE|DIR|-",
		Short:   v.short,
		Long:    v.long,
		Example: v.example,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unexpected argument %q: resources come from files, name them with -f", args[0])
			}
			if len(files) == 0 {
				return errors.New("-f is missing: name a file, a directory, or - for standard input")
			}
			return nil
		},
	}
	addFileFlag(c, &files)
	addNamespaceFlag(c, &namespace)
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		in, err := readInputs(files, cmd.InOrStdin(), namespaceOf(cmd, namespace))
		if err != nil {
			return reportAll(cmd, err)
		}
		var refused []error
		for _, i := range in {
			if err := writable(i.kind, v.name); err != nil {
				refused = append(refused, fmt.Errorf("read %s: %w", i.source, err))
			}
		}
		if len(refused) > 0 {
			return reportAll(cmd, errors.Join(refused...))
		}
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		sortForWriting(in)
		return each(cmd, in, func(i input) (string, error) {
			result, err := v.do(writer{store}, cmd.Context(), i)
			if err == nil {
				err = warnOfNoEffect(cmd.ErrOrStderr(), i)
			}
			return result, err
		})
	}
	return c
}

// warnOfNoEffect names the fields of a written resource that ask for something this release keeps
// and does not do.
func warnOfNoEffect(w io.Writer, in input) error {
	fields, err := accept.WithoutEffect(in.object)
	if err != nil || len(fields) == 0 {
		return err
	}
	_, err = fmt.Fprintf(w, "weft: warning: %s: without effect in this release: %s; see docs/features.md\n",
		clean(refOf(in.kind, in.object.GetName())), clean(strings.Join(fields, ", ")))
	return err
}

func addNamespaceFlag(c *cobra.Command, namespace *string) {
	c.Flags().StringVarP(namespace, "namespace", "n", "", "`namespace` of namespaced resources (default \"default\")")
}

// each does f to every resource and prints a line for each: on standard output what became of it,
// on standard error what failed.
func each(cmd *cobra.Command, in []input, f func(input) (string, error)) error {
	bad := 0
	for _, i := range in {
		result, err := f(i)
		if err != nil {
			printError(cmd.ErrOrStderr(), err)
			bad++
			// A store that is away stays so for the rest: one line says it.
			if errors.Is(err, datastore.ErrUnavailable) || cmd.Context().Err() != nil {
				break
			}
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", clean(refOf(i.kind, i.object.GetName())), result)
	}
	if bad > 0 {
		return &ExitError{Code: exitFailed}
	}
	return nil
}

// reportAll prints joined errors, a line for each.
func reportAll(cmd *cobra.Command, err error) error {
	errs := flatten(err)
	if len(errs) < 2 {
		return err
	}
	listed := false
	for _, e := range errs {
		// Every unknown kind brings the list of those that there are: once is enough.
		if before, _, ok := strings.Cut(e.Error(), ", want one of "+kindList); ok {
			if listed {
				e = errors.New(before)
			}
			listed = true
		}
		printError(cmd.ErrOrStderr(), e)
	}
	return &ExitError{Code: exitFailed}
}

// kindList is what the list of all kinds begins with.
const kindList = v3.KindBGPConfiguration + ", "

// flatten takes joined errors apart, as far as nothing was said about several of them together.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, flatten(e)...)
	}
	return errs
}

func deleteCommand() *cobra.Command {
	var files []string
	var opts deleteOptions
	c := &cobra.Command{
		Use:   "delete (KIND NAME... | -f FILE|DIR|-)",
		Short: "Delete resources by name or from files",
		Long: `Deletes resources. What does not exist is an error, unless --ignore-not-found is given.

An IPPool is deleted as its users expect: it is disabled, so that no node takes another address from
it; then, if no pod has an address of it, its empty blocks are given back and it is deleted. A pool
that pods still use is left as it was: delete those pods first, or give --force, which leaves them
with addresses of no pool, which other nodes do not reach. Addresses that another pool holds as well,
which took its place, are no hindrance. A WorkloadEndpoint belongs to the node that runs the pod, and
goes with the pod; a Node that has pods, or whose service has published its state, belongs to that
service. --force deletes those of a node that is gone for good.`,
		Example: `  weft delete ippool rack1
  weft delete ippool/rack1 node/n3 --ignore-not-found
  weft delete -f pool.yaml`,
		ValidArgsFunction: completeKindThenNames,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(files) > 0 && len(args) > 0:
				return fmt.Errorf("unexpected argument %q: with -f, the files name the resources", args[0])
			case len(files) == 0 && len(args) == 0:
				return errors.New("KIND and NAME are missing, or -f FILE")
			}
			return nil
		},
	}
	addFileFlag(c, &files)
	addNamespaceFlag(c, &opts.namespace)
	c.Flags().BoolVar(&opts.ignoreMissing, "ignore-not-found", false, "what does not exist is no error")
	c.Flags().BoolVar(&opts.force, "force", false, "delete an IPPool although pods use it, a WorkloadEndpoint or Node although its node keeps it")
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := deleteInputs(cmd, files, args, opts.namespace)
		if err != nil {
			return err
		}
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		d := deleter{writer{store}, opts, cmd.OutOrStdout()}
		return each(cmd, in, func(i input) (string, error) { return d.delete(cmd.Context(), i) })
	}
	return c
}

// deleteInputs returns what to delete, what others need last.
func deleteInputs(cmd *cobra.Command, files, args []string, namespace string) ([]input, error) {
	var in []input
	var err error
	if len(files) > 0 {
		in, err = readInputs(files, cmd.InOrStdin(), namespaceOf(cmd, namespace))
	} else {
		in, err = namedInputs(args, namespace)
	}
	if err != nil {
		return nil, reportAll(cmd, err)
	}
	for _, i := range in {
		if err := writable(i.kind, "delete"); err != nil {
			return nil, err
		}
	}
	slices.Reverse(in)
	sortForWriting(in)
	slices.Reverse(in)
	return in, nil
}

// namedInputs reads KIND NAME... or KIND/NAME....
func namedInputs(args []string, namespace string) ([]input, error) {
	targets, err := parseTargets(args)
	if err != nil {
		return nil, err
	}
	var in []input
	for _, t := range targets {
		if len(t.names) == 0 {
			return nil, Usagef("NAME is missing: which %s?", t.kind.Plural)
		}
		for _, name := range t.names {
			key := keyFor(t.kind, namespace, name)
			o := t.kind.New()
			o.SetNamespace(key.Namespace)
			o.SetName(key.Name)
			in = append(in, input{object: o, kind: t.kind})
		}
	}
	return in, nil
}
