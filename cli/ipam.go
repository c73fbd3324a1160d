package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam"
)

func ipamCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ipam",
		Short: "Show, check and release the addresses of pods",
		Long:  `Shows which addresses are in use, checks that the books agree, and releases addresses that nobody has.`,
	}
	c.AddCommand(ipamShowCommand(), ipamCheckCommand(), ipamReleaseCommand())
	return c
}

func ipamShowCommand() *cobra.Command {
	var ip, output string
	var blocks, borrowed bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show how many addresses are in use, or who has one",
		Long: `Shows for each pool how many of its addresses are in use; with --blocks also for each block; with
--borrowed the addresses that a node uses although they are of another node's block; with --ip who
has one address.`,
		Example: `  weft ipam show
  weft ipam show --blocks
  weft ipam show --borrowed
  weft ipam show --ip 10.1.0.1
  weft ipam show --blocks -o json`,
		Args: exactArgs(),
	}
	c.Flags().StringVar(&ip, "ip", "", "show this `address` only")
	c.Flags().BoolVar(&blocks, "blocks", false, "show each block as well")
	c.Flags().BoolVar(&borrowed, "borrowed", false, "show the borrowed addresses as well")
	flags := addStoreFlags(c)
	flags.waiting = true
	addJSONOutput(c, &output)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		opts := ipam.ShowOptions{Blocks: blocks}
		if ip != "" {
			addr, err := parseAddr(ip)
			if err != nil {
				return err
			}
			if blocks || borrowed {
				return Usagef("--ip excludes --blocks and --borrowed")
			}
			opts.Addr = addr
		}
		store, err := openForJSON(cmd, flags, output)
		if err != nil {
			return err
		}
		defer store.Close()
		report, err := ipam.Show(cmd.Context(), store, opts)
		if err != nil {
			return failed("show", "addresses", err)
		}
		doc := shownAddresses{Report: report}
		if borrowed {
			if doc.Borrowed, err = borrowedAddresses(cmd, store); err != nil {
				return err
			}
		}
		if output == "json" {
			return printValue(cmd.OutOrStdout(), "json", doc)
		}
		return doc.print(cmd.OutOrStdout(), borrowed)
	}
	return c
}

// addJSONOutput adds -o for commands that print for people or as JSON.
func addJSONOutput(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "", "output `format`: json")
	fixedCompletion(c, "output", "json")
}

func openForJSON(cmd *cobra.Command, flags *storeFlags, output string) (datastore.Store, error) {
	if output != "" && output != "json" {
		return nil, Usagef("unknown output format %q: want json, or none for people", output)
	}
	return flags.open(cmd.Context())
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, Usagef("--ip: %q is no address; want one such as 10.244.0.1 or fd00::1", s)
	}
	return a.Unmap(), nil
}

// shownAddresses is the document of `weft ipam show`.
type shownAddresses struct {
	*ipam.Report
	Borrowed []borrowedAddress `json:"borrowed,omitempty"`
}

// borrowedAddress is an address that another node uses than the one whose block it is in.
type borrowedAddress struct {
	Addr     netip.Addr `json:"address"`
	Block    string     `json:"block"`
	Affinity string     `json:"affinity"`
	Node     string     `json:"node"`
	User     string     `json:"user"`
}

func (d shownAddresses) print(w io.Writer, borrowed bool) error {
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		return err
	}
	if _, err := io.WriteString(w, cleanLines(b.String())); err != nil || !borrowed {
		return err
	}
	if len(d.Borrowed) == 0 {
		_, err := fmt.Fprintln(w, "\nNo address is borrowed.")
		return err
	}
	fmt.Fprintln(w)
	t := table{header: []string{"BORROWED", "BLOCK", "AFFINITY", "NODE", "USER"}}
	for _, x := range d.Borrowed {
		t.add(x.Addr.String(), x.Block, x.Affinity, x.Node, x.User)
	}
	return t.print(w)
}

