package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/node/status"
)

// statusView renders a Status for people.
type statusView struct {
	now    time.Time
	width  int // columns of the screen; 0 means unlimited
	colour bool
	most   int // paths to show of each encapsulation; 0 means all
}

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

func (v *statusView) in(colour, text string) string {
	if !v.colour || text == "" {
		return text
	}
	return colour + text + plain
}

// print writes the whole screen.
func (v *statusView) print(w io.Writer, s *status.Status) error {
	for _, part := range []func(io.Writer, *status.Status) error{
		v.header, v.problems, v.bgpProblems, v.notAcceptedHere, v.paths, v.tunnels, v.errors, v.checks,
	} {
		if err := part(w, s); err != nil {
			return err
		}
	}
	return nil
}

func (v *statusView) title(w io.Writer, text string) {
	fmt.Fprintf(w, "\n%s\n", v.in(bold, clean(text)))
}

func (v *statusView) header(w io.Writer, s *status.Status) error {
	t := table{width: v.width}
	ready, readyColour := "ready", green
	if !s.Ready {
		ready, readyColour = "NOT READY", red
	}
	problems := ""
	if n := len(s.Problems); n > 0 {
		problems = ", " + count(n, "problem")
	}
	t.add("Node", s.Node+", "+ready+problems)
	t.add("Version", s.Version+", up "+v.age(s.Started))
	t.add("Address", because(address(s), s.AddressWhy))
	t.add("Datastore", because(s.Datastore.Kind+", "+s.Datastore.State, s.Datastore.Error))
	t.add("Pods", because(fmt.Sprintf("%d here, MTU %s", s.Endpoints, mtu(s.PodMTU)), s.PodMTUWhy))
	t.add("Policy", policyLine(&s.Policy))
	if s.Encryption != nil {
		t.add("Encryption", encryptionLine(s.Encryption))
	}
	if s.BGP != nil {
		t.add("BGP", bgpLine(s.BGP))
	}
	t.add("Applied", v.applied(s))
	t.paint = func(row, column int, text string) string {
		switch {
		case column == 0:
			return v.in(bold, text)
		case row == 0:
			if before, ok := strings.CutSuffix(text, ready+problems); ok {
				return before + v.in(readyColour, ready) + v.in(red, problems)
			}
		case row == 5 && (s.Policy.Driver == "" || s.Policy.Error != "" || s.Policy.Programmed != s.Policy.Generation):
			return v.in(yellow, text)
		case row == 6 && s.Encryption != nil && weak(s.Encryption):
			return v.in(yellow, text)
		case row == 3 && (s.Datastore.Error != "" || s.Datastore.State != "in-sync"):
			return v.in(yellow, text)
		}
		return text
	}
	return t.print(w)
}

// policyLine says how far policy is enforced.
func policyLine(p *status.Policy) string {
	if p.Driver == "" {
		return because("NOT ENFORCED", p.Error)
	}
	text := fmt.Sprintf("%s, %s in force for %s", p.Driver, many(p.Policies, "policy", "policies"), count(p.Pods, "pod"))
	if p.Hosts > 0 {
		text += " and " + count(p.Hosts, "host interface")
	}
	text += fmt.Sprintf(", program %d", p.Programmed)
	if p.Programmed != p.Generation {
		text += fmt.Sprintf(", NOT %d", p.Generation)
	}
	if p.Offload != "" {
		text += ", " + p.Offload
	}
	return because(text, p.Error)
}

func address(s *status.Status) string {
	if s.Address == "" {
		return "none found yet"
	}
	return s.Address + " on " + orDash(s.Uplink)
}

