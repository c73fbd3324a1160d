package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"weft/node/status"
)

func commands(root *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	walk(root, func(c *cobra.Command) { all = append(all, c) })
	return all
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); -update accepts it:\n%s", path, diff)
	}
}

func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func sample() *status.Status {
	ago := func(d time.Duration) time.Time { return now().Add(-d) }
	return &status.Status{
		Node: "n1", Version: "v0.1.0", Started: ago(3*time.Hour + 12*time.Minute),
		Address: "172.31.1.1/24", AddressWhy: "source address of the route towards 172.31.2.1", Uplink: "eth0",
		Datastore: status.Datastore{Kind: "etcd", State: "wait-for-datastore", Error: "store unavailable: connection refused"},
		NotAccepted: []status.NotAccepted{
			{Resource: "FelixConfiguration default", Reason: "UnsupportedFields", Message: "kept and without effect in this release: spec.bpfEnabled=true; take them out, or see docs/features.md"},
			{Resource: "NetworkPolicy default/web", Reason: "ReferenceNotFound", Message: "spec.tier: there is no Tier front"},
		},
		PodMTU: 1450, PodMTUWhy: "1500 of eth0 minus 50 of VXLAN",
		Peers: []status.Peer{
			{Node: "n2", Address: "172.31.1.2", Paths: []status.Path{
				{Dst: "10.244.1.0/26", Reach: "Direct", Via: "172.31.1.2", Device: "eth0", MTU: 1500, Why: "n2 is on link and vxlanMode is CrossSubnet"},
			}},
			{Node: "n3", Address: "172.31.2.1", Paths: []status.Path{
				{Dst: "10.244.2.0/26", Reach: "VXLAN", Via: "172.31.2.1", Device: "weft-vxlan", MTU: 1450, Why: "n3 is not on link and vxlanMode is CrossSubnet"},
				{Dst: "10.244.2.64/26", Reach: "VXLAN", Via: "172.31.2.1", Device: "weft-vxlan", MTU: 1450, Why: "n3 is not on link and vxlanMode is CrossSubnet"},
			}},
			{Node: "n4\x1b[2J", Address: "", Paths: []status.Path{
				{Dst: "10.244.3.0/26", Reach: "Unreachable", MTU: 0, Why: "n4 has published no IPv4 address"},
			}},
			{Node: "n5", Address: "172.31.2.5"},
		},
		Tunnels:    []status.Tunnel{{Device: "weft-vxlan", Driver: "vxlan", Outer: "UDP 4789, VNI 4096", MTU: 1450, Why: "IPPool pods asks for it"}},
		Endpoints:  2,
		Policy:     status.Policy{Driver: "nftables", Generation: 41, Programmed: 40, Policies: 1, Pods: 2, Hosts: 1, Error: "no memory for the set"},
		Problems:   []string{"n4 has published no IPv4 address: is weft node running there?"},
		LastErrors: []status.Error{{Part: "routing/fib", Time: ago(90 * time.Second), Text: "put route 10.244.3.0/26:\nno such device"}},
		Checks: []status.Check{
			{Name: "datastore", OK: false, Reason: "the store is away since 45s"},
			{Name: "kernel", OK: true, Reason: "as planned"},
		},
		Repairs: 1, LastApplied: ago(45 * time.Second),
		Encryption: &status.Encryption{On: true, Families: []string{"IPv4", "IPv6"}, Driver: "userspace", Mode: "Required", KeyEpoch: 3, OtherEpochs: []int{2},
			Nodes: 4, Ready: 2, Encrypted: []string{}, Clear: []string{"n2", "n3"}, Unreachable: []string{"n4\x1b[2J"}, RefusedOut: 7, RefusedIn: 12},
	}
}

func TestStatusView(t *testing.T) {
	for _, width := range []int{80, 120, 0} {
		v := statusView{now: now(), width: width}
		var b bytes.Buffer
		if err := v.print(&b, sample()); err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("status-%d.txt", width), b.Bytes())
		for _, l := range strings.Split(b.String(), "\n") {
			if n := utf8.RuneCountInString(l); width > 0 && n > width {
				t.Errorf("width %d: a line has %d columns: %q", width, n, l)
			}
		}
		if bytes.ContainsRune(b.Bytes(), 0x1b) {
			t.Errorf("width %d: an escape of the cluster's data reached the screen", width)
		}
	}
}

func TestStatusViewColour(t *testing.T) {
	v := statusView{now: now(), width: 120, colour: true}
	var b bytes.Buffer
	if err := v.print(&b, sample()); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-120-colour.txt", []byte(strings.ReplaceAll(b.String(), "\x1b", "^")))
	// Colour changes nothing but colour.
	v.colour = false
	var p bytes.Buffer
	if err := v.print(&p, sample()); err != nil {
		t.Fatal(err)
	}
	stripped := strings.NewReplacer(red, "", green, "", yellow, "", bold, "", plain, "").Replace(b.String())
	if diff := cmp.Diff(p.String(), stripped); diff != "" {
		t.Errorf("with colours taken out (-plain +coloured):\n%s", diff)
	}
}

