// Package lab makes a cluster of network namespaces on this machine: an underlay of subnets joined
// by a router, a store, and one node service per node, each in a network and mount namespace of its
// own. It attaches pods through CNI as a container runtime does. It owns what carries the lab's
// name under /run/netns and /run/weft-lab and nothing else; what the nodes do inside their
// namespaces is theirs.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	// DefaultName is the lab that verbs act on when none is named.
	DefaultName = "lab"

	maxConfigBytes    = 1 << 20
	maxName           = 32 // bytes; keeps the paths of Unix sockets below the kernel's 108
	maxNodesPerSubnet = 250
	defaultMTU        = 1500
	minMTU, maxMTU    = 1280, 65535 // RFC 8200 section 5; veth's largest
	routerHost6       = 0xfffe      // the router's IPv6 address: the last but one of the low 16 bits
)

// Names of the namespaces and processes that are not nodes.
const (
	routerName = "router"
	storeName  = "store"
)

// Config is a validated lab.yaml.
type Config struct {
	Name    string   `json:"name"`
	MTU     int      `json:"mtu"` // bytes, of the links of a subnet that names none
	Subnets []Subnet `json:"subnets"`
	Nodes   []Node   `json:"nodes"`
}

// Subnet is one layer 2 segment of the underlay. The router has its last usable address.
type Subnet struct {
	Name  string       `json:"name"`
	CIDR  netip.Prefix `json:"cidr"`  // IPv4; the zero Prefix when there is none
	CIDR6 netip.Prefix `json:"cidr6"` // IPv6; the zero Prefix when there is none
	MTU   int          `json:"mtu"`   // bytes, of its links, the router's included
}

// Node is one host of the lab.
type Node struct {
	Name   string     `json:"name"`
	Subnet string     `json:"subnet"`
	IP     netip.Addr `json:"ip"`  // IPv4 address in the subnet; the zero Addr without IPv4
	IP6    netip.Addr `json:"ip6"` // IPv6 address in the subnet; the zero Addr without IPv6
	// Args are further arguments of `weft node`, Env further variables of its environment.
	Args []string          `json:"args,omitempty"`
	Env  map[string]string `json:"env,omitempty"`
}

// The file as written: text that is not checked yet.
type rawConfig struct {
	Name    string      `json:"name"`
	MTU     *int        `json:"mtu"`
	Subnets []rawSubnet `json:"subnets"`
	Nodes   []rawNode   `json:"nodes"`
}

type rawSubnet struct {
	Name  string `json:"name"`
	CIDR  string `json:"cidr"`
	CIDR6 string `json:"cidr6"`
	MTU   *int   `json:"mtu"`
}

type rawNode struct {
	Name   string            `json:"name"`
	Subnet string            `json:"subnet"`
	IP     string            `json:"ip"`
	IP6    string            `json:"ip6"`
	Args   []string          `json:"args"`
	Env    map[string]string `json:"env"`
}

// DefaultConfig is the lab without a lab.yaml: three nodes in two racks, both families.
func DefaultConfig() Config {
	c, err := rawConfig{
		Subnets: []rawSubnet{
			{Name: "rack1", CIDR: "172.31.1.0/24", CIDR6: "fd00:31:1::/64"},
			{Name: "rack2", CIDR: "172.31.2.0/24", CIDR6: "fd00:31:2::/64"},
		},
		Nodes: []rawNode{{Name: "n1", Subnet: "rack1"}, {Name: "n2", Subnet: "rack1"}, {Name: "n3", Subnet: "rack2"}},
	}.validate()
	if err != nil {
		panic("lab: the default lab is not valid: " + err.Error()) // a constant: a test covers it
	}
	return c
}

// Parse reads a lab.yaml (YAML or JSON). An unknown field, a doubled key or a value that cannot be
// is an error that names the field, the value and what is allowed; all of them are reported.
func Parse(data []byte) (Config, error) {
	if len(data) > maxConfigBytes {
		return Config{}, fmt.Errorf("lab.yaml has %d bytes: want at most %d", len(data), maxConfigBytes)
	}
	j, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Config{}, fmt.Errorf("lab.yaml: %w", err)
	}
	var raw rawConfig
	strict, err := json.UnmarshalStrict(j, &raw)
	if err != nil {
		return Config{}, fmt.Errorf("lab.yaml: %w", err)
	}
	if len(strict) > 0 {
		return Config{}, fmt.Errorf("lab.yaml: %w", errors.Join(strict...))
	}
	c, err := raw.validate()
	if err != nil {
		return Config{}, fmt.Errorf("lab.yaml: %w", err)
	}
	return c, nil
}

// Rename gives the lab another name.
func (c Config) Rename(name string) (Config, error) {
	if err := CheckName(name); err != nil {
		return c, err
	}
	c.Name = name
	return c, nil
}

