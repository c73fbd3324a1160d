package bgp

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/supervise"
	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// agentCommand is what a node service does with a driver, in a process of its own that can be killed.
const agentCommand = "agent"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case speaker.CommandName:
			cmd := speaker.Command()
			args := slices.Clone(os.Args[2:])
			if p, ok := speaker.ParseArgs(os.Args); ok && p.Interface == otherInterface { // one of another release
				args[len(args)-1] = strconv.Itoa(speaker.Interface)
			}
			cmd.SetArgs(args)
			exit(cmd.Execute())
		case agentCommand:
			exit(agent(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// agent applies the plan of a test, says that it did, and waits.
func agent(dir string) error {
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	d := New(k, slog.New(slog.DiscardHandler), options(dir))
	if _, err := d.Apply(context.Background(), plan()); err != nil {
		return err
	}
	fmt.Println("ready")
	return d.Watch(context.Background(), func() {})
}

// host is one with a driver: 10.77.0.1 and fd77::1 on eth0.
type host struct {
	testkit.NS
	sw     testkit.NS // the switch; the i-th is on port p<i>
	dir    string
	driver *Driver
}

func options(dir string) Options {
	o := Options{Dir: dir, LogDir: dir}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "WEFT_") { // lets the leak check find the process
			o.Env = append(o.Env, v)
		}
	}
	return o
}

// lab returns a host and neighbours on one link; the i-th is 10.77.0.i+2 and fd77::i+2 on eth0.
func lab(t testing.TB, neighbours int) (*host, []testkit.NS) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.Bridge, testkit.IPv6, testkit.IPRoute2, testkit.BIRD)
	testkit.LeakCheck(t)
	sw := testkit.NewNetns(t)
	testkit.Run(t, sw, "ip", "link", "add", "br0", "type", "bridge")
	testkit.Run(t, sw, "ip", "link", "set", "br0", "up")
	var all []testkit.NS
	for i := range neighbours + 1 {
		ns := testkit.NewNetns(t)
		port := fmt.Sprintf("p%d", i+1)
		testkit.Wire(t, sw, port, ns, "eth0")
		testkit.Run(t, sw, "ip", "link", "set", port, "master", "br0", "up")
		testkit.Run(t, ns, "ip", "link", "set", "eth0", "up")
		testkit.Run(t, ns, "ip", "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		testkit.Run(t, ns, "ip", "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
		all = append(all, ns)
	}
	h := &host{NS: all[0], sw: sw, dir: t.TempDir()}
	h.renew(t)
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log")); err == nil {
				lines := strings.Split(string(b), "\n")
				t.Logf("the speaker's log ends:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
		if _, err := h.driver.Apply(context.Background(), routing.Speaker{}); err != nil {
			t.Errorf("end the speaker: %v", err)
		}
		h.driver.Close()
	})
	return h, all[1:]
}

// renew replaces the driver, as a restart of the node service does.
func (h *host) renew(t testing.TB) {
	t.Helper()
	if h.driver != nil {
		h.driver.Close()
	}
	h.driver = New(h.Open(t), slog.New(slog.DiscardHandler), options(h.dir))
}

func (h *host) apply(t testing.TB, s routing.Speaker) {
	t.Helper()
	if _, err := h.driver.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// peer returns what the driver says of a session.
func (h *host) peer(t testing.TB, a string) Peer {
	t.Helper()
	for _, p := range h.driver.States() {
		if p.Address == addr(a) {
			return p
		}
	}
	return Peer{}
}

func (h *host) established(t testing.TB, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		eventually(t, "the session with "+a+" is established", func() bool { return h.peer(t, a).State == speaker.Established })
	}
}

