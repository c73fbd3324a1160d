package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/status"
)

func bgpCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bgp",
		Short: "Show BGP sessions, and the routes that were advertised and learned",
		Long: `Shows what nodes do with BGP. What they are to do is said by BGPConfiguration, BGPPeer, BGPFilter and IPPool
resources; "weft plan bgp" prints what they mean for the local node.`,
	}
	c.AddCommand(bgpPeersCommand(), bgpRoutesCommand())
	return c
}

func bgpPeersCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "peers",
		Short: "Show the BGP sessions of the local node, or of all nodes",
		Long: `Shows every BGP session of the local node: with whom, its state and since when, the prefixes received, accepted
and sent, and why it is down if it is.

` + whomLong + `

Of a cluster's nodes each is asked. With etcd that is done through the store, by a CalicoNodeStatus for each, which is
deleted again: it shows less of each session. PEER and ASN are then what Node and BGPPeer resources say of the address;
why a session is down only its node knows: "weft bgp peers" there.`,
		Example: `  weft bgp peers
  weft bgp peers --all-nodes
  weft bgp peers -o json`,
		Args: exactArgs(),
	}
	flags := addNodeFlags(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "output `format`: table or json")
	fixedCompletion(c, "output", "table", "json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return Usagef("unknown output format %q: want table or json", output)
		}
		whom, err := flags.scope()
		if err != nil {
			return err
		}
		var body []byte
		var answers []nodeAnswer
		switch whom {
		case byStore:
			return storedBGPPeers(cmd, flags, output)
		case here:
			body, err = nodeGet(cmd.Context(), flags.runDir, status.BGPPeersPath)
		default:
			body, answers, err = flags.askNodes(cmd.Context(), status.BGPPeersPath)
		}
		if err != nil {
			return err
		}
		if body == nil {
			return showAllBGPPeers(cmd, output, answers)
		}
		var doc status.BGPPeers
		if err := json.Unmarshal(body, &doc); err != nil {
			return fmt.Errorf("read the BGP sessions of %s: %w; compare `weft version` here and there", flags.whose(), err)
		}
		return showBGPPeers(cmd, output, doc, true)
	}
	return c
}

// storedBGPPeers asks through the store.
func storedBGPPeers(cmd *cobra.Command, flags *nodeFlags, output string) error {
	store, err := flags.open(cmd.Context())
	if err != nil {
		return err
	}
	defer store.Close()
	doc, err := askAll(cmd.Context(), store, flags.node)
	if err != nil {
		return fmt.Errorf("ask all nodes for their BGP sessions: %w", err)
	}
	return showBGPPeers(cmd, output, doc, false)
}

// showAllBGPPeers prints what several nodes answered.
func showAllBGPPeers(cmd *cobra.Command, output string, answers []nodeAnswer) error {
	var all status.BGPPeers
	eachAnswer(answers, func(node string, doc *status.BGPPeers) {
		if doc.Error != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s: %s\n", clean(node), oneLine(doc.Error))
		}
		all.Why = cmp.Or(all.Why, doc.Why)
		all.Peers = append(all.Peers, doc.Peers...)
	})
	var err error
	if output == "json" {
		err = printValue(cmd.OutOrStdout(), "json", answers)
	} else {
		err = showBGPPeers(cmd, output, all, true)
	}
	return cmp.Or(err, silent(cmd.ErrOrStderr(), answers))
}

// showBGPPeers prints sessions; counted tells that their counts are known.
func showBGPPeers(cmd *cobra.Command, output string, doc status.BGPPeers, counted bool) error {
	if doc.Error != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s\n", oneLine(doc.Error))
	}
	out := cmd.OutOrStdout()
	if output == "json" {
		return printValue(out, "json", append([]status.BGPPeer{}, doc.Peers...))
	}
	if len(doc.Peers) == 0 {
		_, err := fmt.Fprintln(out, "no BGP sessions: "+cmp.Or(clean(doc.Why), "the mesh is off, or there is no other node, and no BGPPeer is for this one"))
		return err
	}
	return printBGPPeers(out, doc.Peers, counted, time.Now())
}