// CheckName tells whether name can name a lab, node, namespace or pod: lower-case letters, digits
// and dashes, at most 32 bytes. Such a name is safe in a path and in the name of a network
// namespace.
func CheckName(name string) error { return checkName(name, maxName) }

var nameSyntax = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func checkName(name string, limit int) error {
	if len(name) > limit || !nameSyntax.MatchString(name) {
		return fmt.Errorf("name %q: want 1 to %d of a-z, 0-9 and '-', not at the ends", name, limit)
	}
	return nil
}

// problems collects errors with the path of the field that each is about.
type problems []error

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, fmt.Errorf(path+": "+format, args...))
}

func (r rawConfig) validate() (Config, error) {
	var errs problems
	c := Config{Name: r.Name}
	if c.Name == "" {
		c.Name = DefaultName
	}
	if err := CheckName(c.Name); err != nil {
		errs.add("name", "%w", err)
	}
	c.MTU = parseMTU("mtu", r.MTU, defaultMTU, &errs)
	c.Subnets = validateSubnets(r.Subnets, c.MTU, &errs)
	c.Nodes = validateNodes(r.Nodes, c.Subnets, &errs)
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	return c, nil
}

func parseMTU(path string, mtu *int, otherwise int, errs *problems) int {
	if mtu == nil {
		return otherwise
	}
	if *mtu < minMTU || *mtu > maxMTU {
		errs.add(path, "%d: want %d to %d bytes", *mtu, minMTU, maxMTU)
	}
	return *mtu
}

func validateSubnets(raw []rawSubnet, mtu int, errs *problems) []Subnet {
	if len(raw) == 0 {
		errs.add("subnets", "want at least one")
	}
	var subnets []Subnet
	for i, r := range raw {
		path := fmt.Sprintf("subnets[%d]", i)
		s := Subnet{Name: r.Name, MTU: parseMTU(path+".mtu", r.MTU, mtu, errs)}
		if err := CheckName(r.Name); err != nil {
			errs.add(path+".name", "%w", err)
		}
		if j := slices.IndexFunc(subnets, func(o Subnet) bool { return o.Name == r.Name }); j >= 0 {
			errs.add(path+".name", "%q is also the name of subnets[%d]", r.Name, j)
		}
		s.CIDR = parseCIDR(path+".cidr", r.CIDR, 4, errs)
		s.CIDR6 = parseCIDR(path+".cidr6", r.CIDR6, 6, errs)
		if r.CIDR == "" && r.CIDR6 == "" {
			errs.add(path, "want cidr, cidr6 or both")
		}
		for j, o := range subnets {
			for _, p := range [][2]netip.Prefix{{s.CIDR, o.CIDR}, {s.CIDR6, o.CIDR6}} {
				if p[0].IsValid() && p[1].IsValid() && p[0].Overlaps(p[1]) {
					errs.add(path, "%v overlaps %v of subnets[%d]", p[0], p[1], j)
				}
			}
		}
		subnets = append(subnets, s)
	}
	return subnets
}

// parseCIDR reads a subnet's prefix of the family; it reports a bad one and returns the zero Prefix.
func parseCIDR(path, text string, family int, errs *problems) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	least, most := 8, 29
	if family == 6 {
		least, most = 32, 112
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		errs.add(path, "%q is not a prefix such as 172.31.1.0/24 or fd00:31:1::/64", text)
	case p.Addr().Is4() != (family == 4) || p.Addr().Is4In6():
		errs.add(path, "%q: want an IPv%d prefix", text, family)
	case p.Masked() != p:
		errs.add(path, "%q has bits set behind the prefix length: want %v", text, p.Masked())
	case p.Bits() < least || p.Bits() > most:
		errs.add(path, "%q: want a prefix length of %d to %d", text, least, most)
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		errs.add(path, "%q: want unicast addresses that can be routed", text)
	default:
		return p
	}
	return netip.Prefix{}
}

// reservedArgs are the flags of `weft node` that the lab sets itself.
var reservedArgs = []string{"--node-name", "--run-dir", "--data-dir", "--datastore", "--etcd-endpoints"}

