package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	o := Options{BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d"), Plugin: filepath.Join(dir, "weft-cni"), Socket: "/run/weft/cni.sock"}
	if _, err := o.Install(); err == nil || !strings.Contains(err.Error(), o.Plugin) {
		t.Fatalf("without the plugin: %v, want an error that names it", err)
	}
	if have, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(have) > 0 {
		t.Fatalf("without the plugin these are there: %v", have)
	}
	if err := os.WriteFile(o.Plugin, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if changed, err := o.Install(); err != nil || changed != want {
			t.Fatalf("call %d: changed %v, %v", i, changed, err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.BinDir, "portmap"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Plugin, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := o.Install(); err != nil || !changed {
		t.Fatalf("after an upgrade: changed %v, %v", changed, err)
	}
	if b, err := os.ReadFile(filepath.Join(o.BinDir, plugin)); string(b) != "two" {
		t.Errorf("the plugin is %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(o.BinDir, plugin)); err != nil || st.Mode() != 0o755 {
		t.Errorf("mode of the plugin: %v, %v", st.Mode(), err)
	}
	list, err := libcni.ConfListFromFile(filepath.Join(o.ConfDir, listName))
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	if got := strings.Join(types, " "); list.Name != "weft" || got != "weft-cni portmap" {
		t.Errorf("list %s of the plugins %s", list.Name, got)
	}
	if out, err := o.Present(t.Context()); len(out) != 2 || err != nil {
		t.Errorf("present: %v, %v", out, err)
	}
	for range 2 {
		if err := o.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, "*", ".*"))
	if len(left) != 1 || len(hidden) != 0 { // portmap
		t.Errorf("left behind: %v %v", left, hidden)
	}
}
