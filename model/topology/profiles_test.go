package topology

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	if names := ProfileNames(); !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("names %v: want them sorted, each once", names)
	}
	for _, p := range Profiles() {
		if got := p.Limit(9001); got >= 9001 || got < 1280 || p.Limit(got) > got {
			t.Errorf("%s: an uplink of 9001 bytes is taken to carry %d", p.Name, got)
		}
		if p.Why == "" || p.Source == "" {
			t.Errorf("%s does not say why, or who says so", p.Name)
		}
	}
}

func TestProfileByName(t *testing.T) {
	for _, tc := range []struct {
		name      string
		mtu, want int
	}{
		{"azure", 1500, 1400}, {"azure", 3900, 3800},
		{"gcp", 1500, 1460}, {"gcp", 1300, 1300},
		{"aws-transit-gateway", 9001, 8500}, {"hetzner-vswitch", 1500, 1400},
	} {
		p, err := ProfileByName(tc.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Limit(tc.mtu); got != tc.want {
			t.Errorf("%s of an uplink with %d: got %d, want %d", tc.name, tc.mtu, got, tc.want)
		}
	}
	if _, err := ProfileByName("nowhere"); err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "azure") {
		t.Errorf("got %v, want an error with the name and the known ones", err)
	}
}

// TestProfilesDocument holds the table of docs/mtu.md to the profiles there are.
func TestProfilesDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/mtu.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, p := range Profiles() {
		carries := fmt.Sprintf("at most %d", p.Most)
		if p.Most == 0 {
			carries = fmt.Sprintf("%d less", p.Taken)
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s |\n", p.Name, carries, p.Why, p.Source)
	}
	if !strings.Contains(string(doc), want.String()) {
		t.Errorf("docs/mtu.md has not the table\n%s", want.String())
	}
}
