// Package accept tells of a resource that the store holds whether it is honoured, all of it: by one pure function, whose
// answer is the condition Accepted of the resource, a section of `weft status` and the warnings of `weft apply`. What a
// rule of its kind is it asks of packages v3 and policies; it owns which fields have no effect, and the sentences.
//
// It writes nothing: package controllers does.
package accept

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/datastore/kube"
	"weft/node/policies"
)

// Problem is one thing that is not honoured.
type Problem struct {
	Reason  string // v3.ReasonInvalid and its like
	Message string // what is wrong, what is done instead, what to do
}

// Need is another resource that a resource names; Problem is what is wrong while it is not there.
type Need struct {
	Key     datastore.Key
	Problem Problem
}

// Judgement is what can be said of a resource by itself. Its zero value is that all is well.
type Judgement struct {
	Problems []Problem
	Needs    []Need
}

// Kinds are the kinds that Judge knows rules of, but Kubernetes' own.
func Kinds() []string {
	var out []string
	for _, k := range v3.Kinds() {
		if v3.ConditionsOf(k.New()) != nil {
			out = append(out, k.Kind)
		}
	}
	return out
}

// Needed are further kinds, which those may name.
func Needed() []string { return []string{v3.KindBGPFilter} }

// Foreign are Kubernetes' own kinds that Judge knows rules of. Their status is not ours to write.
func Foreign() []string {
	return []string{v3.KindKubernetesNetworkPolicy, v3.KindClusterNetworkPolicy}
}

// Judge tells what of a resource is not honoured. The resource is one that rules accept; of others see Refused.
func Judge(o v3.Object) Judgement {
	var j Judgement
	switch o := o.(type) {
	case *v3.Tier:
		_, err := policies.TierOf(o)
		j.invalid(err, "the tier is without effect; give it another name")
		return j
	case *v3.BGPPeer:
		j.peer(o)
	case *networkingv1.NetworkPolicy, *policyv1alpha2.ClusterNetworkPolicy, *v3.StagedKubernetesNetworkPolicy:
		j.policy(o)
		return j
	default:
		if p := v3.PolicyOf(o); p != nil {
			j.policy(o)
			j.tier(p.Tier)
			return j
		}
	}
	j.fields(o)
	return j
}

// Refused is Judge of a resource that rules refuse which no schema can express, or that cannot be read at all.
func Refused(err error) Judgement {
	var j Judgement
	j.invalid(err, "the form before it stays in force where it is known; a policy that no node knows another form of lets nothing pass. Correct what is named")
	return j
}

func (j *Judgement) invalid(err error, instead string) {
	if err != nil {
		j.Problems = append(j.Problems, Problem{v3.ReasonInvalid, fmt.Sprintf("%v; %s", oneLine(err), instead)})
	}
}

// policy is about what no rule says in other words than the conversion: it cannot be done, or in part only.
func (j *Judgement) policy(o v3.Object) {
	p, err := policies.PolicyOf(o)
	switch {
	case err == nil:
	case p == nil:
		j.Problems = append(j.Problems, Refused(err).Problems...)
	default:
		j.Problems = append(j.Problems, Problem{v3.ReasonUnsupported, oneLine(err) + ". All else of the policy is in force; take these out, or write rules without them"})
	}
}

func (j *Judgement) tier(name string) {
	if _, builtin := v3.BuiltinTier(name); name == "" || builtin {
		return
	}
	j.need(datastore.Key{Kind: v3.KindTier, Name: name}, "spec.tier: there is no Tier %s: the policy is asked after all tiers that there are, and what none in its tier decides is denied; create the Tier", name)
}

func (j *Judgement) need(k datastore.Key, format string, args ...any) {
	j.Needs = append(j.Needs, Need{k, Problem{v3.ReasonNotFound, fmt.Sprintf(format, args...)}})
}

func (j *Judgement) peer(o *v3.BGPPeer) {
	for i, name := range o.Spec.Filters {
		if slices.Contains(o.Spec.Filters[:i], name) {
			continue
		}
		j.need(datastore.Key{Kind: v3.KindBGPFilter, Name: name}, "spec.filters[%d]: there is no BGPFilter %s: sessions of this BGPPeer take and give nothing; create it, or take it out of the list", i, name)
	}
	if p := o.Spec.Password; p != nil && p.SecretKeyRef != nil {
		name := p.SecretKeyRef.Name
		j.need(datastore.Key{Kind: v3.KindSecret, Namespace: v3.BGPPasswordNamespace, Name: name},
			"spec.password.secretKeyRef.name: nodes may read the Secret %s in namespace %s alone, not %s, so that there is no session; put the password into that one", kube.BGPSecret, v3.BGPPasswordNamespace, name)
	}
}

// fields is about those without effect.
func (j *Judgement) fields(o v3.Object) {
	names, err := WithoutEffect(o)
	if err != nil {
		j.invalid(err, "which of its fields have an effect is not known")
	}
	if len(names) > 0 {
		j.Problems = append(j.Problems, Problem{v3.ReasonUnsupported, "kept and without effect in this release: " + strings.Join(names, ", ") + "; take them out, or see docs/features.md"})
	}
}

// Overlap tells that a pool gives out no addresses since an older one of pools has its range.
func Overlap(p *v3.IPPool, pools map[string]*v3.IPPool) (Problem, bool) {
	var before []*v3.IPPool
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if o := pools[name]; first(o, p) {
			before = append(before, o)
		}
	}
	if err := v3.PoolOverlap(p, before...); err != nil {
		return Problem{v3.PoolReasonCIDROverlap, err.Error()}, true
	}
	return Problem{}, false
}

// first tells whether a was there before b.
func first(a, b *v3.IPPool) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// Condition says what the problems are of a resource of which nothing else is wrong, in the words of a status.
func Condition(problems []Problem, generation int64) metav1.Condition {
	c := metav1.Condition{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted, ObservedGeneration: generation}
	if len(problems) == 0 {
		return c
	}
	c.Status, c.Reason = metav1.ConditionFalse, problems[0].Reason
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Message
	}
	c.Message = shorten(strings.Join(texts, ". "))
	return c
}

// shorten keeps a message of a condition within what Kubernetes takes, 32 kB, and a table can show.
func shorten(s string) string {
	const most = 1024
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
