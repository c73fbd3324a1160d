package policy

import (
	"testing"

	"weft/model"
)

func TestTag(t *testing.T) {
	for _, tag := range []Tag{
		{model.Deny, model.Egress, ByRule, TagName("GlobalNetworkPolicy no-dns egress"), 1 << 30},
		{model.Deny, model.Ingress, ByTier, TagName("default"), 0},
		{model.Log, model.Ingress, ByNoProgram, 0, 0},
	} {
		text := tag.String()
		if len(text) >= 48 {
			t.Errorf("%q has %d bytes", text, len(text))
		}
		if got, err := ParseTag(text); err != nil || got != tag {
			t.Errorf("%q reads as %+v, %v; want %+v", text, got, err, tag)
		}
	}
	for _, text := range []string{"", "weft", "weft 2 0 r 0 0", "weft 2 0 r 0000000000000000 0 more", "weft x 0 r 0000000000000000 0", "weft 2 999 r 0000000000000000 0"} {
		if got, err := ParseTag(text); err == nil {
			t.Errorf("%q reads as %+v", text, got)
		}
	}
}

func TestTagNames(t *testing.T) {
	p := newProgram()
	p.Chains["GlobalNetworkPolicy x egress"] = &Chain{}
	p.Endpoints["weft0"] = &Endpoint{Ingress: Hook{Tiers: []Tier{{Name: "security"}}}}
	p.Hosts["eth0"] = &Host{Untracked: [2]Hook{{Tiers: []Tier{{Name: "edge"}}}}}
	names := TagNames(p)
	for _, want := range []string{"GlobalNetworkPolicy x egress", "security", "edge"} {
		if names[TagName(want)] != want {
			t.Errorf("%s is not found: %v", want, names)
		}
	}
}
