package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// versionInfo is the document of `weft version -o json`.
type versionInfo struct {
	Version       string `json:"version"`
	Commit        string `json:"commit,omitempty"` // git; with "+dirty" when the tree had changes
	Go            string `json:"go"`
	Platform      string `json:"platform"`
	Kernel        string `json:"kernel"`        // release of the running kernel
	RouteProtocol int    `json:"routeProtocol"` // rtm_protocol of the routes that a node writes
}

func versionCommand(version string) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long: `Prints the version of this program, what it was built from, the running kernel, and the route
protocol number by which the routes of a node are told from others (ip route show proto NUMBER).
The version of a running node is in "weft status".`,
		Example: `  weft version
  weft version -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := newVersionInfo(version)
			switch output {
			case "json":
				doc, err := json.Marshal(v)
				if err != nil {
					return err
				}
				return printRawJSON(cmd.OutOrStdout(), doc)
			case "":
				return v.print(cmd.OutOrStdout())
			}
			return Usagef("unknown output format %q: want json, or none for people", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "output `format`: json")
	fixedCompletion(c, "output", "json")
	return c
}

func newVersionInfo(version string) versionInfo {
	v := versionInfo{
		Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Kernel: "unknown", RouteProtocol: kernel.RouteProtocol,
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		v.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value + v.Commit
		case s.Key == "vcs.modified" && s.Value == "true":
			v.Commit += "+dirty"
		}
	}
	return v
}

func (v versionInfo) print(w io.Writer) error {
	t := table{}
	t.add("weft", v.Version)
	t.add("commit", orDash(v.Commit))
	t.add("go", v.Go+" "+v.Platform)
	t.add("kernel", v.Kernel)
	t.add("routes", fmt.Sprintf("proto %d", v.RouteProtocol))
	return t.print(w)
}