// borrowedAddresses reads from the blocks which of their addresses are with other nodes.
func borrowedAddresses(cmd *cobra.Command, store datastore.Store) ([]borrowedAddress, error) {
	list, err := store.List(cmd.Context(), v3.KindIPAMBlock)
	if err != nil {
		return nil, failed("show", "borrowed addresses", err)
	}
	var all []borrowedAddress
	for _, o := range list.Items {
		b, ok := o.(*v3.IPAMBlock)
		if !ok || b.Spec.Affinity == nil {
			continue
		}
		for _, a := range allocationsOf(b) {
			if a.node != "" && a.inUse && "host:"+a.node != *b.Spec.Affinity {
				all = append(all, borrowedAddress{a.addr, b.Spec.CIDR, *b.Spec.Affinity, a.node, a.user})
			}
		}
	}
	slices.SortFunc(all, func(a, b borrowedAddress) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

func ipamCheckCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "check",
		Short: "Check that blocks, handles and endpoints agree; exit code 1 when they do not",
		Long: `Compares blocks, affinities, handles and the endpoints of pods with each other, and tells what does
not fit: addresses that two pods have, that nobody has, or that no block knows. Ends with exit code 1
when there is anything. The report of -o json is what "weft ipam release --from-report" takes.`,
		Example: `  weft ipam check
  weft ipam check -o json`,
		Args: exactArgs(),
	}
	flags := addStoreFlags(c)
	flags.waiting = true
	addJSONOutput(c, &output)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		store, err := openForJSON(cmd, flags, output)
		if err != nil {
			return err
		}
		defer store.Close()
		report, err := ipam.Check(cmd.Context(), store)
		if err != nil {
			return failed("check", "addresses", err)
		}
		if output == "json" {
			err = printValue(cmd.OutOrStdout(), "json", report)
		} else {
			var b bytes.Buffer
			if err = report.Write(&b); err == nil {
				_, err = io.WriteString(cmd.OutOrStdout(), cleanLines(b.String()))
			}
		}
		if err == nil && len(report.Problems) > 0 {
			err = fmt.Errorf("check addresses: %d do not fit together; release those that nobody has by `weft ipam check -o json >report` and `weft ipam release --from-report report`", len(report.Problems))
		}
		return err
	}
	return c
}

func ipamReleaseCommand() *cobra.Command {
	var ips []string
	var report string
	var force bool
	c := &cobra.Command{
		Use:   "release (--ip ADDRESS... | --from-report FILE)",
		Short: "Release addresses that nobody has",
		Long: `Gives addresses back to their blocks. An address that the endpoint of a pod has is refused, and on
Kubernetes one held for a pod that does not say which it has, unless --force is given: two pods may
then get the same address. With --from-report it does what a report of
"weft ipam check -o json" calls for, as far as that is safe and still true.`,
		Example: `  weft ipam release --ip 10.1.0.3
  weft ipam release --ip 10.1.0.1 --ip 10.1.0.2 --force
  weft ipam release --from-report report.json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return fmt.Errorf("unexpected argument %q: addresses go after --ip", args[0])
			case len(ips) == 0 && report == "":
				return errors.New("--ip or --from-report is missing")
			case len(ips) > 0 && report != "":
				return errors.New("--ip and --from-report exclude each other")
			case force && report != "":
				return errors.New("--force and --from-report exclude each other: a report is never followed where a pod has the address")
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&ips, "ip", nil, "`address` to release; may be repeated")
	c.Flags().StringVar(&report, "from-report", "", "`file` with the output of weft ipam check -o json, or -")
	c.Flags().BoolVar(&force, "force", false, "release although a pod has the address")
	flags := addStoreFlags(c)
	flags.waiting = true
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if report != "" {
			return repairFrom(cmd, flags, report)
		}
		var addrs []netip.Addr
		for _, s := range ips {
			a, err := parseAddr(s)
			if err != nil {
				return err
			}
			addrs = append(addrs, a)
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		store, err := flags.open(cmd.Context())
		if err != nil {
			return err
		}
		defer store.Close()
		n, err := ipam.Release(cmd.Context(), store, addrs, force)
		fmt.Fprintf(cmd.OutOrStdout(), "%d of %s released\n", n, countOf(len(addrs), "address", "addresses"))
		switch {
		case err != nil:
			return reportAll(cmd, err)
		case n < len(addrs):
			fmt.Fprintln(cmd.ErrOrStderr(), "weft: the others were not in use; `weft ipam show --ip ADDRESS` tells of each")
		}
		return nil
	}
	return c
}

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// repairFrom does what a report of `weft ipam check -o json` calls for.
func repairFrom(cmd *cobra.Command, flags *storeFlags, file string) error {
	data, err := readReport(cmd, file)
	if err != nil {
		return err
	}
	var r ipam.CheckReport
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return fmt.Errorf("read the report %s: %w; want the output of `weft ipam check -o json`", file, err)
	}
	store, err := flags.open(cmd.Context())
	if err != nil {
		return err
	}
	defer store.Close()
	repaired, err := ipam.Repair(cmd.Context(), store, &r)
	n := 0
	for _, of := range repaired {
		n += of
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d of %s repaired\n", n, countOf(len(r.Problems), "problem", "problems"))
	if err != nil {
		return reportAll(cmd, err)
	}
	if n < len(r.Problems) {
		fmt.Fprintln(cmd.ErrOrStderr(), "weft: the others are gone since the report, or need a person; `weft ipam check` tells what is left")
	}
	return nil
}

func readReport(cmd *cobra.Command, file string) ([]byte, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read the report %s: %w", file, pathCause(err))
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return nil, fmt.Errorf("read the report %s: %w", file, err)
	}
	if strings.TrimSpace(string(data)) == "" {
		return nil, fmt.Errorf("read the report %s: it is empty; want the output of `weft ipam check -o json`", file)
	}
	return data, nil
}
