package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
	"weft/cli/remote"
	"weft/node/accept"
	"weft/node/datastore"
	"weft/node/status"
)

// mostReasons is how many nodes that are not ready are asked for the reason.
const mostReasons = 16

// clusterNode is what is known of one node from afar: the list of these is what `weft status -o json` prints of a cluster.
type clusterNode struct {
	Node string `json:"node"`
	// Service is ready, not ready or none; empty: not known, as the store is etcd.
	Service  string    `json:"service,omitempty"`
	Why      string    `json:"why,omitempty"` // it is not ready
	Image    string    `json:"image,omitempty"`
	Since    time.Time `json:"since,omitzero"` // its service runs
	Restarts int       `json:"restarts,omitempty"`
	// Published: there is a Node record. What follows is of that.
	Published bool     `json:"published"`
	Addresses []string `json:"addresses,omitempty"`
	Receives  []string `json:"receives,omitempty"` // tunnels that stand ready
	// Status is what the node itself says, where it was asked; Error is why it did not.
	Status *status.Status `json:"status,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// clusterStatus shows the nodes of a cluster.
func clusterStatus(cmd *cobra.Command, flags *nodeFlags, whom scope, output string, details bool, v *statusView) error {
	ctx := cmd.Context()
	store, err := flags.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	nodes, err := publishedNodes(ctx, store)
	if err != nil {
		return err
	}
	c := clusterView{statusView: v, nodes: nodes, details: details && whom == byServer}
	var answers []nodeAnswer
	if whom == byServer {
		f, err := flags.openFleet(ctx)
		if err != nil {
			return err
		}
		defer f.close()
		if details && len(f.services) > mostAsked && !flags.allNodes {
			return Usagef("--details asks each of %d nodes: name one by --node, or give --all-nodes", len(f.services))
		}
		if err := c.join(ctx, f); err != nil {
			c.note = "nodes of Kubernetes without a service or a record are not shown: " + oneLine(err.Error())
		}
		answers = c.ask(ctx, f)
		if ctx.Err() != nil {
			return errors.New("ask the nodes: interrupted")
		}
	} else {
		c.note = "whether a node's service runs, its paths and its problems are not in etcd: `weft status` on its host tells"
		if flags.node != "" {
			c.nodes = map[string]*clusterNode{flags.node: nodes[flags.node]}
			if nodes[flags.node] == nil {
				return fmt.Errorf("find node %s: it has published no record", flags.node)
			}
		}
	}
	if output == "json" {
		err = printValue(cmd.OutOrStdout(), "json", c.sorted())
	} else {
		c.readRefused(ctx, store, whom == byServer)
		err = c.print(cmd.OutOrStdout())
	}
	if c.note != "" && output != "json" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weft: %s\n", c.note)
	}
	return cmp.Or(err, silent(cmd.ErrOrStderr(), answers))
}

// readRefused reads which resources are not honoured: what people write, of which there may be some thousands.
func (c *clusterView) readRefused(ctx context.Context, store datastore.Store, kubernetes bool) {
	l, err := store.List(ctx, slices.Concat(accept.Kinds(), accept.Needed(), accept.Foreign())...)
	if err != nil {
		c.note = strings.TrimPrefix(c.note+"; which resources are not accepted is not shown: "+oneLine(err.Error()), "; ")
		return
	}
	c.refused = accept.Told(accept.Read(l, kubernetes).Entries())
}

// publishedNodes reads the Node records.
func publishedNodes(ctx context.Context, store datastore.Store) (map[string]*clusterNode, error) {
	list, err := store.List(ctx, v3.KindNode)
	if err != nil {
		return nil, failed("read", "nodes", err)
	}
	nodes := map[string]*clusterNode{}
	for _, o := range list.Items {
		n, ok := o.(*v3.Node)
		if !ok {
			continue
		}
		c := &clusterNode{Node: n.Name, Published: true}
		if b := n.Spec.BGP; b != nil {
			c.Addresses = slices.DeleteFunc([]string{b.IPv4Address, b.IPv6Address}, func(a string) bool { return a == "" })
		}
		if t := n.Status.Tunnels; t != nil {
			for _, end := range t.Receives {
				c.Receives = append(c.Receives, end.Encapsulation+" "+end.Family)
			}
			slices.Sort(c.Receives)
			c.Receives = slices.Compact(c.Receives)
		}
		nodes[n.Name] = c
	}
	return nodes, nil
}

// clusterView renders the nodes of a cluster.
type clusterView struct {
	*statusView
	nodes   map[string]*clusterNode
	details bool
	refused []status.NotAccepted // resources
	note    string
}

func (c *clusterView) node(name string) *clusterNode {
	if c.nodes[name] == nil {
		c.nodes[name] = &clusterNode{Node: name}
	}
	return c.nodes[name]
}

// join adds what the API server knows of the services, and the nodes of Kubernetes where there is none. An error means
// that the latter are missing.
func (c *clusterView) join(ctx context.Context, f *fleet) error {
	for i := range f.services {
		s := &f.services[i]
		n := c.node(s.Node)
		n.Service, n.Why, n.Image, n.Since, n.Restarts = "ready", s.Why, s.Image, s.Since, s.Restarts
		if !s.Ready {
			n.Service = "not ready"
		}
	}
	names, err := f.cluster.Nodes(ctx)
	for _, name := range names {
		c.node(name)
	}
	for _, n := range c.nodes {
		if n.Service == "" {
			n.Service, n.Why = "none", "no pod of the node service is there"
		}
	}
	return err
}

// ask asks the nodes, with details all of them, else those that are not ready for the reason; answers are those that
// it is a failure not to have.
func (c *clusterView) ask(ctx context.Context, f *fleet) []nodeAnswer {
	some := *f
	if !c.details {
		some.services = slices.DeleteFunc(slices.Clone(f.services), func(s remote.Service) bool { return s.Ready || !s.Running })
		some.services = some.services[:min(len(some.services), mostReasons)]
	}
	answers := some.ask(ctx, "status")
	eachAnswer(answers, func(node string, s *status.Status) {
		n := c.node(node)
		if c.details {
			n.Status = s
		}
		for _, check := range s.Checks {
			if !check.OK && n.Service != "ready" {
				n.Why = check.Name + ": " + check.Reason
				break
			}
		}
	})
	for _, a := range answers {
		c.node(a.Node).Error = a.Error
	}
	if !c.details {
		for _, a := range answers {
			if a.Error != "" {
				n := c.node(a.Node)
				n.Why += "; asked for the reason: " + a.Error
			}
		}
		return nil
	}
	return answers
}

func (c *clusterView) sorted() []*clusterNode {
	all := make([]*clusterNode, 0, len(c.nodes))
	for _, n := range c.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *clusterNode) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

func (c *clusterView) print(w io.Writer) error {
	all := c.sorted()
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no nodes: none has published itself")
		return err
	}
	t := table{width: c.width, header: []string{"NODE", "SERVICE", "ADDRESS", "RECEIVES BY", "UP", "IMAGE", "WHY"}}
	if c.details {
		t.header = []string{"NODE", "SERVICE", "ADDRESS", "PODS", "MTU", "POLICY", "BGP", "UP", "VERSION", "PATHS"}
	}
	services := map[string]int{}
	for _, n := range all {
		services[n.Service]++
		if c.details {
			t.add(c.detailed(n)...)
			continue
		}
		why := n.Why
		if n.Service == "ready" && !n.Published {
			why = "it has published no record"
		}
		if n.Restarts > 0 {
			why = strings.TrimPrefix(why+"; ", "; ") + "restarted " + count(n.Restarts, "time")
		}
		t.add(n.Node, orDash(n.Service), orDash(strings.Join(n.Addresses, ", ")), orDash(strings.Join(n.Receives, ", ")), age(c.now, n.Since), orDash(n.Image), orDash(why))
	}
	t.paint = func(row, column int, text string) string {
		switch {
		case row < 0 || column != 1:
			return text
		case all[row].Service == "ready":
			return c.in(green, text)
		}
		return c.in(red, text)
	}
	if err := t.print(w); err != nil {
		return err
	}
	if c.details {
		if err := c.troubles(w, all); err != nil {
			return err
		}
	}
	var sum []string
	for _, s := range [][2]string{{"ready", "ready"}, {"not ready", "not ready"}, {"none", "without a service"}} {
		if n := services[s[0]]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, s[1]))
		}
	}
	if _, err := fmt.Fprintf(w, "\n%s\n", because(count(len(all), "node"), strings.Join(sum, ", "))); err != nil {
		return err
	}
	return c.notAccepted(w, c.refused)
}

// detailed is the row of a node that was asked.
func (c *clusterView) detailed(n *clusterNode) []string {
	row := []string{n.Node, orDash(n.Service), orDash(strings.Join(n.Addresses, ", "))}
	s := n.Status
	if s == nil {
		return append(row, "-", "-", "-", "-", age(c.now, n.Since), orDash(n.Image), orDash(cmp.Or(n.Error, n.Why)))
	}
	policy := "NOT ENFORCED"
	if s.Policy.Driver != "" {
		policy = fmt.Sprintf("%s, %d", s.Policy.Driver, s.Policy.Policies)
		if s.Policy.Programmed != s.Policy.Generation {
			policy += ", NOT IN FORCE"
		}
	}
	bgp := "-"
	if s.BGP != nil && s.BGP.On {
		bgp = fmt.Sprintf("%d of %d", s.BGP.Established, s.BGP.Sessions)
	}
	paths := map[string]int{}
	for _, p := range s.Peers {
		for _, path := range p.Paths {
			paths[path.Reach]++
		}
	}
	var ways []string
	for reach, n := range paths {
		ways = append(ways, fmt.Sprintf("%s %d", reach, n))
	}
	slices.Sort(ways)
	return append(row, fmt.Sprint(s.Endpoints), mtu(s.PodMTU), policy, bgp, age(c.now, s.Started), s.Version, orDash(strings.Join(ways, ", ")))
}

// troubles lists what nodes that were asked have to complain of.
func (c *clusterView) troubles(w io.Writer, all []*clusterNode) error {
	t := table{indent: "  ", width: c.width}
	for _, n := range all {
		if n.Service != "ready" && n.Why != "" {
			t.add(n.Node, n.Why)
		}
		if n.Status == nil {
			continue
		}
		for _, p := range n.Status.Problems {
			t.add(n.Node, p)
		}
		if n.Status.BGP != nil {
			for _, p := range n.Status.BGP.Problems {
				t.add(n.Node, p)
			}
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	c.title(w, "Problems")
	return t.print(w)
}

// storedPeers shows what Node records say of encryption.
func storedPeers(cmd *cobra.Command, flags *nodeFlags, output string) error {
	store, err := flags.open(cmd.Context())
	if err != nil {
		return err
	}
	defer store.Close()
	list, err := store.List(cmd.Context(), v3.KindNode)
	if err != nil {
		return failed("read", "nodes", err)
	}
	type keys struct {
		Node          string       `json:"node"`
		Keys          []v3.NodeKey `json:"keys"`
		EncryptedOnly bool         `json:"encryptedOnly"`
	}
	all := []keys{}
	for _, o := range list.Items {
		n, ok := o.(*v3.Node)
		if !ok || flags.node != "" && n.Name != flags.node {
			continue
		}
		k := keys{Node: n.Name, Keys: slices.Clone(n.Status.WireguardKeys)}
		if key := n.Status.WireguardPublicKey; key != "" && len(k.Keys) == 0 {
			k.Keys = append(k.Keys, v3.NodeKey{PublicKey: key})
		}
		k.EncryptedOnly = n.Status.Tunnels != nil && n.Status.Tunnels.EncryptedOnly
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b keys) int { return cmp.Compare(a.Node, b.Node) })
	if output == "json" {
		return printValue(cmd.OutOrStdout(), "json", all)
	}
	t := table{header: []string{"NODE", "KEY EPOCH", "PUBLIC KEY", "CLEAR TEXT FROM NODES WITH A KEY"}}
	for _, n := range all {
		taken := map[bool]string{true: "refused", false: "taken"}[n.EncryptedOnly]
		if len(n.Keys) == 0 {
			t.add(n.Node, "-", "-", taken)
		}
		for _, k := range n.Keys {
			t.add(n.Node, fmt.Sprint(k.Epoch), string(k.PublicKey), taken)
		}
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "weft: these are the keys that nodes published; devices, handshakes, bytes and paths are not in etcd: `weft peers` on a node's host shows them")
	return t.print(cmd.OutOrStdout())
}
