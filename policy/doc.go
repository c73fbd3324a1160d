// Package policy decides, purely, what network policy means for this node: it turns the model's
// tiers, policies, profiles, labels and addresses into a Program of sets, chains and endpoints, in
// which every selector and name is resolved. Compile does so from a whole snapshot; a Compiler
// does it change by change, at the cost of what the change touches, and says what became
// different (Delta). Drivers in the folders below make the kernel run the Program;
// policy/eval runs it in memory. docs/policy.md tells the semantics and the way of the data.
//
// It does not know resources of the wire, nor tables, chains, marks or sets of a kernel.
package policy
