package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/node/status"
)

// closedHosts is a host endpoint on the uplink of every node, and a policy that lets nothing pass there.
func closedHosts() string {
	text := `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed-hosts}
spec: {selector: host == 'closed', types: [Ingress, Egress]}
`
	for _, n := range labNodes {
		text += fmt.Sprintf("---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: %s-%s, labels: {host: closed}}\nspec: {node: %s, interfaceName: %s}\n", n, uplink, n, uplink)
	}
	return text
}

// packets sends so many packets of a protocol (port 0: IPIP's) and tells how many more than before the target
// took in as its own, whether or not somebody there wanted them.
func (c *cluster) packets(from testkit.NS, target string, to netip.Addr, port uint16, count int) int {
	c.t.Helper()
	took := func() (n int) {
		lines := strings.Split(testkit.Run(c.t, c.nodeNetns(target), "cat", "/proc/net/snmp"), "\n")
		names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
		for i, name := range names {
			if name == "InDelivers" || name == "InUnknownProtos" {
				v, err := strconv.Atoi(values[i])
				if err != nil {
					c.t.Fatal(err)
				}
				n += v
			}
		}
		return n
	}
	before := took()
	kind, protocol := unix.SOCK_DGRAM, unix.IPPROTO_UDP
	if port == 0 {
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_IPIP
	}
	err := kernel.Do(from.Path, func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range count {
			err := unix.Sendto(fd, []byte("what no tunnel takes for its own"), 0, &unix.SockaddrInet4{Addr: to.As4(), Port: int(port)})
			if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOPROTOOPT) {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	return took() - before
}

// address is that of a device in a namespace.
func (c *cluster) address(ns testkit.NS, device string) netip.Addr {
	c.t.Helper()
	for _, w := range strings.Fields(testkit.Run(c.t, ns, "ip", "-4", "-o", "address", "show", "dev", device, "scope", "global")) {
		if p, err := netip.ParsePrefix(w); err == nil {
			return p.Addr()
		}
	}
	c.t.Fatalf("%s of %s has no IPv4 address", device, ns.Name)
	return netip.Addr{}
}

// TestTunnelsPassHostEndpoints: where the uplinks' host endpoints let nothing pass, pods of different nodes still
// reach each other by every tunnel. What else the nodes send each other does not arrive, nor do a tunnel's packets
// from an address that is no node's.
func TestTunnelsPassHostEndpoints(t *testing.T) {
	for _, mode := range []string{"Enabled", "Disabled"} {
		t.Run("nftables "+mode, func(t *testing.T) {
			c := newCluster(t, "e2ehep")
			driver := fmt.Sprintf("nftablesMode: %s, defaultEndpointToHostAction: Accept", mode)
			c.apply(vxlanAlways.manifest() + "---\n" + felix("{"+driver+"}"))
			c.pods()
			c.settle(vxlanAlways, labNodes, nil)
			router := c.nodeNetns("router")
			target := c.address(c.nodeNetns("n2"), uplink)
			const count, other = 200, 9999
			if n := c.packets(c.nodeNetns("n1"), "n2", target, other, count); n < count {
				t.Fatalf("control: without host endpoints %d of %d packets between nodes arrive", n, count)
			}
			if n := c.packets(router, "n2", target, other, count); n < count {
				t.Fatalf("control: without host endpoints %d of %d packets of the router arrive", n, count)
			}
			c.apply(closedHosts())
			for _, n := range labNodes {
				c.enforced(n, func(p *status.Policy) bool { return p.Hosts == 1 })
			}
			for _, way := range []struct {
				name     string
				manifest string
				settle   func() time.Duration
				port     uint16
			}{
				{"VXLAN", vxlanAlways.manifest(), func() time.Duration { return c.settle(vxlanAlways, labNodes, nil) }, 4789},
				{"IPIP", ipipAlways.manifest(), func() time.Duration { return c.settle(ipipAlways, labNodes, nil) }, 0},
				{"WireGuard", felix("{wireguardEnabled: true, " + driver + "}"), func() time.Duration { return c.reaches("WireGuard") }, 51820},
			} {
				c.apply(way.manifest)
				way.settle()
				if ok := c.mesh(everyPair()); ok != len(everyPair()) {
					t.Errorf("%s: %d of %d pairs of pods reach each other without loss", way.name, ok, len(everyPair()))
				}
				stranger := c.packets(router, "n2", target, way.port, count)
				near, far := c.packets(c.nodeNetns("n1"), "n2", target, other, count), c.packets(router, "n2", target, other, count)
				arrived := fmt.Sprintf("%s: of %d packets each arrive %d of the tunnel's from the router, %d others from a node, %d others from the router", way.name, count, stranger, near, far)
				if t.Log(arrived); stranger > count/10 || near > count/10 || far > count/10 {
					t.Error(arrived)
				}
			}
			// VXLAN and IPIP that hold nothing of a pod's end at the tunnels' own guard.
			if n := c.packets(c.nodeNetns("n1"), "n2", target, 51820, count); n < count {
				t.Errorf("control: %d of %d WireGuard packets from a node arrive", n, count)
			}
		})
	}
}
