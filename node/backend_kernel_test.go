package node

import (
	"log/slog"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	policyiptables "weft/policy/iptables"
	policynftables "weft/policy/nftables"
)

// Both drivers say of a rule that the kernel refuses that all else is in force, and do not say so of
// anything else.
func TestRefusedRuleIsInPart(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.NFTables)
	testkit.LeakCheck(t)
	c := policy.NewCompiler("n1")
	if err := c.SetEndpoint(&model.Endpoint{ID: webPod().ID, Device: "weft1", Addresses: webPod().Addresses}); err != nil {
		t.Fatal(err)
	}
	p := model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}, Selector: "all()", Types: model.Types{Ingress: true},
		Ingress: []model.Rule{{Action: model.Deny, Protocol: model.UDP}, {Action: model.Allow}}}
	if err := c.SetPolicy(&p); err != nil {
		t.Fatal(err)
	}
	good := c.Flush()
	bad := policy.Update{Program: good.Program.Clone(), Generation: 99}
	broken := *bad.Program.Chains[policy.PolicyChain(p.ID, model.Ingress)]
	broken.Rules = append([]policy.Rule(nil), broken.Rules...)
	broken.Rules[0].Family, broken.Rules[0].Src.In = model.IPv4, []policy.SetID{{Kind: policy.Selected, Family: model.IPv4, Selector: "no such set"}}
	bad.Program.Chains[broken.ID] = &broken
	log := slog.New(slog.DiscardHandler)
	ns := testkit.NewNetns(t)
	for name, d := range map[string]policyDriver{
		policyNFTables: policynftables.New(ns.Open(t), log),
		policyIptables: policyiptables.New(ns.Open(t), log, policyiptables.NFT),
	} {
		t.Cleanup(d.Close)
		if _, err := d.Apply(t.Context(), good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for range 2 {
			if _, err := d.Apply(t.Context(), bad); !inPart(err) {
				t.Errorf("%s: the error of a refused rule is %v", name, err)
			}
		}
		if _, err := d.Apply(t.Context(), policy.Update{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		testkit.Run(t, ns, "nft", "flush", "ruleset")
	}
}
