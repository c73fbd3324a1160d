package wireguard

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/encryption"
	"weft/encryption/wireguard/userspace"
	"weft/internal/kernel"
	"weft/internal/supervise"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/traffic"
	"weft/model"
)

const (
	bareCommand  = "bare-wireguard"
	agentCommand = "agent"
	// listenCommand listens on a socket, and is nothing of ours.
	listenCommand = "listen"
	// anyVersion is the environment variable that lets a process say another version than it has.
	anyVersion = "TEST_ANY_VERSION"
)

func listen() error {
	l, err := net.Listen("unix", os.Args[2])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return nil
}

// agent is what a node service does with a driver, in a process of its own that can be killed: its
// arguments are the way, the directory and the hosts of a cluster, the first of them its own.
func agent() error {
	h := &host{way: Way(os.Args[2]), dir: os.Args[3]}
	var hosts []*host
	for _, a := range os.Args[4:] {
		i, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		hosts = append(hosts, &host{i: i, name: model.NodeName(fmt.Sprintf("n%d", i)), key: testKey(i)})
	}
	h.i, h.name, h.key = hosts[0].i, hosts[0].name, hosts[0].key
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	d := New(k, slog.New(slog.DiscardHandler), h.options())
	if _, err := d.Apply(context.Background(), h.plan(model.IPv4, hosts[1:]...)); err != nil {
		return err
	}
	fmt.Println("ready")
	return d.Watch(context.Background(), func() {})
}

// startAgent runs agent for a host and waits until it has applied its plan.
func startAgent(t *testing.T, h *host, others ...*host) *exec.Cmd {
	t.Helper()
	args := []string{agentCommand, string(h.way), h.dir, strconv.Itoa(h.i)}
	for _, o := range others {
		args = append(args, strconv.Itoa(o.i))
	}
	return startReady(t, h.NS, args, "")
}

func startReady(t testing.TB, ns testkit.NS, args []string, input string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the scheduler is fair between sessions
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, cmd.Start)
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := in.Write([]byte(input)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%v: %q, %v", args, line, err)
	}
	return cmd
}

// flow has traffic of both families between all hosts, at 1 kHz a pair, until stop is called, which
// tells what became of it.
func flow(t *testing.T, tcp bool, hosts ...*host) (run *traffic.Run, stop func() traffic.Report) {
	t.Helper()
	c := traffic.Config{Interval: 4 * time.Millisecond, TCP: tcp} // more, and a busy machine loses some without any change
	for _, h := range hosts {
		c.Hosts = append(c.Hosts, traffic.Host{Name: string(h.name), Netns: h.Path, Addr: h.ip4()}, traffic.Host{Name: string(h.name) + "-6", Netns: h.Path, Addr: h.ip6()})
	}
	run, err := traffic.Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	var rep *traffic.Report
	stop = func() traffic.Report {
		if rep == nil {
			r := run.Stop()
			rep = &r
		}
		return *rep
	}
	t.Cleanup(func() { stop() })
	return run, stop
}

// meet waits until every host has a session with every other.
func meet(t *testing.T, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		testkit.Eventually(t, 15*time.Second, string(h.name)+" has a session with all", func() bool {
			peers, err := h.driver.Peers(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			met := 0
			for _, p := range peers {
				if !p.LastHandshake.IsZero() {
					met++
				}
			}
			return met == len(hosts)-1
		})
	}
}

