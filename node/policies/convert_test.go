package policies

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	v3 "weft/api/v3"
)

var update = flag.Bool("update", false, "write what the conversions give into testdata/convert.txtar")

// objects reads manifests as the store would hand them out.
func objects(t testing.TB, yaml string) []v3.Object {
	t.Helper()
	list, err := v3.Decode([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		v3.Default(o)
		if err := v3.Validate(o); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// testdata/convert.txtar has manifests as people write them, each with the model's form of it.
func TestConvert(t *testing.T) {
	const path = "testdata/convert.txtar"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := txtar.Parse(data)
	cases := 0
	for i := range a.Files {
		name, isInput := strings.CutSuffix(a.Files[i].Name, ".yaml")
		if !isInput {
			continue
		}
		if i+1 >= len(a.Files) || a.Files[i+1].Name != name+".model" {
			t.Fatalf("%s.yaml has no %s.model after it", name, name)
		}
		cases++
		want := &a.Files[i+1]
		t.Run(name, func(t *testing.T) {
			s, problems := convert("n1", map[string]string{"zone": "a"}, objects(t, string(a.Files[i].Data)))
			got := withoutDefaults(printSnapshot(s))
			for _, p := range problems {
				got += fmt.Sprintf("problem: %v\n", p)
			}
			if *update {
				want.Data = []byte(got)
				return
			}
			if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Errorf("-want +got; -update writes it:\n%s", diff)
			}
		})
	}
	if cases < 15 {
		t.Errorf("only %d cases", cases)
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// withoutDefaults leaves out the configuration where it says what it says without resources.
func withoutDefaults(text string) string {
	s, _ := convert("n1", nil, nil)
	return strings.TrimSuffix(text, printSnapshot(s))
}

func TestRecordNames(t *testing.T) {
	for _, c := range []struct {
		name, node, pod, iface string
		ok                     bool
	}{
		{"n1-k8s-web-eth0", "n1", "web", "eth0", true},
		{"node--1-k8s-web--7d--x-eth0", "node-1", "web-7d-x", "eth0", true},
		{"n1.example.org-k8s-web.0-eth0", "n1.example.org", "web.0", "eth0", true},
		{"n1-cni-c1-eth0", "", "", "", false},
		{"n1-k8s-web", "", "", "", false},
		{"web", "", "", "", false},
		{"n1-k8s-web-eth0-x", "", "", "", false},
	} {
		node, pod, iface, ok := splitRecordName(c.name)
		if node != c.node || pod != c.pod || iface != c.iface || ok != c.ok {
			t.Errorf("%s is read as %q %q %q %v", c.name, node, pod, iface, ok)
		}
	}
}
