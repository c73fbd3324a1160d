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
	var runDir, output string
	var all bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the local node does: paths by encapsulation, tunnels, problems, last errors",
		Long: `Shows on one screen how the local node does: its address and where that comes from, its store, the
MTU of its pods, every path by encapsulation, its tunnels, its problems, the last error of each part,
and what it takes to be ready. Lines have 160 columns at most, or what the terminal has; -o wide breaks
none. With -o json it prints the document itself.`,
		Example: `  weft status
  weft status --all -o wide
  weft status -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" && output != "wide" {
				return Usagef("unknown output format %q: want json, wide, or none for people", output)
			}
			body, err := nodeGet(cmd.Context(), runDir, "status")
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if output == "json" {
				return printRawJSON(out, body)
			}
			var s status.Status
			if err := json.Unmarshal(body, &s); err != nil {
				return fmt.Errorf("read the status of the local node in %s: %w; compare `weft version` here and there", runDir, err)
			}
			v := statusView{now: time.Now(), width: statusWidth(screenWidth(out), output == "wide"), colour: isTerminal(out) && os.Getenv("NO_COLOR") == ""}
			if !all {
				v.most = 20
			}
			return v.print(out, &s)
		},
	}
	addRunDir(c, &runDir)
	c.Flags().StringVarP(&output, "output", "o", "", "output `format`: json, or wide for lines of any length")
	c.Flags().BoolVar(&all, "all", false, "show every path, not the first 20 of each encapsulation")
	fixedCompletion(c, "output", "json", "wide")
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