func printBGPPeers(out io.Writer, peers []status.BGPPeer, counted bool, now time.Time) error {
	t := table{}
	t.add("NODE", "PEER", "ADDRESS", "ASN", "TYPE", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "SENT", "BFD")
	nodes := map[string]bool{}
	for _, p := range peers {
		nodes[p.Node] = true
		counts := []string{"-", "-", "-"}
		if counted {
			counts = []string{strconv.FormatUint(p.Received, 10), strconv.FormatUint(p.Accepted, 10), strconv.FormatUint(p.Sent, 10)}
		}
		asn := "-"
		if p.ASN != 0 {
			asn = strconv.FormatUint(uint64(p.ASN), 10)
		}
		t.add(p.Node, cmp.Or(p.Peer, p.From, "-"), p.Address, asn, p.Type, p.State, age(now, p.Since), counts[0], counts[1], counts[2], cmp.Or(p.BFD, "-"))
	}
	if err := t.print(out); err != nil {
		return err
	}
	for _, p := range peers {
		if p.LastError != "" && p.State != "Established" {
			session := p.Address
			if len(nodes) > 1 {
				session = p.Node + " to " + p.Address
			}
			if _, err := fmt.Fprintf(out, "\n%s: %s\n", clean(session), clean(p.LastError)); err != nil {
				return err
			}
		}
	}
	return nil
}

func bgpRoutesCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "routes",
		Short: "Show what the local node advertises by BGP, and what it learned",
		Long: `Shows the prefixes that the local node originates, with the reason, and the best routes that it learned from
others: next hops (several are equally good), from whom, and whether the kernel's route is that one. INSTALLED "store" is
the normal case for what other nodes announce: the store has the same route already, and that one is in the kernel.

` + whomLong + ` Of a cluster's nodes each is asked; not with etcd.`,
		Example: `  weft bgp routes
  weft bgp routes -o json`,
		Args: exactArgs(),
	}
	flags := addNodeFlags(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "output `format`: table or json")
	fixedCompletion(c, "output", "table", "json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return Usagef("unknown output format %q: want table or json", output)
		}
		body, answers, err := flags.askSomebody(cmd.Context(), status.BGPRoutesPath, "routes that nodes learned")
		if err != nil {
			return err
		}
		if body == nil {
			return showAllBGPRoutes(cmd, output, answers)
		}
		var doc status.BGPRoutes
		if err := json.Unmarshal(body, &doc); err != nil {
			return fmt.Errorf("read the BGP routes of %s: %w; compare `weft version` here and there", flags.whose(), err)
		}
		if doc.Error != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s\n", oneLine(doc.Error))
		}
		if output == "json" {
			return printValue(cmd.OutOrStdout(), "json", append([]status.BGPRoute{}, doc.Routes...))
		}
		return printBGPRoutes(cmd.OutOrStdout(), []nodeRoutes{{"", doc.Routes}})
	}
	return c
}

// nodeRoutes are the routes of a node; the name is empty where only one was asked.
type nodeRoutes struct {
	node   string
	routes []status.BGPRoute
}

// showAllBGPRoutes prints what several nodes answered.
func showAllBGPRoutes(cmd *cobra.Command, output string, answers []nodeAnswer) error {
	var all []nodeRoutes
	eachAnswer(answers, func(node string, doc *status.BGPRoutes) {
		if doc.Error != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "weft: warning: %s: %s\n", clean(node), oneLine(doc.Error))
		}
		all = append(all, nodeRoutes{node, doc.Routes})
	})
	var err error
	if output == "json" {
		err = printValue(cmd.OutOrStdout(), "json", answers)
	} else {
		err = printBGPRoutes(cmd.OutOrStdout(), all)
	}
	return cmp.Or(err, silent(cmd.ErrOrStderr(), answers))
}

