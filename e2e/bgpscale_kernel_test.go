package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/bench/result"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/testkit/router"
	"weft/node/status"
)

// TestBGPManyRoutes: a router announces 100,000 prefixes to a node, and withdraws them, in messages and by its death.
// Another BIRD, which has them from the same router and puts them into its own kernel, says what this machine can do at
// that moment.
func TestBGPManyRoutes(t *testing.T) {
	c := bgpCluster(t, "e2ebgpmany")
	c.pool("Never")
	c.sessions(12)
	m := &many{c: c, n: testkit.Count(100_000), beside: testkit.NewNetns(t)}
	ns := testkit.NS{Name: c.lab.Netns("router"), Path: c.nodeNetns("router").Path}
	testkit.Wire(t, ns, "to-beside", m.beside, "eth0")
	testkit.Run(t, ns, "ip", "address", "add", "198.18.0.1/24", "dev", "to-beside")
	m.beside.AddAddress(t, "eth0", "198.18.0.2/24")
	m.bird = router.StartBird(t, ns, manyOf(c, m.n))
	router.StartBird(t, m.beside, `router id 198.18.0.2;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; learn off; }
protocol bgp origin { local as 64512; neighbor 198.18.0.1 as 64513; ipv4 { import all; export none; }; }
`)
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 172.31.1.254, asNumber: 64513, node: n1}}\n")
	m.established("n1", "beside")
	m.node, m.speaker = c.processes("n1")
	m.before, m.besideBefore = kernelRoutes(t, c.nodeNetns("n1")), kernelRoutes(t, m.beside)
	none := m.memory()

	m.bird.Ask(t, "disable n1")
	come, gone := m.besides("enable many", m.n), m.besides("disable many", 0)
	m.bird.Ask(t, "disable beside")
	m.bird.Ask(t, "enable n1")
	m.established("n1")

	m.phase("announced", come, m.n, func() { m.bird.Ask(t, "enable many") })
	with := m.memory()
	m.phase("withdrawn", gone, 0, func() { m.bird.Ask(t, "disable many") })
	m.bird.Ask(t, "disable n1")
	m.bird.Ask(t, "enable many")
	m.phase("session begun with all", come, m.n, func() {
		m.bird.Ask(t, "enable n1")
		m.established("n1")
	})
	m.phase("BIRD killed", gone, 0, func() { m.bird.Kill(t) })
	t.Logf("memory of node service and speaker: %d MiB with no route, %d MiB with %d, at most %d MiB", none, with, m.n, m.most)
	figures.Write(t, "bgp", result.Record{Metric: "memory", Unit: result.Bytes, Value: float64(m.most << 20)},
		// Measured once each, although two phases are compared with each.
		result.Record{Metric: "bird_installed", Unit: result.Seconds, Setting: "announced", Value: come.Seconds()},
		result.Record{Metric: "bird_installed", Unit: result.Seconds, Setting: "withdrawn", Value: gone.Seconds()})
	if m.most > 450 && !testkit.Emulated() { // 347 to 379, as collections of garbage happen to fall
		t.Errorf("the node service and the speaker took %d MiB, want at most 450", m.most)
	}
}

// many is a node that learns many routes, and what is beside it.
type many struct {
	c             *cluster
	n             int
	bird          *router.Bird // announces
	before        int          // routes in the node's kernel without
	node, speaker int          // processes
	most          int          // MiB that both took
	beside        testkit.NS   // where a BIRD does the same
	besideBefore  int
}

func (m *many) established(protocols ...string) {
	m.c.t.Helper()
	for _, p := range protocols {
		testkit.Eventually(m.c.t, 30*time.Second, "BIRD's session "+p+" is established", func() bool { return m.bird.Established(m.c.t, p) })
	}
}

