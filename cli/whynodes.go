package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/node/datastore"
	"weft/node/flows"
	"weft/node/status"
	"weft/policy"
)

// countHere adds what the rules of the local node counted.
func (a *whyAnswer) countHere(ctx context.Context, runDir string) error {
	body, err := nodeGet(ctx, runDir, flows.CountersPath)
	if err != nil {
		return err
	}
	local, err := localNode(ctx, runDir)
	if err != nil {
		return err
	}
	counted, err := a.count(local, "the local node "+local, body)
	if err == nil && counted == 0 {
		a.Problems = append(a.Problems, fmt.Sprintf("no counters: nothing of the local node %s decided", local))
	}
	return err
}

// count adds what the rules of a node counted, and returns how many steps were its; whose names it.
func (a *whyAnswer) count(node, whose string, counters []byte) (steps int, err error) {
	var list []flows.Counter
	if err := json.Unmarshal(counters, &list); err != nil {
		return 0, fmt.Errorf("read the counters of %s: %w; compare `weft version` here and there", whose, err)
	}
	for i := range a.Verdicts {
		for j := range a.Verdicts[i].Steps {
			s := &a.Verdicts[i].Steps[j]
			if s.Node != node || s.Rule == nil && s.Tier == "" {
				continue
			}
			steps++
			if at := slices.IndexFunc(list, s.counts); at >= 0 {
				s.Counters = &list[at]
			}
		}
	}
	return steps, nil
}

// askNodes asks the nodes of both ends, by way of the API server, whether what the answer is made of is in force there,
// and for their counters. Who may not ask them has the answer all the same, unless it is for counters.
func (a *whyAnswer) askNodes(ctx context.Context, flags *nodeFlags, nodes []string, counters bool) error {
	for _, node := range nodes {
		n := *flags
		n.node = node
		body, _, err := n.askNodes(ctx, "status")
		var s status.Status
		if err == nil {
			err = json.Unmarshal(body, &s)
		}
		switch {
		case ctx.Err() != nil:
			return errors.New("ask why: interrupted")
		case err != nil && counters:
			return err
		case err != nil:
			a.Problems = append(a.Problems, fmt.Sprintf("whether node %s enforces this is not known: %s", node, oneLine(err.Error())))
			continue
		}
		if why := notInForce(&s); why != "" {
			a.Problems = append(a.Problems, "node "+node+" does not enforce this: "+why)
		}
		if !counters {
			continue
		}
		if body, _, err = n.askNodes(ctx, flows.CountersPath); err == nil {
			_, err = a.count(node, "node "+node, body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notInForce says why a node's kernel does not have what its resources ask for.
func notInForce(s *status.Status) string {
	p := &s.Policy
	switch {
	case p.Driver == "":
		return because("it enforces no policy", p.Error)
	case p.Programmed != p.Generation:
		return because(fmt.Sprintf("its kernel has program %d, not %d", p.Programmed, p.Generation), p.Error)
	case s.Datastore.State != string(datastore.StateInSync):
		return because("its store is "+s.Datastore.State, s.Datastore.Error)
	}
	return p.Error
}

// counts tells whether a counter is of a step's rule, or of the end of its tier.
func (s *whyStep) counts(c flows.Counter) bool {
	if s.Rule != nil {
		return c.Chain == s.Policy && slices.Contains(c.Rules, *s.Rule)
	}
	t, err := policy.ParseTag(c.Tag)
	return err == nil && c.Chain == "" && t.Cause == policy.ByTier && t.Name == policy.TagName(s.Tier) && strings.HasPrefix(s.At, t.Direction.String())
}

// localNode asks the local node for its name.
func localNode(ctx context.Context, runDir string) (string, error) {
	body, err := nodeGet(ctx, runDir, "status")
	if err != nil {
		return "", err
	}
	var s struct {
		Node string `json:"node"`
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return "", fmt.Errorf("read the status of the local node in %s: %w; compare `weft version` here and there", runDir, err)
	}
	return s.Node, nil
}
