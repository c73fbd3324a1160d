package nftables

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/model"
)

// street is a node with two pods that talk, 98 more that do not, and policies.
type street struct {
	node, a, b testkit.NS
	label      string
	rates      []float64
}

const talkA, talkB = "10.1.200.1", "10.1.200.2"

// newStreet has so many policies in the cluster, about the other pods, and so many on the two.
func newStreet(t *testing.T, policies, own int) *street {
	t.Helper()
	s := &street{node: testkit.NewNetns(t), a: testkit.NewNetns(t), b: testkit.NewNetns(t), label: fmt.Sprintf("%d policies, %d on the pods", policies, own)}
	if err := kernel.SetSysctlAt(s.node.Path, "net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	k := town{98, 0, policies}.build(t)
	for i, pod := range []struct {
		ns      testkit.NS
		address string
	}{{s.a, talkA}, {s.b, talkB}} {
		device := fmt.Sprintf("weft%011x", 0xfff0+i)
		testkit.Wire(t, s.node, device, pod.ns, "eth0")
		pod.ns.AddAddress(t, "eth0", pod.address+"/32")
		testkit.Run(t, s.node, "ip", "route", "add", pod.address+"/32", "dev", device)
		testkit.Run(t, s.node, "ip", "neigh", "add", pod.address, "lladdr", macOf(t, pod.ns, "eth0").String(), "dev", device)
		testkit.Run(t, pod.ns, "ip", "route", "add", "169.254.1.1", "dev", "eth0")
		testkit.Run(t, pod.ns, "ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
		testkit.Run(t, pod.ns, "ip", "neigh", "add", "169.254.1.1", "lladdr", macOf(t, s.node, device).String(), "dev", "eth0")
		if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("talks", i), Interface: "eth0"}, Device: device, MAC: macOf(t, pod.ns, "eth0"),
			Addresses: []netip.Addr{netip.MustParseAddr(pod.address)}, Labels: map[string]string{"talks": "yes"}, Profiles: []string{"kns.ns"}}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range own {
		p := town{}.policy(n, 0)
		p.ID.Name, p.Selector = fmt.Sprint("own", n), "has(talks)"
		if n == own-1 {
			p.Ingress[2] = model.Rule{Action: model.Allow, Protocol: model.TCP}
		}
		if err := k.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
	}
	u := k.Flush()
	start := time.Now()
	apply(t, newDriver(t, s.node), u)
	t.Logf("%s: whole in %v", s.label, time.Since(start).Round(time.Millisecond))
	var l net.Listener
	s.b.Do(t, func() (err error) {
		l, err = net.Listen("tcp", talkB+":80")
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // until the other end resets it
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return s
}

// round opens connections, one after the other, for some time, and returns how many a second of processor
// time: of the clock of a machine that others use, nothing would follow.
func (s *street) round(t *testing.T, span time.Duration) float64 {
	n, busy := 0, time.Duration(0)
	s.a.Do(t, func() error {
		start := testkit.ProcessorTime()
		for end := time.Now().Add(span); time.Now().Before(end); n++ {
			c, err := net.Dial("tcp", talkB+":80")
			if err != nil {
				return err
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		busy = testkit.ProcessorTime() - start
		return nil
	})
	return float64(n) / busy.Seconds()
}

// TestConnectionRate compares how many TCP connections a second can be opened with few and with many
// policies in the cluster, and with few and many on the pods. Rounds alternate, and each is compared with the
// one beside it. WEFT_LONG=1 has more of them.
func TestConnectionRate(t *testing.T) {
	testkit.LeakCheck(t)
	streets := []*street{newStreet(t, 10, 10), newStreet(t, testkit.Count(1_000), 10), newStreet(t, testkit.Count(10_000), 10), newStreet(t, 10, 100)}
	least := []float64{0, 0.95, 0.95, 0.7} // those on the pods are asked, one after the other
	rounds := 21
	if os.Getenv("WEFT_LONG") == "1" {
		rounds = 61
	}
	for n := range rounds {
		for i := range streets {
			if n%2 == 1 { // whatever drifts meanwhile is for and against each
				i = len(streets) - 1 - i
			}
			streets[i].rates = append(streets[i].rates, streets[i].round(t, 150*time.Millisecond))
		}
	}
	for n, s := range streets {
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = s.rates[i] / streets[0].rates[i]
		}
		t.Logf("%s: %.0f connections a second of processor time (median of %d rounds), %.3f of the first", s.label, testkit.Median(s.rates), rounds, testkit.Median(ratios))
		if n > 0 {
			figures.Write(t, "connections", figures.Ratios("of_few_policies", s.label, ratios...)...)
		}
		slices.Sort(ratios)
		// Seven of ten rounds tell the same, or it is the noise of a machine with other work.
		if most := ratios[rounds*7/10]; most < least[n] {
			t.Errorf("%s: in seven of ten rounds at most %.3f of the connections that there are with few policies, want %.2f", s.label, most, least[n])
		}
	}
}