func pidOf(t testing.TB, h *host) int {
	t.Helper()
	pid, err := supervise.Listener(context.Background(), h.driver.procs.of(wg).Socket())
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestAgentKilled: the device goes on when the process that configures it is killed, and the next one
// changes nothing of it.
func TestAgentKilled(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		first := startAgent(t, a, b)
		join(t, model.IPv4, a, b) // which adopts the first one's
		pid := 0
		if w == Userspace {
			pid = pidOf(t, a)
		}
		meet(t, a, b)
		_, stop := flow(t, true, a, b)
		kills := testkit.Count(100)
		for range kills {
			if err := first.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = first.Wait()
			first = startAgent(t, a, b)
		}
		rep := stop()
		if n := rep.Total(); n.Lost > 0 || n.Sent == 0 {
			t.Errorf("%d of %d packets lost", n.Lost, n.Sent)
		}
		if err := rep.Errs(); len(err) > 0 {
			t.Error(err)
		}
		t.Logf("killed %d times: %d of %d packets lost, TCP went on", kills, rep.Total().Lost, rep.Total().Sent)
		figures.Write(t, "wireguard", figures.Share(fmt.Sprintf("%d kills of the agent, %s", kills, w), "lost", int64(rep.Total().Lost), "sent", int64(rep.Total().Sent))...)
		if w == Userspace && pidOf(t, a) != pid {
			t.Errorf("the device's process is %d, was %d", pidOf(t, a), pid)
		}
	})
}

// TestProcessKilled: the process is back at once, nothing goes in clear meanwhile although there is
// another route, and what was configured is.
func TestProcessKilled(t *testing.T) {
	require(t, Userspace)
	testkit.LeakCheck(t)
	under, hosts := cluster(t, Userspace, Userspace)
	a, b := hosts[0], hosts[1]
	// As some hosts have it: routes through an interface without a carrier are not taken.
	for _, f := range []string{"ipv4", "ipv6"} {
		if err := kernel.SetSysctlAt(a.Path, "net/"+f+"/conf/default/ignore_routes_with_linkdown", "1"); err != nil {
			t.Fatal(err)
		}
	}
	join(t, model.IPv4, a, b)
	plan := a.plan(model.IPv4, b)
	a.loop(t, func() encryption.Plan { return plan })
	// What would take traffic where the device is gone: the underlay leads to the peer's addresses, too.
	testkit.Run(t, a.NS, "ip", "route", "add", "default", "via", b.under(model.IPv4).String())
	testkit.Run(t, a.NS, "ip", "-6", "route", "add", "default", "via", b.under(model.IPv6).String())
	seen := capture(t, under, "port1")
	send := chatter(t, a, b)
	var times []time.Duration
	const rounds = 12
	for range rounds {
		lived := time.Now() // one that ends soon after its start is not started at once again and again
		testkit.Eventually(t, 10*time.Second, "the process lives a while", func() bool { return time.Since(lived) > supervise.Soon+100*time.Millisecond })
		pid := pidOf(t, a)
		start := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, 10*time.Second, "another process", func() bool { now := pidOf(t, a); return now != pid && now != 0 })
		before := send.echoed()
		testkit.Eventually(t, 10*time.Second, "traffic goes on", func() bool { return send.echoed() > before+3 })
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	sent := send.stop()
	packets, clear := seen()
	t.Logf("killed %d times: traffic is back after %v (median), %v (longest)", rounds, times[rounds/2].Round(time.Millisecond), times[rounds-1].Round(time.Millisecond))
	t.Logf("%d packets inspected of %d sent: %d cookies in clear", packets, sent, clear)
	figures.Write(t, "wireguard", append(figures.Seconds("process_back", "", times...), figures.Share("kills of the process", "clear", int64(clear), "inspected", int64(packets))...)...)
	if times[rounds/2] > testkit.Patient(time.Second) { // a busy machine makes one of them wait for longer
		t.Errorf("half of the times back after %v and more, want 1 s at most", times[rounds/2])
	}
	if clear > 0 || packets < 1000 {
		t.Errorf("%d cookies in clear in %d packets", clear, packets)
	}
}

