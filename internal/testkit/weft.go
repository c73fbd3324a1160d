package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// RunWithWeft is for TestMain: it builds weft and weft-cni into a directory, which it writes to dir, runs the tests, and returns their
// exit code. Who is not root has tests that need neither, and gets none built.
func RunWithWeft(m *testing.M, dir *string) int {
	d, err := os.MkdirTemp("", "weft-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(d)
	*dir = d
	if os.Getuid() == 0 {
		out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", d+"/", "weft/cmd/weft", "weft/cmd/weft-cni").CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "build the binaries: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}
