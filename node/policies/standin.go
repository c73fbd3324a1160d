package policies

import (
	"fmt"
	"math"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// tierRejected comes before all others, and exists while a stand-in is in it.
const tierRejected = "weft-rejected"

func foremost() model.Order {
	o, _ := model.OrderOf(math.Inf(-1)) // which is a number
	return o
}

func rejectedTier() *model.Tier {
	return &model.Tier{Name: tierRejected, Order: foremost(), DefaultAction: model.Deny}
}

// standIn denies what a policy could deny of which no form is known that can be understood: all traffic of
// whatever its kind and namespace let it select, before any other policy decides. Kubernetes' own policies
// deny nothing that another one allows, and neither does what stands for one. Nil: it is none that is
// enforced.
func standIn(k datastore.Key) *model.Policy {
	kind, ok := policyKind(k.Kind)
	if !ok {
		return nil
	}
	p := &model.Policy{ID: policyID(kind, k.Namespace, k.Name), Tier: tierRejected, Types: model.Types{Ingress: true, Egress: true}}
	var err error
	switch kind {
	case model.KindNetworkPolicy:
		p.Selector, err = joined(inNamespace(k.Namespace))
	case model.KindGlobalNetworkPolicy:
		p.Selector = "all()"
	case model.KindClusterNetworkPolicy:
		p.Selector = pods
	case model.KindKubernetesNetworkPolicy:
		p.Tier = ""
		p.Order, _ = model.OrderOf(kubernetesOrder) // which is a number
		p.Selector, err = joined(inNamespace(k.Namespace), pods)
	default:
		return nil
	}
	if err != nil { // of a namespace that none can be called
		return nil
	}
	return p
}

// closedBy says what a stand-in does.
func closedBy(p *model.Policy) string {
	where := "all pods"
	switch p.ID.Kind {
	case model.KindNetworkPolicy, model.KindKubernetesNetworkPolicy:
		where = "the pods of namespace " + p.ID.Namespace
	case model.KindGlobalNetworkPolicy:
		where = "all pods and host endpoints"
	}
	if p.Tier != tierRejected {
		return "no form of it is known that can be understood: to and from " + where + " passes only what other policies allow"
	}
	return "no form of it is known that can be understood: nothing passes to or from " + where
}

// untilRestart: what is known of a resource that is not understood lives in this process only.
const untilRestart = "the form before it stays in force, until the node service starts anew"

// insteadOf returns what is done about a resource that is not understood: what was known of it stays, else
// something stands for a policy.
func (f *Feeder) insteadOf(k datastore.Key) string {
	p := standIn(k)
	switch {
	case f.good[k]:
		return untilRestart
	case !remembered(k):
		return "what was known of it stays"
	case p == nil:
		return "it is without effect"
	}
	if err := f.to.SetPolicy(p); err != nil {
		return fmt.Sprintf("nothing can stand for it: %v", err)
	}
	if p.Tier == tierRejected && !f.standIns[k] {
		f.standIns[k] = true
		f.to.SetTier(rejectedTier())
	}
	return closedBy(p)
}

// remembered tells whether good keeps resources of the kind: of all but those that are many.
func remembered(k datastore.Key) bool {
	return k.Kind != v3.KindWorkloadEndpoint && k.Kind != v3.KindEndpointSlice
}

// understood notes that something good is known of a resource, or nothing any more, and no stand-in.
func (f *Feeder) understood(k datastore.Key, known bool) {
	if known && remembered(k) {
		f.good[k] = true
	} else {
		delete(f.good, k)
	}
	if f.standIns[k] {
		if delete(f.standIns, k); len(f.standIns) == 0 {
			f.to.DeleteTier(tierRejected)
		}
	}
}

// partly is an error about a policy that is in force all the same: it says how.
type partly struct{ error }

func (p partly) Unwrap() error { return p.error }

// standIn is what a Feeder that starts now would do.
func (l *loader) standIn(k datastore.Key) string {
	p := standIn(k)
	if p == nil {
		return "it is without effect"
	}
	v := &l.snapshot.Policy
	v.Policies[p.ID] = p
	if p.Tier == tierRejected {
		v.Tiers[tierRejected] = rejectedTier()
	}
	return closedBy(p)
}