// TestCaptureSees is the control: without the device's route, cookies are seen.
func TestCaptureSees(t *testing.T) {
	require(t, Userspace)
	testkit.LeakCheck(t)
	under, hosts := cluster(t, Userspace, Userspace)
	a, b := hosts[0], hosts[1]
	join(t, model.IPv4, a, b)
	testkit.Run(t, a.NS, "ip", "route", "add", "default", "via", b.under(model.IPv4).String())
	seen := capture(t, under, "port1")
	send := chatter(t, a, b)
	testkit.Eventually(t, 5*time.Second, "traffic", func() bool { return send.echoed() > 10 })
	testkit.Run(t, a.NS, "ip", "route", "del", b.block4().String())
	already := send.sent.Load()
	testkit.Eventually(t, 10*time.Second, "200 are sent in clear", func() bool { return send.sent.Load() > already+200 })
	sent := send.stop()
	packets, clear := seen()
	t.Logf("%d packets inspected of %d sent: %d cookies in clear", packets, sent, clear)
	if clear < 10 {
		t.Errorf("%d cookies in clear in %d packets", clear, packets)
	}
}

// TestAdoption: what answers on the socket is adopted, replaced or refused by what it is.
func TestAdoption(t *testing.T) {
	require(t, Userspace)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Userspace, Userspace)
	a, b := hosts[0], hosts[1]
	ctx := context.Background()

	t.Run("of another version", func(t *testing.T) {
		p := a.driver.procs.of(wg)
		p.Interface = 99
		cmd := exec.Command("/proc/self/exe", p.Args()...)
		cmd.Args[0] = "weft"
		cmd.Env = append(os.Environ(), anyVersion+"=1")
		a.Do(t, cmd.Start)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		testkit.Eventually(t, 5*time.Second, "it listens", func() bool { return pidOf(t, a) == cmd.Process.Pid })
		a.apply(t, a.plan(model.IPv4, b))
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("it still runs")
		}
		if pid := pidOf(t, a); pid == cmd.Process.Pid || pid == 0 {
			t.Errorf("process %d has the device", pid)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		pid := pidOf(t, a)
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		a.renew(t)
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if _, err := a.driver.Apply(short, a.plan(model.IPv4, b)); err == nil {
			t.Error("a stopped process is configured")
		}
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		a.apply(t, a.plan(model.IPv4, b))
		if now := pidOf(t, a); now != pid {
			t.Errorf("process %d has the device, was %d", now, pid)
		}
	})
	t.Run("of another namespace", func(t *testing.T) {
		b.driver.procs.socketDir = a.driver.procs.socketDir
		defer func() { b.driver.procs.socketDir = b.options().SocketDir }()
		_, err := b.driver.Apply(ctx, b.plan(model.IPv4, a))
		if err == nil || !strings.Contains(err.Error(), "another network namespace") || !strings.Contains(err.Error(), "end it") {
			t.Errorf("the error: %v", err)
		}
		if pidOf(t, a) == 0 {
			t.Error("the process of the other namespace was ended")
		}
	})
	t.Run("of somebody else", func(t *testing.T) {
		dir := b.options().SocketDir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := startReady(t, b.NS, []string{listenCommand, filepath.Join(dir, wg+".sock")}, "")
		_, err := b.driver.Apply(ctx, b.plan(model.IPv4, a))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) || !strings.Contains(err.Error(), "is not "+userspace.CommandName) {
			t.Errorf("the error: %v", err)
		}
		if cmd.Process.Signal(syscall.Signal(0)) != nil {
			t.Error("it was ended")
		}
	})
}

// TestProcessDoesNotStart: the error says why, as far as anybody knows.
func TestProcessDoesNotStart(t *testing.T) {
	require(t, Userspace)
	testkit.LeakCheck(t)
	_, hosts := cluster(t, Userspace)
	h := hosts[0]
	for executable, says := range map[string]string{
		"/bin/false": "it ended without a word: see its log", "/nonexistent": "no such file or directory",
	} {
		h.driver.procs.Executable = executable
		_, err := h.driver.Apply(context.Background(), h.plan(model.IPv4))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "start the process of WireGuard device "+wg) {
			t.Errorf("%s: %v", executable, err)
		}
	}
	h.driver.procs.Executable = ""
	// Where the directory of its socket cannot be made, the process itself says so.
	dir := h.driver.procs.socketDir
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.driver.Apply(context.Background(), h.plan(model.IPv4))
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("the error: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	h.apply(t, h.plan(model.IPv4))
}
