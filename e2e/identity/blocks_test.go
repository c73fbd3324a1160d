package identity

import (
	"fmt"
	"maps"
	"slices"
)

// object is a resource as JSON has it.
type object = map[string]any

// entry is who has an address of a block.
type entry struct {
	node     string // empty: an owner that says no node
	handle   string
	released bool
}

// at is who has which address of a block, by its number.
type at map[int]entry

// block is an IPAMBlock of 8 addresses; its sequence number is 1000, and that of address i is 100+i.
func block(third int, affinity string, has at) object {
	b := object{"apiVersion": group, "kind": "IPAMBlock",
		"metadata": object{"name": fmt.Sprintf("10-0-%d-0-29", third)},
		"spec":     object{"cidr": fmt.Sprintf("10.0.%d.0/29", third), "affinity": affinity, "sequenceNumber": 1000, "deleted": false, "strictAffinity": false}}
	fill(b, 8, has)
	return b
}

// fill says in a block who has its addresses.
func fill(b object, size int, has at) {
	allocations, attributes, numbers, free := make([]any, size), []any{}, object{}, []any{}
	for _, i := range slices.Sorted(maps.Keys(has)) {
		e := has[i]
		owner := object{"handle_id": fmt.Sprintf("k8s-pod-network.%s-%d%s", e.node, i, e.handle)}
		if e.node != "" {
			owner["secondary"] = object{"node": e.node, "namespace": "default", "pod": fmt.Sprintf("pod-%d", i)}
		}
		if e.released {
			owner["releasedAt"] = "2026-01-02T03:04:05Z"
		}
		allocations[i] = len(attributes)
		attributes = append(attributes, owner)
		numbers[fmt.Sprint(i)] = 100 + i
	}
	for i := range size {
		if allocations[i] == nil {
			free = append(free, i)
		}
	}
	spec := b["spec"].(object)
	spec["allocations"], spec["attributes"], spec["sequenceNumberForAllocation"], spec["unallocated"] = allocations, attributes, numbers, free
}

// with returns a copy in which some are others; an entry{} frees the address.
func (a at) with(change at) at {
	out := maps.Clone(a)
	for i, e := range change {
		if e == (entry{}) {
			delete(out, i)
		} else {
			out[i] = e
		}
	}
	return out
}

// shared are addresses of both nodes: in use, released a moment ago, and one that says no node.
var shared = at{0: {node: "n1"}, 1: {node: "n2"}, 2: {node: "n2", released: true}, 3: {handle: "old"}, 5: {node: "n1", released: true}}

// storedBlocks are there before the test.
func storedBlocks() []object {
	contradictory := func(third int, affinity string) object {
		b := block(third, affinity, at{0: {node: "n2"}, 1: {node: "n1"}})
		delete(b["spec"].(object)["sequenceNumberForAllocation"].(object), "0")
		return b
	}
	return []object{
		block(1, "host:n1", shared),
		block(2, "host:n2", shared),
		block(3, "host:n2", at{}),
		block(4, "host:n2", at{0: {node: "n2", released: true}}),
		block(5, "host:n1", at{0: {node: "n1"}}),
		contradictory(6, "host:n2"),
		contradictory(7, "host:n1"),
		block(8, "host:n2", at{0: {node: "n1"}}),
	}
}

// change is an update of a stored block.
func change(third int, affinity string, has at, more ...func(object)) func() object {
	return func() object {
		b := block(third, affinity, has)
		for _, f := range more {
			f(b)
		}
		return b
	}
}

// set sets a field, by its path.
func set(value any, path ...string) func(object) {
	return func(o object) {
		for _, p := range path[:len(path)-1] {
			next, ok := o[p].(object)
			if !ok {
				next = object{}
				o[p] = next
			}
			o = next
		}
		if value == nil {
			delete(o, path[len(path)-1])
		} else {
			o[path[len(path)-1]] = value
		}
	}
}

const (
	taking   = "it would take an address from another node"
	giving   = "it would give an address to another node"
	foreign  = "of a block that is not its own a node service changes nothing but who has its addresses"
	madeSo   = "a new block is empty"
	mixed    = "contradict each other"
	stillHas = "it has addresses that are in use by others"
)

