package cli

import (
	"bytes"
	"os"
	"testing"
)

const manual = "../docs/commands.md"

// The manual says of each command here what the command itself says. The commands that cmd/weft adds
// have sections of their own in it, which are kept.
func TestManualIsCurrent(t *testing.T) {
	t.Setenv(runDirEnv, "/elsewhere") // the manual must not depend on the environment
	t.Setenv("WEFT_ETCD_ENDPOINTS", "http://192.0.2.1:2379")
	have, err := os.ReadFile(manual)
	if err != nil && !*update {
		t.Fatal(err)
	}
	root := Root("test")
	sections := 0
	for _, c := range commands(root) {
		if c == root || !documented(c) {
			continue
		}
		sections++
		want := append(markdownSection(c), '\n')
		if bytes.Contains(append(have, '\n'), append([]byte("\n"), want...)) {
			continue
		}
		if *update {
			have = replaceSection(have, c.CommandPath(), want)
			continue
		}
		t.Errorf("%s: the section of %s is not current: run make generate, or go test ./cli -update", manual, c.CommandPath())
	}
	if sections < 15 {
		t.Errorf("only %d commands were compared", sections)
	}
	if *update {
		if err := os.WriteFile(manual, append(bytes.TrimRight(have, "\n"), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// replaceSection puts a section in the place of the one with the same title, or at the end.
func replaceSection(doc []byte, title string, section []byte) []byte {
	if doc == nil {
		doc = []byte(manualHead(Root("")))
	}
	begin := bytes.Index(doc, []byte("\n## "+title+"\n"))
	if begin < 0 {
		return append(append(bytes.TrimRight(doc, "\n"), "\n\n"...), section...)
	}
	rest := doc[begin+1:]
	end := bytes.Index(rest[1:], []byte("\n## "))
	if end < 0 {
		return append(doc[:begin+1:begin+1], section...)
	}
	return append(append(doc[:begin+1:begin+1], section...), rest[end+2:]...)
}
