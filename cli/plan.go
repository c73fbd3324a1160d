package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// planAreas are the parts of a node's work that each compile a plan of their own, in the order in
// which they are applied.
func planAreas() []string { return []string{"tunnel", "encryption", "nat", "routing", "bgp", "policy"} }

func planCommand() *cobra.Command {
	var flags *nodeFlags
	c := &cobra.Command{
		Use:   "plan [" + strings.Join(planAreas(), "|") + "]",
		Short: "Print what the local node wants the kernel to be",
		Long: `Prints the plan of one area, or of all, as the local node compiled it: the state that it wants the
kernel to have, in canonical text. What differs from it in the kernel is being repaired. With a kubeconfig, --node
says of which node.`,
		Example: `  weft plan
  weft plan routing`,
		ValidArgs: planAreas(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected argument %q: want one area", args[1])
			}
			if len(args) == 1 && !slices.Contains(planAreas(), args[0]) {
				return fmt.Errorf("unknown area %q: want %s", args[0], oneOf(planAreas()))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			get, done, err := flags.oneNode(cmd.Context(), "plans")
			if err != nil {
				return err
			}
			defer done()
			if len(args) == 1 {
				text, err := get("plan/" + args[0])
				if err != nil {
					return err
				}
				_, err = io.WriteString(cmd.OutOrStdout(), cleanLines(string(text)))
				return err
			}
			return allPlans(cmd, flags.whose(), get)
		},
	}
	flags = addNodeFlags(c)
	return c
}

// allPlans prints the plan of every area that the node has.
func allPlans(cmd *cobra.Command, whose string, get func(path string) ([]byte, error)) error {
	printed := 0
	for _, area := range planAreas() {
		text, err := get("plan/" + area)
		var none *notServedError
		if errors.As(err, &none) {
			continue
		}
		if err != nil {
			return err
		}
		if printed > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		printed++
		body := strings.TrimRight(cleanLines(string(text)), "\n")
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s\n", area, body); err != nil {
			return err
		}
	}
	if printed == 0 {
		return fmt.Errorf("ask %s for its plans: it serves none of %s; compare `weft version` with `weft status`", whose, oneOf(planAreas()))
	}
	return nil
}

func addRunDir(c *cobra.Command, runDir *string) {
	c.Flags().StringVar(runDir, "run-dir", envOr(runDirEnv, defaultRunDir), "run `directory` of the local node (env "+runDirEnv+")")
	c.Flags().Lookup("run-dir").DefValue = defaultRunDir
}
