package v3

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"weft/internal/examples"
)

// TestValidateUpdate holds what cannot change to the message that a person sees. A line of the file is a kind,
// a specification, and behind "=>" the one that is to take its place.
func TestValidateUpdate(t *testing.T) {
	const file = "testdata/updates.txt"
	lines, err := examples.Lines(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, line := range lines {
		fmt.Fprintln(&out, line)
		old, updated, err := examples.ParseUpdate(line, lookupExample)
		if err != nil {
			t.Fatal(err)
		}
		if old == nil {
			continue
		}
		for _, m := range reasons(ValidateUpdate(decodeOne(t, updated.Manifest), decodeOne(t, old.Manifest))) {
			fmt.Fprintln(&out, "  -> "+m)
		}
	}
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(readFile(t, file)), out.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestValidateUpdateOfAnother(t *testing.T) {
	a, b := &Node{}, &Node{}
	a.Name, b.Name = "a", "b"
	for _, c := range []struct {
		updated, old Object
		want         string
	}{
		{a, b, `metadata.name: Invalid value: "a": cannot change from b: create another object instead`},
		{a, &corev1.Namespace{}, `replace Namespace : a Node cannot take its place`},
		{nil, nil, `replace  <nil>: a  cannot take its place`},
	} {
		if got := errText(ValidateUpdate(c.updated, c.old)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
