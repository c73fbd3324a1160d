package offload

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file")

// The rules, one expression a line. Run with -update to write the file.
func TestProgram(t *testing.T) {
	const file = "testdata/program.txt"
	var b strings.Builder
	p := program(Plan{Pods: []string{"weftb", "wefta"}, Other: []string{"eth0"}})
	for _, f := range p.FlowTables {
		fmt.Fprintf(&b, "flow table %s: %v\n", f.Name, f.Devices)
	}
	for _, c := range p.Chains {
		fmt.Fprintf(&b, "chain %s: hook %d priority %d\n", c.Name, *c.Base.Hook, c.Base.Priority)
		for i, r := range c.Rules {
			fmt.Fprintf(&b, "rule %d\n", i)
			for _, e := range r {
				fmt.Fprintf(&b, "  %s %s\n", strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr."), strings.TrimPrefix(fmt.Sprintf("%+v", e), "&"))
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
