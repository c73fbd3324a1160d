package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/node/status"
)

func statusCommand() *cobra.Command {
	var output string
	var all, details bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the local node does, or those of a cluster: paths by encapsulation, tunnels, problems, last errors",
		Long: `Shows on one screen how the local node does: its address and where that comes from, its store, the
MTU of its pods, every path by encapsulation, its tunnels, its problems, the last error of each part,
and what it takes to be ready. Lines have 160 columns at most, or what the terminal has; -o wide breaks
none. With -o json it prints the document itself. Resources that are not honoured, or not all of them,
are named with the reason and what to do: what weft controllers write into their condition Accepted.

` + whomLong + `

Of a cluster it shows a line for each node: what the API server knows of its service, and what its Node record
says. The nodes themselves are not asked for that, but for the reasons of those that are not ready, 16 at
most. --details asks every node, and shows its pods, paths, policy and BGP sessions, and all problems. --node asks one, and
shows its screen. With etcd there are the Node records only: whether a service runs, and what it says, is not there.`,
		Example: `  weft status
  weft status --all -o wide
  weft status --all-nodes
  weft status -o json`,
		Args: exactArgs(),
	}
	flags := addNodeFlags(c)
	c.Flags().StringVarP(&output, "output", "o", "", "output `format`: json, or wide for lines of any length")
	c.Flags().BoolVar(&all, "all", false, "show every path, not the first 20 of each encapsulation")
	c.Flags().BoolVar(&details, "details", false, "ask every node of the cluster, not only those that are not ready")
	fixedCompletion(c, "output", "json", "wide")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "" && output != "json" && output != "wide" {
			return Usagef("unknown output format %q: want json, wide, or none for people", output)
		}
		whom, err := flags.scope()
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		v := statusView{now: time.Now(), width: statusWidth(screenWidth(out), output == "wide"), colour: isTerminal(out) && os.Getenv("NO_COLOR") == ""}
		if !all {
			v.most = 20
		}
		var body []byte
		switch {
		case whom == here && details:
			return Usagef("--details is for the nodes of a cluster: name it by --kubeconfig")
		case whom == here:
			body, err = nodeGet(cmd.Context(), flags.runDir, "status")
		case whom == byServer && flags.node != "":
			body, _, err = flags.askNodes(cmd.Context(), "status")
		default:
			return clusterStatus(cmd, flags, whom, output, details, &v)
		}
		if err != nil {
			return err
		}
		if output == "json" {
			return printRawJSON(out, body)
		}
		var s status.Status
		if err := json.Unmarshal(body, &s); err != nil {
			return fmt.Errorf("read the status of %s: %w; compare `weft version` here and there", flags.whose(), err)
		}
		return v.print(out, &s)
	}
	return c
}

// statusWidth is how many columns the status has on a screen of so many, 0 for none; 0 is unlimited.
func statusWidth(screen int, wide bool) int {
	const most = 160
	switch {
	case wide:
		return 0
	case screen == 0:
		return most
	}
	return min(screen, most)
}

// printRawJSON prints a document as it came, indented.
func printRawJSON(w io.Writer, doc []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(doc), "", "  "); err != nil {
		return fmt.Errorf("read the answer of the local node as JSON: %w", err)
	}
	_, err := io.WriteString(w, cleanJSON(b.String())+"\n")
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screenWidth returns the columns of the terminal that w is, or 0 when it is none.
func screenWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