func printBGPRoutes(out io.Writer, all []nodeRoutes) error {
	t := table{}
	several := len(all) > 0 && all[0].node != ""
	add := func(node string, cells ...string) {
		if several {
			cells = append([]string{node}, cells...)
		}
		t.add(cells...)
	}
	add("NODE", "PREFIX", "ORIGIN", "NEXT HOPS", "FROM", "INSTALLED", "WHY")
	for _, n := range all {
		for _, r := range n.routes {
			installed := "-"
			if r.Origin == "Learned" {
				installed = map[bool]string{true: "yes", false: "no"}[r.Installed]
				if r.Store {
					installed = "store"
				}
			}
			why := r.Why
			if len(r.Communities) > 0 {
				why = strings.TrimSpace(why + " (communities " + strings.Join(r.Communities, ", ") + ")")
			}
			add(n.node, r.Prefix, r.Origin, cmp.Or(strings.Join(r.NextHops, ", "), "-"), cmp.Or(r.Peer, "-"), installed, cmp.Or(why, "-"))
		}
	}
	if len(t.rows) == 1 {
		_, err := fmt.Fprintln(out, "no routes: nothing is advertised and nothing was learned")
		return err
	}
	return t.print(out)
}

const (
	// askTimeout is how long a node has to answer through the store.
	askTimeout = 5 * time.Second
	// askedAtOnce is how many nodes are asked at a time: each answer comes to all nodes.
	askedAtOnce = 32
)

// askAll asks every node, or one, for its sessions by a CalicoNodeStatus. Nodes that do not answer are named in the error
// of the document.
func askAll(ctx context.Context, store datastore.Store, only string) (doc status.BGPPeers, err error) {
	nodes, err := store.List(ctx, v3.KindNode)
	if err != nil {
		return doc, err
	}
	var id [4]byte
	_, _ = rand.Read(id[:])
	var mu sync.Mutex
	var silent, names []string
	for _, o := range nodes.Items {
		if only == "" || only == o.GetName() {
			names = append(names, o.GetName())
		}
	}
	if len(names) == 0 && only != "" {
		return doc, fmt.Errorf("there is no node %s", only)
	}
	var asked errgroup.Group
	asked.SetLimit(askedAtOnce)
	for _, name := range names {
		asked.Go(func() error {
			peers, err := askNode(ctx, store, name, "weft-bgp-peers-"+hex.EncodeToString(id[:])+"."+name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, fmt.Sprintf("%s (%v)", name, err))
			}
			doc.Peers = append(doc.Peers, peers...)
			return ctx.Err()
		})
	}
	if err := asked.Wait(); err != nil {
		return doc, err
	}
	slices.Sort(silent)
	if len(silent) > 0 {
		doc.Error = fmt.Sprintf("%d of %d nodes did not answer: %s", len(silent), len(names), strings.Join(silent, ", "))
	}
	resources, err := readKnown(ctx, store, nodes.Items)
	if err != nil {
		return doc, err
	}
	resources.fill(doc.Peers)
	slices.SortFunc(doc.Peers, func(a, b status.BGPPeer) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), strings.Compare(a.Address, b.Address))
	})
	return doc, nil
}

func askNode(ctx context.Context, store datastore.Store, node, name string) (peers []status.BGPPeer, err error) {
	ask := &v3.CalicoNodeStatus{}
	ask.Name, ask.Spec.Node, ask.Spec.Classes = name, node, []string{v3.StatusBGP}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	key := datastore.Key{Kind: v3.KindCalicoNodeStatus, Name: name}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		if gone := store.Delete(ctx, key, datastore.Precondition{}); !errors.Is(gone, datastore.ErrNotFound) {
			err = errors.Join(err, gone)
		}
	}()
	if _, err := store.Create(ctx, ask); err != nil {
		return nil, err
	}
	for {
		o, err := store.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if st, ok := o.(*v3.CalicoNodeStatus); ok && st.Status.LastUpdated != nil {
			return answered(node, st), nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer within %v: is weft node running there?", askTimeout)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func answered(node string, st *v3.CalicoNodeStatus) []status.BGPPeer {
	var out []status.BGPPeer
	for _, p := range slices.Concat(st.Status.BGP.PeersV4, st.Status.BGP.PeersV6) {
		since, _ := time.Parse(time.RFC3339, p.Since)
		address := p.PeerIP
		if a, err := netip.ParseAddr(address); err == nil {
			address = a.String()
		}
		out = append(out, status.BGPPeer{Node: node, Address: address, Type: p.Type, State: p.State, Since: since})
	}
	return out
}
