package iptables

import (
	"strings"

	"weft/model"
	"weft/policy"
)

// Format prints all that a Program becomes: the input of ipset restore, then those of
// iptables-restore and ip6tables-restore. The same Program prints the same.
func Format(p *policy.Program) string {
	r := render(p)
	all := map[key]bool{}
	for k := range r.chains {
		all[k] = true
	}
	return formatChange(r, p, nil, all, hookChanges(nil, hookedIn(r)))
}

// formatChange prints what is sent for the touched chains, and for sets but those that old has.
func formatChange(r *rules, p *policy.Program, old map[string]set, touched map[key]bool, hooked map[model.Family]map[[2]string][]string) string {
	var b strings.Builder
	sets := listSets(r)
	for id, s := range p.Sets {
		if !id.Staged {
			sets[setName(id)] = programSet(s, id)
		}
	}
	b.WriteString("# ipset restore\n")
	for _, name := range sortedKeys(sets) {
		if _, there := old[name]; !there {
			fill(&b, name, sets[name])
		}
	}
	for _, f := range families {
		c := change{family: f, chains: r.chains, touched: touched, hooked: hooked[f]}
		b.WriteString("# " + map[model.Family]string{model.IPv4: "iptables", model.IPv6: "ip6tables"}[f] + "-restore --noflush\n" + c.text())
	}
	return b.String()
}