// learned returns the routes as text, one a line.
func (h *host) learned() string {
	routes, _ := h.driver.Learned()
	var out []string
	for _, r := range routes {
		hops := make([]string, 0, len(r.NextHops))
		for _, n := range r.NextHops {
			hops = append(hops, n.String())
		}
		line := fmt.Sprintf("%v via %s", r.Prefix, strings.Join(hops, " "))
		if r.Priority > 0 {
			line += fmt.Sprintf(" priority %d", r.Priority)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func (h *host) learns(t testing.TB, want ...string) {
	t.Helper()
	have := ""
	defer func() {
		if t.Failed() {
			t.Logf("learned is:\n%s", have)
		}
	}()
	eventually(t, "learned: "+strings.Join(want, "; "), func() bool {
		have = h.learned()
		return have == strings.Join(want, "\n")
	})
}

func eventually(t testing.TB, what string, f func() bool) time.Duration {
	t.Helper()
	return testkit.Eventually(t, 30*time.Second, what, f)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// plan is a speaker of AS 64512 with iBGP sessions, 10.77.0.2 and fd77::2, that advertises 10.65.1.0/26
// and fd65:1::/122.
func plan(change ...func(*routing.Speaker)) routing.Speaker {
	s := routing.Speaker{
		ASN: 64512, RouterID: addr("10.77.0.1"), ListenPort: 179,
		Sessions:       []routing.Session{session("10.77.0.2", 64512), session("fd77::2", 64512)},
		Advertisements: []routing.Advertisement{{Prefix: prefix("10.65.1.0/26")}, {Prefix: prefix("fd65:1::/122")}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func session(peer string, asn uint32, change ...func(*routing.Session)) routing.Session {
	s := routing.Session{
		Name: "to-" + peer, Peer: addr(peer), Port: 179, ASN: asn, LocalASN: 64512, RestartSeconds: 120, HoldSeconds: 90, KeepaliveSeconds: 30,
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

// sessions replaces the sessions of a plan.
func sessions(list ...routing.Session) func(*routing.Speaker) {
	return func(s *routing.Speaker) { s.Sessions = list }
}

// each changes every session of a plan.
func each(change func(*routing.Session)) func(*routing.Speaker) {
	return func(s *routing.Speaker) {
		s.Sessions = slices.Clone(s.Sessions)
		for i := range s.Sessions {
			change(&s.Sessions[i])
		}
	}
}

// birdConfig is BIRD as the i-th neighbour, 10.77.0.i, of AS asn, that announces 10.65.i.0/26 and
// fd65:i::/122 over a session of each family, with more said of both sessions.
type birdConfig struct {
	i        int
	asn      int
	of       int      // the AS of the host; 0 is 64512
	sessions string   // options of both BGP protocols
	export   string   // what the channels of both export; empty is the static routes
	static4  []string // besides 10.65.i.0/26: `10.1.0.0/16 blackhole { bgp_path.prepend(1); }`
	static6  []string
	more     string // further protocols
}

func (c birdConfig) text() string {
	if c.of == 0 {
		c.of = 64512
	}
	if c.export == "" {
		c.export = "where source = RTS_STATIC"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "router id 10.77.0.%d;\nprotocol device { }\nprotocol direct { ipv4; ipv6; }\n", c.i)
	fmt.Fprintf(&b, "protocol kernel { ipv4 { export all; }; merge paths on; }\nprotocol kernel { ipv6 { export all; }; merge paths on; }\n")
	fmt.Fprintf(&b, "protocol static { ipv4; route 10.65.%d.0/26 blackhole;\n", c.i)
	for _, r := range c.static4 {
		fmt.Fprintf(&b, "  route %s;\n", r)
	}
	fmt.Fprintf(&b, "}\nprotocol static { ipv6; route fd65:%d::/122 blackhole;\n", c.i)
	for _, r := range c.static6 {
		fmt.Fprintf(&b, "  route %s;\n", r)
	}
	b.WriteString("}\n")
	for _, f := range []struct{ name, channel, own, peer string }{
		{"host4", "ipv4", fmt.Sprintf("10.77.0.%d", c.i), "10.77.0.1"}, {"host6", "ipv6", fmt.Sprintf("fd77::%d", c.i), "fd77::1"},
	} {
		fmt.Fprintf(&b, `protocol bgp %s {
  local %s as %d; neighbor %s as %d;
  graceful restart on; direct;
  connect retry time 2; connect delay time 1; error wait time 2,4;
  %s
  %s { import all; export %s; next hop self; };
}
`, f.name, f.own, c.asn, f.peer, c.of, c.sessions, f.channel, c.export)
	}
	return b.String() + c.more
}

func (c birdConfig) start(t testing.TB, ns testkit.NS) *router.Bird {
	t.Helper()
	return router.StartBird(t, ns, c.text())
}

// startAgent runs agent for a host and waits until it has applied its plan.
func startAgent(t testing.TB, h *host) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", agentCommand, h.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Do(t, cmd.Start)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the agent: %q, %v", line, err)
	}
	return cmd
}

// speakerPID returns the process of the speaker.
func (h *host) speakerPID(t testing.TB) int {
	t.Helper()
	pid, err := supervise.Listener(context.Background(), h.driver.process().Socket())
	if err != nil || pid == 0 {
		t.Fatalf("no speaker: %v", err)
	}
	return pid
}
