package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// dumpScript prints all that a node keeps in the kernel, as the tools of the system see it.
const dumpScript = `
ip -4 -o route show table all; ip -6 -o route show table all; ip -4 rule; ip -6 rule
ip -o link show type vxlan; ip -d -o link show | grep -o 'weft-[^:]*:.*'
ip -o addr show | grep weft
ip -o link show type veth | grep weft; for d in /proc/sys/net/ipv4/conf/weft*; do echo "rp_filter ${d##*/} $(cat $d/rp_filter)"; done
ip -4 neigh show nud permanent; ip -6 neigh show nud permanent
bridge fdb show | grep dst
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding
echo ==nft
nft -s list ruleset`

var (
	noise    = regexp.MustCompile(`^\d+: |\\ |pref medium|@if\d+|state \w+|qlen \d+|valid_lft.*|expires \w+|linkdown|dead`)
	elements = regexp.MustCompile(`(?s)elements = \{[^}]*\}`)
)

// dump is canonical: the same state prints the same, whatever the order in which it came about.
func dump(t testing.TB, ns testkit.NS) string {
	t.Helper()
	out := testkit.Run(t, ns, "sh", "-c", dumpScript)
	tables, nft, _ := strings.Cut(out, "==nft\n")
	var lines []string
	for l := range strings.Lines(tables) {
		l = strings.Join(strings.Fields(noise.ReplaceAllString(l, " ")), " ")
		if !strings.HasPrefix(l, "multicast") && !strings.HasPrefix(l, "anycast") {
			lines = append(lines, l)
		}
	}
	nft = elements.ReplaceAllStringFunc(nft, func(s string) string {
		words := strings.Split(strings.Trim(strings.TrimPrefix(s, "elements = "), "{}"), ",")
		for i, w := range words {
			words[i] = strings.TrimSpace(w)
		}
		slices.Sort(words)
		return "elements = { " + strings.Join(words, ", ") + " }"
	})
	blocks := strings.Split(nft, "\n\n")
	for i, b := range blocks { // the first block has the table's head, the last its foot
		head, rest, ok := strings.Cut(b, "table inet "+kernel.NFTable+" {\n")
		if ok {
			b = head + rest
		}
		blocks[i] = strings.TrimSuffix(strings.TrimRight(b, "\n"), "\n}")
	}
	lines = append(lines, blocks...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// difference is what two dumps do not share.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
