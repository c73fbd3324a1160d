package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// uplink is the name of a node's interface on the underlay.
const uplink = "eth0"

// Plan is all that a lab is made of, in the order in which it is made. It is computed from a
// Config alone.
type Plan struct {
	Lab        string
	Dir        string // state, sockets, logs
	Namespaces []Namespace
	Bridges    []Bridge
	Wires      []Wire
	Routes     []Route
	Processes  []Process
}

// Namespace is a named network namespace with its loopback interface up.
type Namespace struct {
	Name    string
	Sysctls []Sysctl
}

// Sysctl is a setting inside a namespace; Path is below /proc/sys.
type Sysctl struct{ Path, Value string }

// Bridge is a subnet's switch.
type Bridge struct {
	Namespace string
	Name      string
	MTU       int
}

// Wire is a veth pair from a bridge to the uplink of a node or of the router.
type Wire struct {
	Namespace, Name, Bridge string // the switch's end
	Peer, PeerName          string // the namespace and interface of the other
	MTU                     int
	Addresses               []netip.Prefix // of the other end
}

// Route is a route of a node to another subnet.
type Route struct {
	Namespace string
	Dst       netip.Prefix
	Via       netip.Addr
	Device    string
}

// Process is a long-running `weft` process. Own says whether it gets a mount namespace of its own,
// with Dir/run as its /run.
type Process struct {
	Name      string // node name, or "store"
	Namespace string
	Dir       string
	Args      []string
	Env       []string // NAME=VALUE
	Own       bool
}

// Compile turns a Config into the Plan of a lab whose state lives in dir.
func Compile(c Config, dir string) Plan {
	p := Plan{Lab: c.Name, Dir: dir}
	router := c.Name + "." + routerName
	p.Namespaces = append(p.Namespaces,
		Namespace{c.Name + "." + storeName, nil},
		Namespace{router, routerSysctls()})
	names := map[string]bool{"lo": true, uplink: true}
	bridges := map[string]string{}
	for i, s := range c.Subnets {
		br := linkName("br-"+s.Name, fmt.Sprintf("br-%d", i+1), names)
		bridges[s.Name] = br
		p.Bridges = append(p.Bridges, Bridge{router, br, s.MTU})
		// The router sits at a port of the switch like everybody else. With its addresses on the
		// bridge itself every forwarded tunnel packet would be cut up: a bridge device sends no
		// packets that are larger than its MTU on behalf of its own host once they are encapsulated.
		p.Wires = append(p.Wires, Wire{
			Namespace: router, Name: linkName("sw-"+s.Name, fmt.Sprintf("sw-%d", i+1), names), Bridge: br,
			Peer: router, PeerName: linkName("to-"+s.Name, fmt.Sprintf("to-%d", i+1), names), MTU: s.MTU, Addresses: s.routers(),
		})
	}
	p.Processes = append(p.Processes, storeProcess(c, dir))
	for i, n := range c.Nodes {
		s := c.subnet(n.Subnet)
		ns := c.Name + "." + n.Name
		p.Namespaces = append(p.Namespaces, Namespace{ns, hostSysctls()})
		p.Wires = append(p.Wires, Wire{
			Namespace: router, Name: linkName(n.Name, fmt.Sprintf("port-%d", i+1), names), Bridge: bridges[n.Subnet],
			Peer: ns, PeerName: uplink, MTU: s.MTU, Addresses: n.addresses(s),
		})
		p.Routes = append(p.Routes, c.routes(ns, s)...)
		p.Processes = append(p.Processes, nodeProcess(c, n, dir))
	}
	return p
}

func (c Config) subnet(name string) Subnet {
	i := slices.IndexFunc(c.Subnets, func(s Subnet) bool { return s.Name == name })
	return c.Subnets[i] // validated
}

