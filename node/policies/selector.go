package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft/model/selector"
)

// Labels that endpoints and network sets have beside their own, and what begins the names of those
// that they inherit from their namespace and service account.
const (
	labelNamespace      = selector.NamespaceLabel
	labelOrchestrator   = "projectcalico.org/orchestrator"
	labelServiceAccount = "projectcalico.org/serviceaccount"
	labelName           = "projectcalico.org/name" // of a namespace or service account
	namespacePrefix     = "pcns."
	accountPrefix       = "pcsa."
)

// inNamespace selects what is in one namespace.
func inNamespace(ns string) string { return labelNamespace + " == '" + ns + "'" }

// pods selects what Kubernetes calls a pod.
const pods = labelOrchestrator + " == 'k8s'"

// joined returns the canonical selector of what every term selects; an empty term is none. Without a
// term that says anything it is all().
func joined(terms ...string) (string, error) {
	var kept []string
	for _, t := range terms {
		s, err := selector.Parse(t)
		if err != nil {
			return "", err
		}
		if !s.All() {
			kept = append(kept, "("+s.String()+")")
		}
	}
	switch len(kept) {
	case 0:
		return "all()", nil
	case 1:
		return strings.TrimSuffix(strings.TrimPrefix(kept[0], "("), ")"), nil
	}
	all, err := selector.Parse(strings.Join(kept, " && "))
	if err != nil {
		return "", err
	}
	return all.String(), nil
}

// ofNamespaces puts a selector of namespaces to what is in them; empty selects nothing more.
func ofNamespaces(text string) (string, error) {
	return prefixed(text, namespacePrefix, labelNamespace)
}

// ofAccounts puts a selector of service accounts to the pods that run as them.
func ofAccounts(text string) (string, error) {
	return prefixed(text, accountPrefix, labelServiceAccount)
}

func prefixed(text, prefix, member string) (string, error) {
	if text == "" {
		return "", nil
	}
	s, err := selector.Parse(text)
	if err != nil {
		return "", err
	}
	out := s.Prefixed(prefix, member).String()
	if s.All() || s.Global() || !s.Matches(nil) {
		return out, nil
	}
	return joined("has("+member+")", out) // "team != 'red'" is about namespaces, not about what is in none
}

// ofLabelSelector writes a selector of Kubernetes' form in ours. An empty one is all().
func ofLabelSelector(s *metav1.LabelSelector) (string, error) {
	var terms []string
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		terms = append(terms, k+" == "+quote(s.MatchLabels[k]))
	}
	for _, e := range s.MatchExpressions {
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			terms = append(terms, e.Key+" in {"+quoteAll(e.Values)+"}")
		case metav1.LabelSelectorOpNotIn:
			terms = append(terms, e.Key+" not in {"+quoteAll(e.Values)+"}")
		case metav1.LabelSelectorOpExists:
			terms = append(terms, "has("+e.Key+")")
		case metav1.LabelSelectorOpDoesNotExist:
			terms = append(terms, "!has("+e.Key+")")
		default:
			return "", fmt.Errorf("operator %q: want In, NotIn, Exists or DoesNotExist", e.Operator)
		}
	}
	if len(terms) == 0 {
		return "all()", nil
	}
	text := strings.Join(terms, " && ")
	if _, err := selector.Parse(text); err != nil {
		return "", err
	}
	return text, nil
}

// quote writes a label's value. One with both kinds of quotes, which no label has, does not parse.
func quote(s string) string {
	if strings.Contains(s, "'") {
		return `"` + s + `"`
	}
	return "'" + s + "'"
}

func quoteAll(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	return strings.Join(quoted, ", ")
}
