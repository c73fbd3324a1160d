package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/cli"
)

// The manual is made from the commands: `make generate` writes it.
func TestManualIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(cli.Markdown(root())), string(have)); d != "" {
		t.Errorf("docs/commands.md is not what the commands say; run make generate (-want +got):\n%s", d)
	}
}
