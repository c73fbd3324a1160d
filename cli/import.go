package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"weft/cli/calico"
	"weft/node/datastore"
	"weft/node/datastore/kube"
)

func importCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import",
		Short: "Take over what another system keeps",
		Long:  `Takes over the resources that another system keeps.`,
	}
	c.AddCommand(importCalicoCommand())
	return c
}

// importFlags are those of weft import calico.
type importFlags struct {
	files     []string
	from      string
	dryRun    bool
	overwrite bool
	addresses bool
}

func importCalicoCommand() *cobra.Command {
	var o importFlags
	c := &cobra.Command{
		Use:   "calico",
		Short: "Import what Calico keeps as crd.projectcalico.org/v1",
		Long: `Reads Calico's objects (crd.projectcalico.org/v1) and writes ours (projectcalico.org/v3). They come from the API server
that is the store, from that of another kubeconfig (--from), or from files (-f) that "kubectl get -o yaml" or
"calicoctl get -o yaml" wrote. Calico's objects stay as they are.

A line for each object says what became of it: created, changed, same, left out, or refused, and why. Lines below it name
fields that have no effect here. --dry-run says it beforehand and writes nothing; what only the store can tell is told on
writing. An object that is here and differs is refused, with the fields that do, unless --overwrite is given. It may be run
again: what was imported is "same".

Blocks, their affinities and handles, the books of the addresses in use, are imported with --addresses only. They belong to
pods that Calico attached and that stay: without them nodes give these addresses to other pods. They go before the pools, so
that no node claims a block that is in use, and those that differ from ours are never overwritten.

Exit code 1 if anything was refused.`,
		Example: `  weft import calico --dry-run
  weft import calico --addresses
  weft import calico -f calico.yaml --overwrite
  weft import calico --from ~/.kube/config --etcd-endpoints http://192.0.2.1:2379`,
		Args: exactArgs(),
	}
	addFileFlag(c, &o.files)
	f := c.Flags()
	f.StringVar(&o.from, "from", "", "kubeconfig `file` of the cluster that has Calico's objects; that of the store unless given")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and write nothing")
	f.BoolVar(&o.overwrite, "overwrite", false, "change objects that are here and differ")
	f.BoolVar(&o.addresses, "addresses", false, "import the addresses in use too: blocks, affinities, handles")
	flags := addStoreFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(o.files) > 0 && o.from != "" {
			return Usagef("-f and --from are two sources: leave one of them out")
		}
		stored, err := readCalico(cmd, o, flags)
		if err != nil {
			return err
		}
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		plan, err := planImport(cmd.Context(), store, stored, o)
		if err != nil {
			return err
		}
		return carryOut(cmd.Context(), cmd.OutOrStdout(), store, plan, o.dryRun)
	}
	return c
}

// readCalico reads Calico's objects from where the flags say.
func readCalico(cmd *cobra.Command, o importFlags, flags *storeFlags) ([]calico.Stored, error) {
	if len(o.files) > 0 {
		return readCalicoFiles(o.files, cmd.InOrStdin())
	}
	cfg := kube.Config{Kubeconfig: o.from, RequestTimeout: requestTimeout}
	if o.from == "" {
		if !flags.kubernetes() {
			return nil, Usagef("the store is etcd, which has none of Calico's objects: name the kubeconfig of the cluster with --from, or files with -f")
		}
		cfg = flags.kubeConfig()
	}
	client, base, err := kube.HTTPClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("find the cluster with Calico's objects: %w", err)
	}
	return calico.Cluster{Client: client, Base: base}.Read(cmd.Context())
}

func readCalicoFiles(files []string, stdin io.Reader) ([]calico.Stored, error) {
	paths, err := expand(files)
	if err != nil {
		return nil, err
	}
	var all []calico.Stored
	for _, p := range paths {
		in, source := stdin, "standard input"
		if p != "-" {
			f, err := os.Open(p)
			if err != nil {
				return nil, fmt.Errorf("read objects from %s: %w", p, pathCause(err))
			}
			defer f.Close()
			in, source = f, p
		}
		data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
		if err != nil {
			return nil, fmt.Errorf("read objects from %s: %w", source, err)
		}
		if len(data) > maxInput {
			return nil, fmt.Errorf("read objects from %s: it has more than %d MiB; split it", source, maxInput>>20)
		}
		found, err := calico.Parse(data, source)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("read objects from %d files: there are none in them", len(paths))
	}
	return all, nil
}

// carryOut writes what the plan says, unless dry, and prints what became of each object.
func carryOut(ctx context.Context, w io.Writer, store datastore.Store, plan []*imported, dry bool) error {
	counts := map[outcome]int{}
	for _, p := range plan {
		if !dry {
			if err := p.write(ctx, store); err != nil {
				return fmt.Errorf("import stopped at %s: %w; run it again", p.ref, err)
			}
		}
		counts[p.outcome]++
		p.print(w, dry)
	}
	sum := fmt.Sprintf("%d created, %d changed, %d same, %d left out, %d refused",
		counts[created], counts[changed], counts[same], counts[leftOut], counts[refused])
	if dry {
		sum = fmt.Sprintf("dry run: %d to create, %d to change, %d same, %d left out, %d refused",
			counts[created], counts[changed], counts[same], counts[leftOut], counts[refused])
	}
	fmt.Fprintf(w, "%s, of %d objects\n", sum, len(plan))
	if counts[refused] > 0 {
		return &ExitError{Code: exitFailed}
	}
	return nil
}

// write does what the plan says of one object. What the store refuses is noted; a store that is away is an error.
func (p *imported) write(ctx context.Context, store datastore.Store) error {
	var err error
	switch p.outcome {
	case created:
		_, err = store.Create(ctx, fresh(p.object))
	case changed:
		_, err = store.Update(ctx, p.object)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, datastore.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	p.outcome, p.why, p.fields, p.noEffect = refused, err.Error(), nil, nil
	return nil
}

func (p *imported) print(w io.Writer, dry bool) {
	word := string(p.outcome)
	if dry {
		switch p.outcome {
		case created:
			word = "create"
		case changed:
			word = "change"
		}
	}
	fmt.Fprintf(w, "%s %s", clean(p.ref), word)
	if p.why != "" {
		fmt.Fprintf(w, ": %s", oneLine(p.why))
	}
	fmt.Fprintln(w)
	for _, f := range p.fields {
		fmt.Fprintf(w, "  %s\n", oneLine(f))
	}
	for _, f := range p.noEffect {
		fmt.Fprintf(w, "  without effect here: %s\n", oneLine(f))
	}
}
