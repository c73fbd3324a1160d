package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"weft/model"
	"weft/node/datastore"
	"weft/node/flows"
	"weft/node/policies"
	"weft/policy"
	"weft/policy/eval"
)

type whyOptions struct {
	egress, ingress string
	iface           string
	sourcePort      uint16
	output          string
	counters        bool
}

func whyCommand() *cobra.Command {
	var o whyOptions
	var flags *nodeFlags
	c := &cobra.Command{
		Use:   "why NAMESPACE/POD NAMESPACE/POD PROTOCOL/PORT | why NAMESPACE/POD --egress IP:PORT | why --ingress IP NAMESPACE/POD PROTOCOL/PORT",
		Short: "Tell whether policy lets a connection begin, and why",
		Long: `Reads policies, pods and whatever else policy depends on from the store, compiles what the nodes of both
pods enforce, and asks it about the first packet of a connection: allowed or denied, by which tier,
policy and rule, what the policy selects, and in which sets addresses and ports were found. Where
staged policies would decide otherwise, that is told too.

The last argument is tcp/80, udp/53, sctp/9899, tcp/NAME for a port that the pod names so, icmp, icmp/8,
icmpv6/128/0 (type, code), or a protocol number. With --egress IP:PORT it may be left out for TCP, or
be the protocol alone. A source port is 40000 unless given.

Nothing is sent. Answers of connections that were allowed pass without being asked. With --counters, what the
rules counted: those of this node, or, where a kubeconfig leads to the cluster, of the nodes of both pods. There
these nodes are also asked whether the policy that this answer is made of is in force. The exit code is 0
whether allowed or denied.`,
		Example: `  weft why shop/web shop/db tcp/5432
  weft why shop/web --egress 192.0.2.1:443
  weft why shop/web --egress 192.0.2.1:53 udp
  weft why --ingress 192.0.2.1 shop/web tcp/http
  weft why shop/web shop/db icmp/8 -o json`,
		Args: func(_ *cobra.Command, args []string) error { return o.check(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			return why(cmd, flags, &o, args)
		},
	}
	flags = addNodeFlags(c)
	c.Flags().Lookup("node").Hidden, c.Flags().Lookup("all-nodes").Hidden = true, true // the pods say which
	c.Flags().StringVar(&o.egress, "egress", "", "ask about a connection to this `address`, IP or IP:PORT, instead of a pod")
	c.Flags().StringVar(&o.ingress, "ingress", "", "ask about a connection from this `address`, IP, instead of a pod")
	c.Flags().StringVar(&o.iface, "interface", "", "the `interface` by which the nodes reach each other, for host endpoints that are for one of that name")
	c.Flags().Uint16Var(&o.sourcePort, "source-port", 40000, "the `port` that it is sent from")
	c.Flags().StringVarP(&o.output, "output", "o", "", "output `format`: json")
	c.Flags().BoolVar(&o.counters, "counters", false, "show what the rules of the local node, or of both pods' nodes, counted since they were written")
	fixedCompletion(c, "output", "json")
	return c
}

// check finds what is wrong with the arguments before anything is asked.
func (o *whyOptions) check(args []string) error {
	names := []string{"source NAMESPACE/POD", "destination NAMESPACE/POD", "PROTOCOL/PORT"}
	switch {
	case o.egress != "" && o.ingress != "":
		return fmt.Errorf("--egress and --ingress at once: one end is a pod of this cluster")
	case o.egress != "":
		names = []string{"source NAMESPACE/POD", "PROTOCOL"}
		if len(args) == 1 {
			names = names[:1]
		}
	case o.ingress != "":
		names = []string{"destination NAMESPACE/POD", "PROTOCOL/PORT"}
	}
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("unknown output format %q: want json, or none for people", o.output)
	}
	return exactArgs(names...)(nil, args)
}

// whyAnswer is what weft why -o json prints.
type whyAnswer struct {
	Source      whyEnd       `json:"source"`
	Destination whyEnd       `json:"destination"`
	Protocol    string       `json:"protocol"`
	Verdicts    []whyVerdict `json:"verdicts"` // one a family that both ends have
	Problems    []string     `json:"problems,omitempty"`
}

// whyVerdict is the verdict for one family.
type whyVerdict struct {
	Family      string     `json:"family"`
	Source      netip.Addr `json:"source"`
	Destination netip.Addr `json:"destination"`
	Allowed     bool       `json:"allowed"`
	Steps       []whyStep  `json:"steps"`
	// Staged is there when it would be otherwise with staged policies enforced.
	Staged *whyStaged `json:"staged,omitempty"`
}

type whyStaged struct {
	Allowed bool      `json:"allowed"`
	Steps   []whyStep `json:"steps"`
}

// whyStep is one step of the way to a verdict.
type whyStep struct {
	Node     string   `json:"node"`
	At       string   `json:"at"` // "egress of shop/web/eth0"
	Tier     string   `json:"tier,omitempty"`
	Policy   string   `json:"policy,omitempty"`   // or profile, with the direction of the chain
	Selector string   `json:"selector,omitempty"` // of the policy
	Rule     *int     `json:"rule,omitempty"`     // in the list of the resource, from 0
	Asks     string   `json:"asks,omitempty"`     // what the rule asks for
	Action   string   `json:"action"`
	Sets     []string `json:"sets,omitempty"` // that addresses and ports were found in
	Staged   bool     `json:"staged,omitempty"`
	Text     string   `json:"text,omitempty"` // when no rule matched: why
	// Asked are the policies of the tier that select the endpoint, when none of them decided.
	Asked    []string       `json:"asked,omitempty"`
	Counters *flows.Counter `json:"counters,omitempty"`
}

