package cli

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
)

// What a warning leaves out is what the table of fields says is in effect.
func TestFelixInEffectIsWhatTheDocumentSays(t *testing.T) {
	doc, err := os.ReadFile("../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| in effect \\|").FindAllStringSubmatch(string(doc), -1) {
		want = append(want, row[1])
	}
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Sorted(slices.Values(felixInEffect()))); d != "" {
		t.Errorf("fields in effect (-document +warnings):\n%s", d)
	}
}

func TestWithoutEffect(t *testing.T) {
	pool := &v3.IPPool{}
	pool.Spec.CIDR = "10.1.0.0/16"
	pool.Spec.VXLANMode = v3.EncapAlways
	pool.Spec.NATOutgoing = true
	ipip := pool.DeepCopy()
	ipip.Spec.VXLANMode, ipip.Spec.IPIPMode = v3.EncapNever, v3.EncapCrossSubnet
	felix := func(spec string) v3.Object {
		docs, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: " + spec))
		if err != nil {
			t.Fatal(err)
		}
		return docs[0]
	}
	docs, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {ingress: [{action: Allow}, {action: Allow, http: {}}]}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    v3.Object
		want []string
	}{
		{"a policy that looks into HTTP", docs[0], []string{"spec.ingress[1].http"}},
		{"a pool of what works", pool, nil},
		{"a pool", ipip, nil},
		{"felix, in effect", felix("{vxlanPort: 8472, vxlanVNI: 7, vxlanMTU: 1400, natPortRange: 20000:29999, natOutgoingExclusions: IPPoolsAndHostIPs}"), nil},
		{"felix, off", felix("{wireguardEnabled: false, floatingIPs: Disabled}"), nil},
		{"felix", felix("{wireguardEnabled: true, floatingIPs: Enabled, reportingInterval: 30s, bpfEnabled: true}"),
			[]string{"spec.bpfEnabled=true", "spec.floatingIPs=Enabled", "spec.reportingInterval=30s"}},
	} {
		got, err := withoutEffect(c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
