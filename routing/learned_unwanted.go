package routing

import (
	"fmt"
	"strings"
)

// Unwanted tells why there is no route of what was learned.
type Unwanted struct{ learner *learner }

// NewUnwanted is about the routes that LearnedCompiler added to p, made of in.
func NewUnwanted(p Plan, in LearnedInput) *Unwanted {
	return &Unwanted{newLearner(&p, &in)}
}

// Why says why LearnedCompiler made no route of l, one of its input; empty where it should have. store tells that the plan has
// a route to the same prefix from elsewhere, which is in effect.
func (u *Unwanted) Why(l *Learned) (why string, store bool) {
	w := u.learner
	switch {
	case holds(w.plan.Routes, l.Prefix):
		return "the store has a route to the prefix, and that one is used", true
	case holds(w.plan.Pods, l.Prefix):
		return "of a pod of this node", true
	}
	if g, is := w.gateway(l.Prefix); is {
		return fmt.Sprintf("a BGPPeer says by reachableBy that %v leads there", g), false
	}
	for _, s := range w.in.Services {
		if contains(s, l.Prefix) {
			return fmt.Sprintf("of the services' range %v: on a node the service proxy knows better", s), false
		}
	}
	if err := checkLearned(l); err != nil {
		return err.Error(), false
	}
	if len(l.NextHops) == 0 {
		return "it has no next hop", false
	}
	var bad []string
	for _, a := range l.NextHops {
		switch h := w.find(a); {
		case h.err != nil:
			bad = append(bad, fmt.Sprintf("no way to the next hop %v: %v", a, h.err))
		case h.hop.Via.Is4() && !l.Prefix.Addr().Is4():
			bad = append(bad, fmt.Sprintf("the next hop %v is IPv4 and the prefix is IPv6, which Linux cannot route", a))
		}
	}
	if len(bad) < len(l.NextHops) {
		return "", false
	}
	return strings.Join(bad, "; "), false
}
