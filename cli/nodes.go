package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"weft/cli/remote"
	"weft/node/status"
)

const (
	// atOnce is how many nodes are asked at a time.
	atOnce = 16
	// mostAsked is how many nodes are asked without --all-nodes.
	mostAsked = 256
	// mostSilent is how many nodes that do not answer are named.
	mostSilent = 20
)

// scope is whom a command asks.
type scope int

const (
	here     scope = iota // the node of this host, by its socket
	byServer              // nodes of a Kubernetes cluster, by way of its API server
	byStore               // nobody: etcd has what nodes wrote there
)

// nodeFlags say which nodes are asked.
type nodeFlags struct {
	*storeFlags
	node     string
	allNodes bool
	patience time.Duration
}

func addNodeFlags(c *cobra.Command) *nodeFlags {
	n := &nodeFlags{storeFlags: addStoreFlags(c)}
	f := c.Flags()
	f.StringVar(&n.node, "node", "", "ask the node of this `name` only")
	f.BoolVar(&n.allNodes, "all-nodes", false, fmt.Sprintf("ask the cluster's nodes, not the one of this host; and more than %d of them", mostAsked))
	f.DurationVar(&n.patience, "node-timeout", nodeTimeout, "how `long` a node of the cluster may take to answer")
	return n
}

// scope decides whom to ask: what the command line names, else the node of this host if there is one, else what the
// environment names.
func (n *nodeFlags) scope() (scope, error) {
	f := n.cmd.Flags()
	cluster := n.node != "" || n.allNodes
	switch {
	case n.node != "" && n.allNodes:
		return here, Usagef("--node and --all-nodes exclude each other")
	case n.patience <= 0:
		return here, Usagef("--node-timeout %v: want more than 0", n.patience)
	case isPlugin(n.cmd) || n.kubeconfigGiven():
		return byServer, nil
	case f.Changed("etcd-endpoints"):
		return byStore, nil
	case cluster && f.Changed("run-dir"):
		return here, Usagef("--run-dir names the node of this host: it excludes --node and --all-nodes")
	case cluster && n.kubernetes():
		return byServer, nil
	case cluster:
		return byStore, nil
	case n.runDirGiven():
		return here, nil
	}
	_, err := os.Stat(filepath.Join(n.runDir, status.SocketName))
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return here, nil
	case n.kubernetes():
		return byServer, nil
	case strings.Join(n.endpoints, "") != "":
		return byStore, nil
	}
	return here, nil
}

// fleet is node services that can be asked through an API server, sorted by node.
type fleet struct {
	cluster  *remote.Cluster
	services []remote.Service
	patience time.Duration
}

// open lists the services that the flags name. It is an error if there are none.
func (n *nodeFlags) openFleet(ctx context.Context) (*fleet, error) {
	c, err := remote.Open(n.kubeConfig())
	if err != nil {
		return nil, fmt.Errorf("find the nodes: %w", err)
	}
	f := &fleet{cluster: c, patience: n.patience}
	list, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if f.services, err = c.Services(list, n.node); err != nil {
		c.Close()
		if list.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("no answer within %v from the API server that the kubeconfig leads to", requestTimeout)
		}
		return nil, fmt.Errorf("find the nodes: %w", err)
	}
	slices.SortFunc(f.services, func(a, b remote.Service) int { return cmp.Compare(a.Node, b.Node) })
	return f, nil
}

// toAsk is openFleet for commands that ask every one of them.
func (n *nodeFlags) toAsk(ctx context.Context) (*fleet, error) {
	f, err := n.openFleet(ctx)
	if err != nil {
		return nil, err
	}
	switch count := len(f.services); {
	case count == 0 && n.node != "":
		err = fmt.Errorf("find node %s: no node service runs there: `weft status` shows where there is one", n.node)
	case count == 0:
		err = fmt.Errorf("find the nodes: no node service (%s in namespace %s) runs in this cluster; see docs/kubernetes.md", remote.Selector, remote.Namespace)
	case count > mostAsked && !n.allNodes:
		err = Usagef("this asks each of %d nodes: name one by --node, or give --all-nodes", count)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) close() { f.cluster.Close() }

// get asks one node for a whole answer.
func (f *fleet) get(ctx context.Context, s *remote.Service, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	b := &bounded{left: status.MaxAnswer}
	err := f.cluster.Ask(ctx, s, path, false, b)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("no answer within %v", f.patience)
	case errors.Is(err, remote.ErrNotServed):
		return nil, &notServedError{path, "node " + s.Node, "it is of another version"}
	}
	return b.Bytes(), err
}

// bounded is a buffer that takes so much and no more.
type bounded struct {
	bytes.Buffer
	left int
}

// Write fails when there is too much.
func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", status.MaxAnswer)
	}
	return b.Buffer.Write(p)
}

