// Package policies reads the resources that network policy is made of and turns them into the nouns
// of package model, with all that the kind of a resource means: defaults, selectors of namespaces and
// service accounts, the profiles that namespaces stand for, Kubernetes' own policies. Load does so for
// everything at once; a Feeder passes every change on to a compiler, at the cost of that change.
//
// It knows nothing of how policy is compiled or enforced.
package policies