// routes returns a node's routes to every subnet but its own, by the router. There is no default
// route: nothing leads out of the lab.
func (c Config) routes(ns string, own Subnet) []Route {
	var out []Route
	for _, s := range c.Subnets {
		if s.Name == own.Name {
			continue
		}
		for _, dst := range s.prefixes() {
			for _, via := range own.routers() {
				if via.Addr().Is4() == dst.Addr().Is4() {
					out = append(out, Route{ns, dst, via.Addr(), uplink})
				}
			}
		}
	}
	return out
}

// linkName returns want where it is a free interface name, else the fallback.
func linkName(want, fallback string, taken map[string]bool) string {
	name := want
	for i := 0; len(name) > 15 || taken[name]; i++ {
		name = fallback + strings.Repeat("x", i)
	}
	taken[name] = true
	return name
}

// hostSysctls are set before any link exists, so that "default" reaches all of them. A namespace
// inherits IPv4 settings from the machine; these make a lab the same everywhere.
func hostSysctls() []Sysctl {
	return []Sysctl{
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"}, // addresses are ours to give: usable at once
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
	}
}

func routerSysctls() []Sysctl {
	return append(hostSysctls(),
		Sysctl{"net/ipv4/ip_forward", "1"},
		Sysctl{"net/ipv6/conf/all/forwarding", "1"},
		Sysctl{"net/ipv4/conf/all/send_redirects", "0"},
		Sysctl{"net/ipv4/conf/default/send_redirects", "0"})
}

// Paths below a lab's directory.
func storeSocket(dir string) string { return filepath.Join(dir, "etcd.sock") }

func storeEndpoint(dir string) string { return "unix://" + storeSocket(dir) }

func nodeDir(dir, node string) string { return filepath.Join(dir, node) }

// runDir is a node's run directory; the node itself sees it as /run/weft too.
func runDir(nodeDir string) string { return filepath.Join(nodeDir, "run", "weft") }

func dataDir(nodeDir string) string { return filepath.Join(nodeDir, "data") }

func storeProcess(c Config, dir string) Process {
	d := filepath.Join(dir, storeName)
	return Process{
		Name: storeName, Namespace: c.Name + "." + storeName, Dir: d,
		Args: []string{"datastore", "--data-dir", filepath.Join(d, "data"), "--socket", storeSocket(dir)},
	}
}

func nodeProcess(c Config, n Node, dir string) Process {
	d := nodeDir(dir, n.Name)
	p := Process{
		Name: n.Name, Namespace: c.Name + "." + n.Name, Dir: d, Own: true,
		Args: append([]string{"node", "--node-name", n.Name, "--run-dir", runDir(d),
			"--data-dir", dataDir(d), "--etcd-endpoints", storeEndpoint(dir)}, n.Args...),
	}
	for _, k := range slices.Sorted(maps.Keys(n.Env)) {
		p.Env = append(p.Env, k+"="+n.Env[k])
	}
	return p
}

// Format prints the plan as canonical text.
func (p Plan) Format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lab %s in %s\n", p.Lab, p.Dir)
	for _, n := range p.Namespaces {
		fmt.Fprintf(&b, "namespace %s\n", n.Name)
		for _, s := range n.Sysctls {
			fmt.Fprintf(&b, "  sysctl %s = %s\n", s.Path, s.Value)
		}
	}
	for _, r := range p.Bridges {
		fmt.Fprintf(&b, "bridge %s %s mtu %d\n", r.Namespace, r.Name, r.MTU)
	}
	for _, w := range p.Wires {
		fmt.Fprintf(&b, "wire %s %s (bridge %s) to %s %s mtu %d address %s\n",
			w.Namespace, w.Name, w.Bridge, w.Peer, w.PeerName, w.MTU, join(w.Addresses))
	}
	for _, r := range p.Routes {
		fmt.Fprintf(&b, "route %s %v via %v dev %s\n", r.Namespace, r.Dst, r.Via, r.Device)
	}
	for _, r := range p.Processes {
		fmt.Fprintf(&b, "process %s in %s: weft %s\n", r.Name, r.Namespace, strings.Join(r.Args, " "))
		for _, e := range r.Env {
			fmt.Fprintf(&b, "  env %s\n", e)
		}
	}
	return b.String()
}

func join(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, " ")
}