// mtu prints a dash for 0, which stands for unknown.
func mtu(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func (v *statusView) applied(s *status.Status) string {
	when := "never"
	if !s.LastApplied.IsZero() {
		when = v.age(s.LastApplied) + " ago"
	}
	return fmt.Sprintf("%s, %s repaired since the start", when, count(int(s.Repairs), "kernel object"))
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func count(n int, what string) string { return many(n, what, what+"s") }

func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

// pathRow is one path with the peer it leads to.
type pathRow struct {
	node, address string
	path          status.Path
}

// paths prints the paths of each encapsulation under a line that counts them. What is unreachable
// comes first.
func (v *statusView) paths(w io.Writer, s *status.Status) error {
	groups := map[string][]pathRow{}
	var silent []string
	for _, p := range s.Peers {
		if len(p.Paths) == 0 {
			silent = append(silent, p.Node)
		}
		for _, path := range p.Paths {
			groups[path.Reach] = append(groups[path.Reach], pathRow{p.Node, p.Address, path})
		}
	}
	order := make([]string, 0, len(groups))
	for reach := range groups {
		order = append(order, reach)
	}
	slices.SortFunc(order, func(a, b string) int {
		if c := cmp.Compare(groupRank(a), groupRank(b)); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	v.title(w, fmt.Sprintf("Paths to %s", count(len(s.Peers), "other node")))
	if len(s.Peers) == 0 {
		fmt.Fprintln(w, "  none: no other node has published itself")
	}
	for _, reach := range order {
		if err := v.group(w, reach, groups[reach]); err != nil {
			return err
		}
	}
	if len(silent) > 0 {
		t := table{indent: "  ", width: v.width}
		t.add("No prefixes yet: " + strings.Join(v.first(silent), ", "))
		return t.print(w)
	}
	return nil
}

func groupRank(reach string) int {
	if reach == "Unreachable" {
		return 0
	}
	return 1
}

func (v *statusView) first(names []string) []string {
	if v.most == 0 || len(names) <= v.most {
		return names
	}
	return append(slices.Clone(names[:v.most]), fmt.Sprintf("%d more", len(names)-v.most))
}

func (v *statusView) group(w io.Writer, reach string, rows []pathRow) error {
	colour := green
	if reach == "Unreachable" {
		colour = red
	}
	fmt.Fprintf(w, "  %s %d\n", v.in(colour, clean(reach)), len(rows))
	t := table{indent: "    ", width: v.width, header: []string{"NODE", "ADDRESS", "PREFIX", "NEXT HOP", "MTU", "WHY"}}
	shown := rows
	if v.most > 0 && len(rows) > v.most {
		shown = rows[:v.most]
	}
	for _, r := range shown {
		hop := orDash(r.path.Via)
		if r.path.Device != "" {
			hop += " dev " + r.path.Device
		}
		t.add(r.node, orDash(r.address), r.path.Dst, hop, mtu(r.path.MTU), r.path.Why)
	}
	if err := t.print(w); err != nil {
		return err
	}
	if left := len(rows) - len(shown); left > 0 {
		fmt.Fprintf(w, "    and %d more: --all shows them\n", left)
	}
	return nil
}

func (v *statusView) tunnels(w io.Writer, s *status.Status) error {
	if len(s.Tunnels) == 0 {
		return nil
	}
	v.title(w, "Tunnels")
	t := table{indent: "  ", width: v.width, header: []string{"DEVICE", "DRIVER", "MTU", "OUTER", "WHY"}}
	for _, tun := range s.Tunnels {
		t.add(tun.Device, tun.Driver, strconv.Itoa(tun.MTU), tun.Outer, tun.Why)
	}
	return t.print(w)
}

func (v *statusView) problems(w io.Writer, s *status.Status) error {
	if len(s.Problems) == 0 {
		return nil
	}
	v.title(w, "Problems")
	t := table{indent: "  ", width: v.width, paint: func(_, _ int, text string) string { return v.in(red, text) }}
	for _, p := range s.Problems {
		t.add(p)
	}
	return t.print(w)
}

// bgpLine says how far sessions and routes are.
func bgpLine(b *status.BGP) string {
	if !b.On {
		return "no sessions: " + cmp.Or(b.Why, "the node has not decided yet")
	}
	return fmt.Sprintf("AS %d, %d of %s established; %s advertised, %s learned", b.ASN, b.Established, count(b.Sessions, "session"),
		many(b.Advertised, "prefix", "prefixes"), many(b.Learned, "prefix", "prefixes"))
}

// bgpProblems are no reason to call a node not ready: its pods are reached without BGP.
func (v *statusView) bgpProblems(w io.Writer, s *status.Status) error {
	if s.BGP == nil || len(s.BGP.Problems) == 0 {
		return nil
	}
	v.title(w, "BGP")
	t := table{indent: "  ", width: v.width, paint: func(_, _ int, text string) string { return v.in(yellow, text) }}
	for _, p := range s.BGP.Problems {
		t.add(p)
	}
	return t.print(w)
}

// notAcceptedHere leaves out what the problems above tell of: these say what this node does instead.
func (v *statusView) notAcceptedHere(w io.Writer, s *status.Status) error {
	told := slices.Clone(s.Problems)
	if s.BGP != nil {
		told = append(told, s.BGP.Problems...)
	}
	return v.notAccepted(w, slices.DeleteFunc(slices.Clone(s.NotAccepted), func(n status.NotAccepted) bool {
		return slices.ContainsFunc(told, func(p string) bool {
			return strings.HasPrefix(p, n.Resource+":") || strings.HasPrefix(p, n.Resource+" ")
		})
	}))
}

// notAccepted lists resources that are not honoured, all of them: that is the same on every node.
func (v *statusView) notAccepted(w io.Writer, all []status.NotAccepted) error {
	if len(all) == 0 {
		return nil
	}
	v.title(w, fmt.Sprintf("Not accepted: %s of the cluster", count(len(all), "resource")))
	shown := all
	if v.most > 0 && len(all) > v.most {
		shown = all[:v.most]
	}
	t := table{indent: "  ", width: v.width, header: []string{"RESOURCE", "REASON", "WHAT AND WHY"}, paint: func(row, column int, text string) string {
		if row < 0 || column != 1 {
			return text
		}
		return v.in(yellow, text)
	}}
	for _, n := range shown {
		t.add(n.Resource, n.Reason, oneLine(n.Message))
	}
	if err := t.print(w); err != nil {
		return err
	}
	if left := len(all) - len(shown); left > 0 {
		fmt.Fprintf(w, "  and %d more: --all shows them\n", left)
	}
	return nil
}

func (v *statusView) errors(w io.Writer, s *status.Status) error {
	if len(s.LastErrors) == 0 {
		return nil
	}
	v.title(w, "Last errors")
	t := table{indent: "  ", width: v.width, header: []string{"AGE", "PART", "ERROR"}}
	for _, e := range s.LastErrors {
		t.add(v.age(e.Time), e.Part, oneLine(e.Text))
	}
	return t.print(w)
}

func (v *statusView) checks(w io.Writer, s *status.Status) error {
	if len(s.Checks) == 0 {
		return nil
	}
	v.title(w, "Readiness")
	t := table{indent: "  ", width: v.width}
	for _, c := range s.Checks {
		mark := "ok"
		if !c.OK {
			mark = "FAIL"
		}
		t.add(mark, c.Name, oneLine(c.Reason))
	}
	t.paint = func(row, column int, text string) string {
		switch {
		case !s.Checks[row].OK:
			return v.in(red, text)
		case column == 0:
			return v.in(green, text)
		}
		return text
	}
	return t.print(w)
}

// age prints how long ago t was: "45s", "12m", "5h10m", "3d4h".
func (v *statusView) age(t time.Time) string { return age(v.now, t) }

func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
