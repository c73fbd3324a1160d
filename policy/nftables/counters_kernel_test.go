package nftables

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/eval"
	"weft/policy/policytest"
)

type ruleOf struct {
	chain policy.ChainID
	rule  int
}

// TestCounters sends packets through random worlds and holds each rule's counter against the reasons that
// policy/eval gives for these packets.
func TestCounters(t *testing.T) {
	testkit.LeakCheck(t)
	x := &trial{crossing: newCrossing(t), byID: map[uint32]*judged{}}
	d := newDriver(t, x.node)
	rules, met, ends := 0, 0, 0
	for seed := uint64(1); seed <= uint64(testkit.Count(20)); seed++ {
		w := policytest.Full(seed, seed%3 > 0)
		p, err := policy.Compile(w.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, d, policy.Update{Program: p, Generation: seed})
		want, tiers := map[ruleOf]uint64{}, uint64(0)
		for _, j := range x.packets(w, p, 150) {
			known := func(iface string) bool { return !strings.HasPrefix(iface, "weft") || p.Endpoints[iface] != nil }
			if !known(j.packet.In) || !known(j.packet.Out) {
				continue
			}
			if err := x.forget(); err != nil {
				t.Fatal(err)
			}
			if _, err := x.send(j.packet, j.mac); err != nil && j.packet.In != "" {
				t.Fatal(err)
			}
			pkt := *j.packet
			pkt.MAC = j.mac
			for _, r := range eval.Explain(p, &pkt).Reasons {
				if r.Rule >= 0 {
					want[ruleOf{r.Chain, r.Rule}]++
				} else if r.Tier != "" {
					tiers++
				}
			}
		}
		if err := x.receive(10*time.Millisecond, func(uint32) bool { return false }); err != nil {
			t.Fatal(err)
		}
		own := uint64(0) // at host endpoints the node itself may send a little, such as multicast listener reports
		if len(p.Hosts) > 0 {
			own = 5
		}
		counters, err := d.Counters(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got := uint64(0)
		for _, c := range counters {
			if c.Chain == "" {
				if c.Tag.Cause == policy.ByTier {
					got += c.Packets
				}
				continue
			}
			if c.Tag.Action == model.Log {
				continue // counted once for each way in which the rule can match
			}
			n := uint64(0)
			for _, r := range c.Rules {
				n += want[ruleOf{c.Chain, r}]
			}
			if rules++; n > 0 {
				met++
			}
			if c.Packets < n || c.Packets > n+own || (c.Bytes > 0) != (c.Packets > 0) {
				t.Errorf("seed %d: %s rules %v counted %d packets, want %d", seed, c.Chain, c.Rules, c.Packets, n)
			}
		}
		if ends += int(tiers); got < tiers || got > tiers+own {
			t.Errorf("seed %d: ends of tiers counted %d packets, want %d", seed, got, tiers)
		}
	}
	t.Logf("%d counters as policy/eval says, %d of them not zero; %d packets at the ends of tiers", rules, met, ends)
	if met < 20 || ends < 20 {
		t.Error("too few of them to mean anything")
	}
}

// listenToLog calls f with the prefix of each packet that is logged in the namespace.
func listenToLog(t *testing.T, ns testkit.NS, f func(prefix string)) {
	t.Helper()
	var c *netlink.Conn
	ns.Do(t, func() (err error) {
		c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	// linux/netfilter/nfnetlink_log.h
	const (
		cfgCmd, cfgMode, cfgThreshold, prefixOf = 1, 2, 5, 10
		config, bind, copyPacket                = 1, 1, 2
	)
	for _, a := range []netlink.Attribute{
		{Type: cfgCmd, Data: []byte{bind}},
		{Type: cfgMode, Data: []byte{0, 0, 0, 64, copyPacket, 0}},
		{Type: cfgThreshold, Data: []byte{0, 0, 0, 1}}, // or they are kept for up to a second
	} {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err != nil {
			t.Fatal(err)
		}
		group := []byte{unix.AF_UNSPEC, 0, kernel.LogGroup >> 8, kernel.LogGroup & 0xff}
		if _, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | config,
			Flags: netlink.Request | netlink.Acknowledge}, Data: append(group, data...)}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			msgs, err := c.Receive()
			if err != nil {
				return // closed
			}
			for _, m := range msgs {
				if ad, err := netlink.NewAttributeDecoder(m.Data[4:]); err == nil {
					for ad.Next() {
						if ad.Type() == prefixOf {
							f(ad.String())
						}
					}
				}
			}
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
}

// TestLog reads what is logged of a flood of packets that a rule denies.
func TestLog(t *testing.T) {
	testkit.LeakCheck(t)
	x := newCrossing(t)
	d := newDriver(t, x.node)
	_, k := guarded(t, 7)
	if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: "p0", Interface: "eth0"}, Device: policytest.Device(0),
		MAC: model.MAC{2}, Addresses: []netip.Addr{policytest.Local4(0), policytest.Local6(0)}}); err != nil {
		t.Fatal(err)
	}
	u := k.Flush()
	apply(t, d, u)
	names := policy.TagNames(u.Program)
	const want = "GlobalNetworkPolicy no-99 egress"
	var mu sync.Mutex
	seen := map[string]int{}
	listenToLog(t, x.node, func(prefix string) {
		mu.Lock()
		defer mu.Unlock()
		tag, err := policy.ParseTag(prefix)
		switch own := names[tag.Name]; { // of the node's own packets to pods' devices that have no entry here, or of its host endpoints'
		case err == nil && (tag.Cause == policy.ByNoProgram || tag.Cause == policy.ByRule && own != "" && own != want):
		default:
			seen[prefix]++
		}
	})
	const n = 5000
	start := time.Now()
	for i := range n {
		p := &model.Packet{In: policytest.Device(0), Out: "eth0", Src: policytest.Local4(0), Dst: policytest.Local4(9), Protocol: model.TCP, SrcPort: uint16(1024 + i), DstPort: 99}
		if _, err := x.send(p, model.MAC{2}); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	total := 0
	testkit.Eventually(t, 5*time.Second, "log entries", func() bool {
		mu.Lock()
		defer mu.Unlock()
		total = 0
		for _, c := range seen {
			total += c
		}
		return total >= logBurst
	})
	mu.Lock()
	defer mu.Unlock()
	for prefix := range seen {
		tag, err := policy.ParseTag(prefix)
		if err != nil || names[tag.Name] != want || tag.Action != model.Deny || tag.Cause != policy.ByRule || tag.Rule != 0 {
			t.Errorf("logged as %q: of %q, %+v, %v; want rule 0 of %s", prefix, names[tag.Name], tag, err, want)
		}
	}
	counters, err := d.Counters(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	counted := uint64(0)
	for _, c := range counters {
		if c.Chain == want {
			counted += c.Packets
		}
	}
	if most := logBurst + int(took.Seconds()+2)*logRate; counted != n || total > most {
		t.Errorf("of %d packets denied in %v %d were counted and %d logged, want all and at most %d", n, took, counted, total, most)
	}
	t.Logf("%d packets denied in %v: %d counted, %d logged", n, took.Round(time.Millisecond), counted, total)
}