// phase does something, and waits until the node and its kernel have so many routes. yard is how long BIRD took for that.
func (m *many) phase(what string, yard time.Duration, want int, do func()) {
	t := m.c.t
	t.Helper()
	load, _ := os.ReadFile("/proc/loadavg")
	busyNode, busySpeaker := processor(t, m.node), processor(t, m.speaker)
	do()
	begin := time.Now()
	var known, installed time.Duration
	for known == 0 || installed == 0 {
		if time.Since(begin) > 3*time.Minute {
			t.Fatalf("%s: after 3 minutes the kernel has %d routes, want %d", what, kernelRoutes(t, m.c.nodeNetns("n1"))-m.before, want)
		}
		time.Sleep(50 * time.Millisecond)
		if installed == 0 && kernelRoutes(t, m.c.nodeNetns("n1"))-m.before == want {
			installed = time.Since(begin)
		}
		if known == 0 {
			st, err := status.Fetch(t.Context(), m.c.lab.NodeRunDir("n1"))
			if others := 4; err == nil && st.BGP != nil && st.BGP.Learned >= want && st.BGP.Learned <= want+others {
				known = time.Since(begin)
			}
		}
		m.most = max(m.most, m.memory())
	}
	busyNode, busySpeaker = processor(t, m.node)-busyNode, processor(t, m.speaker)-busySpeaker
	t.Logf("%s: %d routes known after %v, in the kernel after %v (BIRD and its kernel %v); %v + %v of processor; load %s", what, m.n,
		known.Round(time.Millisecond), installed.Round(time.Millisecond), yard, busyNode, busySpeaker, strings.Fields(string(load))[0])
	if testkit.Emulated() {
		return
	}
	figures.Write(t, "bgp", result.Record{Metric: "installed", Unit: result.Seconds, Setting: what, Value: installed.Seconds()},
		result.Record{Metric: "routes", Unit: result.Count, Setting: what, Value: float64(m.n)},
		result.Record{Metric: "processor_time", Unit: result.Seconds, Setting: what, Value: (busyNode + busySpeaker).Seconds()})
	if installed > time.Minute && installed > 20*yard { // on a busy machine; the processor time below says more
		t.Errorf("%s: took %v, and BIRD %v", what, installed, yard)
	}
	if busyNode+busySpeaker > 15*time.Second {
		t.Errorf("%s: took %v + %v of processor", what, busyNode, busySpeaker)
	}
}

// besides returns how long the BIRD beside takes to have so many routes in its kernel.
func (m *many) besides(command string, want int) time.Duration {
	m.c.t.Helper()
	begin := time.Now()
	m.bird.Ask(m.c.t, command)
	testkit.Eventually(m.c.t, time.Minute, "the BIRD beside has done: "+command, func() bool { return kernelRoutes(m.c.t, m.beside)-m.besideBefore == want })
	return time.Since(begin).Round(time.Millisecond)
}

// memory returns the resident memory of the node service and the speaker in MiB. The pages of the binary that both run
// are there once.
func (m *many) memory() int {
	own, file := 0, 0
	for _, pid := range []int{m.node, m.speaker} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			m.c.t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			kib := 0
			if n, _ := fmt.Sscanf(l, "RssAnon: %d", &kib); n == 1 {
				own += kib
			} else if n, _ := fmt.Sscanf(l, "RssFile: %d", &kib); n == 1 {
				file = max(file, kib)
			}
		}
	}
	return (own + file) / 1024
}

// processor returns how much processor time a process took.
func processor(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int
	_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// processes returns the node service and the BGP speaker of a node.
func (c *cluster) processes(node string) (service, speaker int) {
	c.t.Helper()
	want, err := os.Stat(c.nodeNetns(node).Path)
	if err != nil {
		c.t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		line, _ := os.ReadFile(d + "/cmdline")
		args := strings.Split(string(line), "\x00")
		have, err := os.Stat(d + "/ns/net")
		if err != nil || !os.SameFile(have, want) || len(args) < 2 {
			continue
		}
		pid := 0
		_, _ = fmt.Sscan(filepath.Base(d), &pid)
		switch args[1] {
		case "node":
			service = pid
		case "bgp-speaker":
			speaker = pid
		}
	}
	if service == 0 || speaker == 0 {
		c.t.Fatalf("node %s: its service is process %d and its speaker %d", node, service, speaker)
	}
	return service, speaker
}

// kernelRoutes is how many prefixes the main table of a namespace has.
func kernelRoutes(t *testing.T, ns testkit.NS) (count int) {
	t.Helper()
	if err := kernel.Do(ns.Path, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/fib_triestat")
		_, main, _ := strings.Cut(string(b), "Main:")
		_, prefixes, _ := strings.Cut(main, "Prefixes:")
		_, _ = fmt.Sscan(prefixes, &count)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

// manyOf is the configuration of a router that announces n prefixes to n1, and to the BIRD beside, when it is told to.
func manyOf(c *cluster, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `router id 172.31.1.254;
protocol device {}
protocol static many { disabled; ipv4;
`)
	for i := range n {
		fmt.Fprintf(&b, "route %d.%d.%d.0/24 blackhole;\n", 20+i/65536, i/256%256, i%256)
	}
	fmt.Fprintf(&b, `}
protocol bgp n1 { local as 64513; neighbor %v as 64512; connect delay time 1; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
protocol bgp beside { local as 64513; neighbor 198.18.0.2 as 64512; connect delay time 1; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
`, c.nodeAddresses("n1")[0])
	return b.String()
}