func why(cmd *cobra.Command, flags *nodeFlags, o *whyOptions, args []string) error {
	ctx := cmd.Context()
	store, err := flags.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	q, err := newQuestion(ctx, store, o, args)
	if err != nil {
		return err
	}
	answer, err := q.answer(ctx, store)
	if err != nil {
		return err
	}
	switch {
	case flags.kubernetes():
		err = answer.askNodes(ctx, flags, q.nodes(), o.counters)
	case o.counters:
		err = answer.countHere(ctx, flags.runDir)
	}
	if err != nil {
		return err
	}
	if o.output == "json" {
		b, err := json.Marshal(answer)
		if err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
		return printRawJSON(cmd.OutOrStdout(), b)
	}
	return answer.print(cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// enforced is what one node enforces.
type enforced struct {
	node     string
	snapshot *model.Snapshot
	program  *policy.Program
}

// compile reads the store as the node does.
func compile(ctx context.Context, store datastore.Store, node string) (*enforced, []string, error) {
	s, wrong, err := policies.Load(ctx, store, model.NodeName(node))
	if err != nil {
		return nil, nil, failed("compile", "the policy of node "+node, err)
	}
	var problems []string
	for _, p := range wrong {
		problems = append(problems, p.Error())
	}
	p, err := policy.Compile(s)
	if err != nil {
		problems = append(problems, oneLine(err.Error()))
	}
	return &enforced{node, s, p}, problems, nil
}

// answer asks the nodes of both ends, the source's first.
func (q *question) answer(ctx context.Context, store datastore.Store) (*whyAnswer, error) {
	a := &whyAnswer{Source: q.from, Destination: q.to, Protocol: q.what.String()}
	var nodes []*enforced
	for _, node := range q.nodes() {
		e, problems, err := compile(ctx, store, node)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, e)
		for _, p := range problems {
			if !slices.Contains(a.Problems, p) {
				a.Problems = append(a.Problems, p)
			}
		}
	}
	pairs := q.pairs()
	if len(pairs) == 0 {
		return nil, fmt.Errorf("ask why: %s and %s have no addresses of one family that %s can go between", q.from, q.to, q.what)
	}
	for _, pair := range pairs {
		v := whyVerdict{Family: model.FamilyOf(pair[0]).String(), Source: pair[0], Destination: pair[1], Allowed: true}
		staged := whyStaged{Allowed: true}
		for _, e := range nodes {
			p := q.packet(e.node, pair[0], pair[1])
			family := model.FamilyOf(pair[0])
			if v.Allowed {
				now := eval.Explain(e.program, p)
				v.Allowed, v.Steps = now.Allowed, append(v.Steps, e.steps(family, now.Reasons)...)
			}
			if staged.Allowed {
				then := eval.Staged(e.program, p)
				staged.Allowed, staged.Steps = then.Allowed, append(staged.Steps, e.steps(family, then.Reasons)...)
			}
		}
		if staged.Allowed != v.Allowed {
			v.Staged = &staged
		}
		a.Verdicts = append(a.Verdicts, v)
	}
	return a, nil
}

// steps adds to the reasons what can be read of the resources.
func (e *enforced) steps(f model.Family, reasons []eval.Reason) []whyStep {
	var steps []whyStep
	for _, r := range reasons {
		s := whyStep{Node: e.node, At: r.At, Tier: r.Tier, Policy: string(r.Chain), Action: r.Action.String(), Staged: r.Staged, Text: r.Text}
		for _, id := range r.Sets {
			s.Sets = append(s.Sets, id.String())
		}
		if r.Rule >= 0 {
			rule := r.Rule
			s.Rule = &rule
			s.Asks = e.asks(f, r.Chain, r.Rule)
			s.Selector = e.selector(r.Chain)
		} else if r.Tier != "" {
			s.Asked = e.asked(r.At, r.Tier)
		}
		steps = append(steps, s)
	}
	return steps
}

// asks prints a rule, as it is resolved for a family.
func (e *enforced) asks(f model.Family, id policy.ChainID, index int) string {
	c := e.program.Chains[id]
	if c == nil {
		return ""
	}
	for i := range c.Rules {
		if r := &c.Rules[i]; r.Index == index && (r.Family == 0 || r.Family == f) {
			return ruleText(r)
		}
	}
	return ""
}

// selector returns what the policy of a chain selects.
func (e *enforced) selector(id policy.ChainID) string {
	for pid, p := range e.snapshot.Policy.Policies {
		if policy.PolicyChain(pid, model.Ingress) == id || policy.PolicyChain(pid, model.Egress) == id {
			if p.Selector == "" {
				return "all()"
			}
			return p.Selector
		}
	}
	return ""
}

// asked lists the policies of a tier at a pod's hook, which all did not decide.
func (e *enforced) asked(at, tier string) []string {
	var list []string
	for _, pod := range e.program.Endpoints {
		for d, h := range map[model.Direction]*policy.Hook{model.Ingress: &pod.Ingress, model.Egress: &pod.Egress} {
			if at != d.String()+" of "+pod.ID.String() {
				continue
			}
			for _, t := range h.Tiers {
				if t.Name == tier {
					for _, id := range t.Policies {
						list = append(list, string(id))
					}
				}
			}
		}
	}
	return list
}