func validateNodes(raw []rawNode, subnets []Subnet, errs *problems) []Node {
	if len(raw) == 0 {
		errs.add("nodes", "want at least one")
	}
	var nodes []Node
	inSubnet := map[string]int{}
	owner := map[netip.Addr]string{}
	for _, s := range subnets {
		for _, a := range s.routers() {
			owner[a.Addr()] = "the router"
		}
	}
	for i, r := range raw {
		path := fmt.Sprintf("nodes[%d]", i)
		n := Node{Name: r.Name, Subnet: r.Subnet, Args: r.Args, Env: r.Env}
		checkNodeName(path, n.Name, nodes, errs)
		checkNodeProcess(path, n, errs)
		j := slices.IndexFunc(subnets, func(s Subnet) bool { return s.Name == r.Subnet })
		if j < 0 {
			errs.add(path+".subnet", "%q is not one of the subnets", r.Subnet)
			nodes = append(nodes, n)
			continue
		}
		inSubnet[r.Subnet]++
		k := inSubnet[r.Subnet]
		if k == maxNodesPerSubnet+1 {
			errs.add(path+".subnet", "%q has more than %d nodes", r.Subnet, maxNodesPerSubnet)
		}
		n.IP = nodeAddress(path+".ip", r.IP, subnets[j].CIDR, k, errs)
		n.IP6 = nodeAddress(path+".ip6", r.IP6, subnets[j].CIDR6, k, errs)
		for _, a := range []netip.Addr{n.IP, n.IP6} {
			if a.IsValid() && owner[a] != "" {
				errs.add(path+".ip", "%v is taken by %s: give one of them another ip", a, owner[a])
			} else if a.IsValid() {
				owner[a] = "node " + n.Name
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func checkNodeName(path, name string, before []Node, errs *problems) {
	if err := CheckName(name); err != nil {
		errs.add(path+".name", "%w", err)
	}
	if name == routerName || name == storeName {
		errs.add(path+".name", "%q is taken by the lab itself", name)
	}
	if j := slices.IndexFunc(before, func(o Node) bool { return o.Name == name }); j >= 0 {
		errs.add(path+".name", "%q is also the name of nodes[%d]", name, j)
	}
}

var envSyntax = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func checkNodeProcess(path string, n Node, errs *problems) {
	for i, a := range n.Args {
		flag, _, _ := strings.Cut(a, "=")
		if slices.Contains(reservedArgs, flag) {
			errs.add(fmt.Sprintf("%s.args[%d]", path, i), "%q is set by the lab itself", a)
		}
		if strings.ContainsRune(a, 0) {
			errs.add(fmt.Sprintf("%s.args[%d]", path, i), "%q holds a zero byte", a)
		}
	}
	for k, v := range n.Env {
		if !envSyntax.MatchString(k) || strings.ContainsRune(v, 0) {
			errs.add(path+".env", "%q=%q: want a name of letters, digits and '_', and a value without zero bytes", k, v)
		}
	}
}

// nodeAddress returns the address that is asked for, or the k-th of the subnet.
func nodeAddress(path, text string, subnet netip.Prefix, k int, errs *problems) netip.Addr {
	if !subnet.IsValid() {
		if text != "" {
			errs.add(path, "%q: the subnet has no prefix of this family", text)
		}
		return netip.Addr{}
	}
	a := hostAddr(subnet, uint32(k))
	if text != "" {
		var err error
		if a, err = netip.ParseAddr(text); err != nil || a.Zone() != "" {
			errs.add(path, "%q is not an IP address", text)
			return netip.Addr{}
		}
	}
	last := hostAddr(subnet, hostMask(subnet))
	if !subnet.Contains(a) || a == subnet.Addr() || a.Is4() && a == last {
		errs.add(path, "%v is not a host address of %v: the subnet is too small, or give the node an address in it", a, subnet)
		return netip.Addr{}
	}
	return a
}

// addresses returns the node's addresses with the prefix lengths of its subnet, IPv4 first.
func (n Node) addresses(s Subnet) []netip.Prefix {
	var out []netip.Prefix
	if n.IP.IsValid() {
		out = append(out, netip.PrefixFrom(n.IP, s.CIDR.Bits()))
	}
	if n.IP6.IsValid() {
		out = append(out, netip.PrefixFrom(n.IP6, s.CIDR6.Bits()))
	}
	return out
}

// prefixes returns the subnet's prefixes, IPv4 first.
func (s Subnet) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{s.CIDR, s.CIDR6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// routers returns the router's addresses in the subnet, in the order of prefixes.
func (s Subnet) routers() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.prefixes() {
		host := uint32(routerHost6)
		if p.Addr().Is4() {
			host = hostMask(p) - 1
		}
		out = append(out, netip.PrefixFrom(hostAddr(p, host), p.Bits()))
	}
	return out
}

// hostMask returns the host part of the prefix's last address, its low 32 bits.
func hostMask(p netip.Prefix) uint32 {
	if free := p.Addr().BitLen() - p.Bits(); free < 32 {
		return 1<<free - 1
	}
	return 1<<32 - 1
}

// hostAddr returns the prefix's address with the given host part.
func hostAddr(p netip.Prefix, host uint32) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range 4 {
		b[len(b)-1-i] |= byte(host >> (8 * i))
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