func blockCases() []write {
	const own, its = "host:n1", "host:n2"
	put := func(name, want string, third int, affinity string, has at, more ...func(object)) write {
		return write{name, "PUT", fmt.Sprintf("ipamblocks/10-0-%d-0-29", third), change(third, affinity, has, more...), want}
	}
	post := func(name, want string, third int, affinity string, has at, more ...func(object)) write {
		return write{name, "POST", "ipamblocks", change(third, affinity, has, more...), want}
	}
	remove := func(name, want string, third int) write {
		return write{name, "DELETE", fmt.Sprintf("ipamblocks/10-0-%d-0-29", third), nil, want}
	}
	spec := func(value any, path ...string) func(object) { return set(value, append([]string{"spec"}, path...)...) }
	return []write{
		post("own new block", "", 20, own, at{}),
		put("take a free address of its own block", "", 1, own, shared.with(at{4: {node: "n1"}})),
		put("borrow a free address", "", 2, its, shared.with(at{4: {node: "n1"}}), spec(1001, "sequenceNumber")),
		put("give a borrowed address back", "", 2, its, shared.with(at{0: {}})),
		put("give a borrowed address back, to cool down", "", 2, its, shared.with(at{0: {node: "n1", released: true}})),
		put("end the cooling down of another's address", "", 2, its, shared.with(at{2: {}})),
		put("borrow what has cooled down", "", 2, its, shared.with(at{2: {node: "n1"}})),
		put("give back what says no node, of its own block", "", 1, own, shared.with(at{3: {}})),
		put("count a write only", "", 2, its, shared, spec(1001, "sequenceNumber")),
		put("repair its own block", "", 7, own, at{0: {node: "n2"}, 1: {node: "n1"}}),
		remove("delete its own block", "", 5),
		remove("delete its own block that contradicts itself", "", 7),
		remove("delete another's empty block", "", 3),
		remove("delete another's block whose addresses cool down", "", 4),

		put("free another's address in another's block", taking, 2, its, shared.with(at{1: {}})),
		put("free another's address in its own block", taking, 1, own, shared.with(at{1: {}})),
		put("take another's address", taking, 2, its, shared.with(at{1: {node: "n1"}})),
		put("take another's address of its own block", taking, 1, own, shared.with(at{1: {node: "n1"}})),
		put("change the owner of another's address", taking, 2, its, shared.with(at{1: {node: "n2", handle: "x"}})),
		put("let another's address cool down", taking, 2, its, shared.with(at{1: {node: "n2", released: true}})),
		put("give another's address another number", taking, 2, its, shared, spec(101000, "sequenceNumber"), spec(999, "sequenceNumberForAllocation", "1")),
		put("give back what says no node, of another's block", taking, 2, its, shared.with(at{3: {}})),
		put("give an address to another node", giving, 2, its, shared.with(at{4: {node: "n2"}})),
		put("give an address of its own block to another node", giving, 1, own, shared.with(at{4: {node: "n2"}})),
		put("give an address of another's block to nobody", giving, 2, its, shared.with(at{4: {handle: "x"}})),
		put("let an address cool down as another's", giving, 2, its, shared.with(at{4: {node: "n2", released: true}})),

		put("give its own block away", foreign, 1, its, shared),
		put("take another's block", foreign, 2, own, shared),
		put("take another's block from it", foreign, 2, its, shared, spec(nil, "affinity")),
		put("say that another's block is being deleted", foreign, 2, its, shared, spec(true, "deleted")),
		put("another's block was claimed at another time", foreign, 2, its, shared, spec("2026-01-02T03:04:05Z", "affinityClaimTime")),
		put("strict affinity of another's block", foreign, 2, its, shared, spec(true, "strictAffinity")),
		put("label another's block", foreign, 2, its, shared, set(object{"a": "b"}, "metadata", "labels")),
		put("annotate another's block", foreign, 2, its, shared, set(object{"a": "b"}, "metadata", "annotations")),
		put("have another's block deleted with something", foreign, 2, its, shared, set(owners, "metadata", "ownerReferences")),
		put("keep another's block from being deleted", foreign, 2, its, shared, set([]any{"a.b/c"}, "metadata", "finalizers")),
		put("set another's block back", foreign, 2, its, shared, spec(999, "sequenceNumber")),
		put("use up another's numbers", foreign, 2, its, shared, spec(9223372036854775807, "sequenceNumber")),

		post("a new block of another node", madeSo, 20, its, at{}),
		post("a new block of nobody", madeSo, 20, own, at{}, spec(nil, "affinity")),
		post("a new block with addresses in use", madeSo, 20, own, at{0: {node: "n1"}}),
		post("a new block under another name", madeSo, 20, own, at{}, set("10-0-21-0-29", "metadata", "name")),

		post("a new block within another's", "blocks of IPPool p are /29", 2, own, at{}, set("10-0-2-4-30", "metadata", "name"),
			spec("10.0.2.4/30", "cidr"), spec([]any{nil, nil, nil, nil}, "allocations"), spec([]any{0, 1, 2, 3}, "unallocated")),
		post("a new block around others", "blocks of IPPool p are /29", 2, own, at{}, set("10-0-2-0-28", "metadata", "name"), spec("10.0.2.0/28", "cidr")),
		post("a new block of the size that a pool does not say", "", 2, own, at{}, set("10-9-0-0-26", "metadata", "name"), spec("10.9.0.0/26", "cidr")),
		post("a new block of another size than a pool does not say", "blocks of IPPool other are /26", 2, own, at{}, set("10-9-0-0-29", "metadata", "name"), spec("10.9.0.0/29", "cidr")),

		post("a new block of a disabled pool", "", 2, own, at{}, set("10-6-0-0-29", "metadata", "name"), spec("10.6.0.0/29", "cidr")),
		post("a new block within a disabled pool's", "blocks of IPPool disabled are /29; it is disabled", 2, own, at{}, set("10-6-0-4-32", "metadata", "name"),
			spec("10.6.0.4/32", "cidr"), spec([]any{nil}, "allocations"), spec([]any{0}, "unallocated")),
		post("a new block around a disabled pool", "blocks of IPPool disabled are /29", 2, own, at{}, set("10-6-0-0-22", "metadata", "name"), spec("10.6.0.0/22", "cidr")),

		post("a new block around a pool", "blocks of IPPool small are /26", 2, own, at{}, set("10-8-0-0-20", "metadata", "name"), spec("10.8.0.0/20", "cidr")),
		post("a new block of no pool", "", 2, own, at{}, set("10-7-0-0-20", "metadata", "name"), spec("10.7.0.0/20", "cidr")),

		put("an address without its number", mixed, 2, its, shared.with(at{4: {node: "n1"}}), spec(nil, "sequenceNumberForAllocation", "4")),
		put("a number without its address", mixed, 2, its, shared, spec(5, "sequenceNumberForAllocation", "4")),
		put("a number of no address, instead of another", mixed, 2, its, shared, spec(5, "sequenceNumberForAllocation", "9"), spec(nil, "sequenceNumberForAllocation", "0")),
		put("a number of the same address twice", mixed, 2, its, shared, spec(5, "sequenceNumberForAllocation", "01"), spec(nil, "sequenceNumberForAllocation", "0")),
		put("an owner that is not there", mixed, 2, its, shared, spec([]any{7, 0, 1, 2, nil, 3, nil, nil}, "allocations")),
		put("a negative owner", mixed, 2, its, shared, spec([]any{-1, 1, 2, 3, nil, 4, nil, nil}, "allocations")),
		put("fewer addresses", mixed, 2, its, shared, spec([]any{0, 1, 2, 3, nil, 4, nil}, "allocations")),
		put("a number that is yet to come", mixed, 2, its, shared.with(at{4: {node: "n1"}}), spec(5000, "sequenceNumberForAllocation", "4")),
		put("free what has no number, of another's block", "what is stored contradicts itself", 6, its, at{1: {node: "n1"}}),
		put("repair another's block", "what is stored contradicts itself", 6, its, at{0: {node: "n2"}, 1: {node: "n1"}}),

		remove("delete another's block that contradicts itself", mixed, 6),
		remove("delete another's block that is in use", stillHas, 2),
		remove("delete another's block that is in use by itself", stillHas, 8),
		remove("delete its own block that others use", stillHas, 1),
	}
}