// nodeAnswer is what one node said, or why it did not. A list of these is what -o json prints of several nodes.
type nodeAnswer struct {
	Node   string          `json:"node"`
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// ask asks all of them for a path; the answers are in the order of the nodes.
func (f *fleet) ask(ctx context.Context, path string) []nodeAnswer {
	all := make([]nodeAnswer, len(f.services))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range f.services {
		s := &f.services[i]
		group.Go(func() error {
			all[i].Node = s.Node
			b, err := f.get(ctx, s, path)
			switch {
			case err != nil:
				all[i].Error = oneLine(err.Error())
			case json.Valid(b):
				all[i].Answer = b
			default:
				all[i].Error = "it answers something else than JSON; compare `weft version` with its version"
			}
			return nil
		})
	}
	_ = group.Wait()
	return all
}

// each decodes what the nodes said into T and hands it to f; what is no T is the node's error from then on.
func eachAnswer[T any](answers []nodeAnswer, f func(node string, doc *T)) {
	for i := range answers {
		a := &answers[i]
		if a.Error != "" {
			continue
		}
		doc := new(T)
		if err := json.Unmarshal(a.Answer, doc); err != nil {
			a.Error = "its answer is not understood (" + oneLine(err.Error()) + "); compare `weft version` with its version"
			continue
		}
		f(a.Node, doc)
	}
}

// silent names the nodes that did not answer; there being some is a failure.
func silent(w io.Writer, answers []nodeAnswer) error {
	n := 0
	for _, a := range answers {
		if a.Error == "" {
			continue
		}
		if n++; n <= mostSilent {
			fmt.Fprintf(w, "weft: %s: %s\n", clean(a.Node), clean(a.Error))
		}
	}
	if n == 0 {
		return nil
	}
	if n > mostSilent {
		fmt.Fprintf(w, "weft: and %d more nodes did not answer; -o json names all\n", n-mostSilent)
	}
	return &ExitError{Code: exitFailed}
}

// one is what --node says of its node.
func one(answers []nodeAnswer) ([]byte, error) {
	a := answers[0]
	if a.Error != "" {
		return nil, fmt.Errorf("ask node %s: %s", a.Node, a.Error)
	}
	return a.Answer, nil
}

// askNodes asks for a path whom the flags name, but for here: whole is the answer if it is of one node by name.
func (n *nodeFlags) askNodes(ctx context.Context, path string) (whole []byte, answers []nodeAnswer, err error) {
	f, err := n.toAsk(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	answers = f.ask(ctx, path)
	if ctx.Err() != nil {
		return nil, nil, errors.New("interrupted")
	}
	if n.node == "" {
		return nil, answers, nil
	}
	whole, err = one(answers)
	return whole, nil, err
}

// askSomebody is askNodes, or asks the node of this host; the store cannot tell what is asked for.
func (n *nodeFlags) askSomebody(ctx context.Context, path, what string) (whole []byte, answers []nodeAnswer, err error) {
	whom, err := n.scope()
	switch {
	case err != nil:
		return nil, nil, err
	case whom == here:
		whole, err = nodeGet(ctx, n.runDir, path)
		return whole, nil, err
	case whom == byStore:
		return nil, nil, n.notStored(what)
	}
	return n.askNodes(ctx, path)
}

func (n *nodeFlags) notStored(what string) error {
	return fmt.Errorf("ask for %s: etcd does not have them, and leads to no node: run `%s` on the node's host, or give a kubeconfig", what, n.cmd.CommandPath())
}

// oneNode returns a function that asks the one node that the flags name, and one that ends that.
func (n *nodeFlags) oneNode(ctx context.Context, what string) (get func(path string) ([]byte, error), done func(), err error) {
	whom, err := n.scope()
	switch {
	case err != nil:
		return nil, nil, err
	case whom == here:
		return func(path string) ([]byte, error) { return nodeGet(ctx, n.runDir, path) }, func() {}, nil
	case whom == byStore:
		return nil, nil, n.notStored(what)
	case n.node == "":
		return nil, nil, Usagef("--node is missing: %s are those of one node", what)
	}
	f, err := n.toAsk(ctx)
	if err != nil {
		return nil, nil, err
	}
	get = func(path string) ([]byte, error) {
		b, err := f.get(ctx, &f.services[0], path)
		if err != nil {
			err = fmt.Errorf("ask node %s: %w", n.node, err)
		}
		return b, err
	}
	return get, f.close, nil
}

// whose names the node that answered, for messages.
func (n *nodeFlags) whose() string {
	if n.node != "" {
		return "node " + n.node
	}
	return "the local node in " + n.runDir
}

// whomLong is what the help of commands with nodeFlags says of them.
const whomLong = `On a host whose node service runs, that one is asked, unless --kubeconfig, --etcd-endpoints, --node or --all-nodes
say otherwise. Elsewhere the cluster of KUBECONFIG, or of WEFT_ETCD_ENDPOINTS, is meant: in Kubernetes nodes are reached by
the API server, which takes the rights of the role weft-admin; --node asks one. Those that do not answer within
--node-timeout are named, and the exit code is 1.`