func TestStatusViewEmptyAndLarge(t *testing.T) {
	var b bytes.Buffer
	v := statusView{now: now(), width: 80}
	if err := v.print(&b, &status.Status{Node: "n1", Ready: true}); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-empty-80.txt", b.Bytes())

	s := &status.Status{Node: "n1", Ready: true}
	for i := range 5000 {
		s.Peers = append(s.Peers, status.Peer{Node: fmt.Sprintf("n%d", i), Address: "192.0.2.1", Paths: []status.Path{{Dst: "10.0.0.0/26", Reach: "VXLAN"}}})
	}
	b.Reset()
	v.most = 20
	if err := v.print(&b, s); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n > 40 {
		t.Errorf("5000 peers take %d lines, want one screen", n)
	}
	if want := "and 4980 more"; !strings.Contains(b.String(), want) {
		t.Errorf("got\n%s\nwant %q in it", b.String(), want)
	}
}

func TestTable(t *testing.T) {
	tab := table{header: []string{"NAME", "WHY"}, width: 40, indent: "  "}
	tab.add("n1", "short")
	tab.add("a-longer-name", "this sentence does not fit beside its name at all")
	tab.add("evil", "a\x1b[31mb\x07c\td\u202ee\u009bf\xff")
	var b bytes.Buffer
	if err := tab.print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", b.Bytes())
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, ünïcode ✓": "plain text, ünïcode ✓",
		"":                      "",
		"\x1b]0;title\x07":      `\x1b]0;title\x07`,
		"a\nb\tc\rd":            `a\nb\tc\x0dd`,
		"\u009b31m":             `\u009b31m`,
		"\u202egpj.exe":         `\u202egpj.exe`,
		"bad\xff\xfe":           `bad\xff\xfe`,
		"\u2028":                `\u2028`,
		"\U000e0001":            `\U000e0001`,
		"\x7f":                  `\x7f`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[2J", "\xff\x00", "\u202e", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, got := range map[string]string{"clean": clean(s), "oneLine": oneLine(s), "cleanJSON": cleanJSON(s)} {
			if !utf8.ValidString(got) {
				t.Errorf("%s(%q) = %q is not UTF-8", name, s, got)
			}
			for _, r := range got {
				if unsafeRune(r) && (name != "cleanJSON" || r != '\n') {
					t.Errorf("%s(%q) = %q lets %q through", name, s, got, r)
				}
			}
		}
	})
}

// run executes a root with args as the process would.
func run(t *testing.T, root *cobra.Command, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(args)
	code = Execute(context.Background(), root)
	return code, out.String(), errOut.String()
}

func TestExecute(t *testing.T) {
	root := func() *cobra.Command {
		r := Root("test")
		g := &cobra.Command{Use: "group", Short: "s"}
		g.AddCommand(
			&cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error {
				return errors.Join(errors.New("do a thing: first\x1b[31m"), errors.New("second"))
			}},
			&cobra.Command{Use: "wrong", RunE: func(*cobra.Command, []string) error { return Usagef("bad %s", "value") }},
			&cobra.Command{Use: "seven", RunE: func(*cobra.Command, []string) error { return &ExitError{Code: 7} }},
			&cobra.Command{Use: "none", Args: cobra.NoArgs, Run: func(*cobra.Command, []string) {}},
		)
		r.AddCommand(g)
		return r
	}
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"group none", 0, ""},
		{"group fail", 1, "weft: do a thing: first\\x1b[31m; second\n"},
		{"group wrong", 2, "weft group wrong: bad value; see weft group wrong --help\n"},
		{"group seven", 7, ""},
		{"group none extra", 2, "weft group none: it takes no arguments, got \"extra\"; see weft group none --help\n"},
		{"group nosuch", 2, "weft group: unknown command \"nosuch\": want fail, none, seven or wrong; see weft group --help\n"},
		{"nosuch", 2, "weft: unknown command \"nosuch\" for \"weft\"; see weft --help\n"},
		{"group none --nosuch", 2, "weft group none: unknown flag: --nosuch; see weft group none --help\n"},
		{"aply", 2, "weft: unknown command \"aply\" for \"weft\" Did you mean this? apply; see weft --help\n"},
		{"get", 2, "weft get: KIND is missing; see weft get --help\n"},
		{"get nosuchkind", 2, "weft get: unknown kind \"nosuchkind\": want " + oneOf(kindNames(true)) + "; see weft get --help\n"},
	} {
		code, _, stderr := run(t, root(), strings.Fields(c.args)...)
		if code != c.code || stderr != c.stderr {
			t.Errorf("weft %s: got code %d and %q, want %d and %q", c.args, code, stderr, c.code, c.stderr)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Minute: "1h1m", 50 * time.Hour: "2d2h",
	} {
		if got := age(now(), now().Add(-d)); got != want {
			t.Errorf("age of %v: got %s, want %s", d, got, want)
		}
	}
}
