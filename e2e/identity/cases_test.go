package identity

import (
	"fmt"
	"time"

	"weft/node/rotation"
)

const group = "projectcalico.org/v3"

// owners is a list of owner references.
var owners = []any{object{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}}

// write is one write by node n1.
type write struct {
	name, method, path string // of projectcalico.org/v3, unless it begins with a slash
	body               func() object
	want               string // part of the refusal; empty: it is done
}

func of(kind, name string, spec object, more ...func(object)) func() object {
	return func() object {
		o := object{"apiVersion": group, "kind": kind, "metadata": object{"name": name}, "spec": copied(spec)}
		for _, f := range more {
			f(o)
		}
		return o
	}
}

func copied(o object) object {
	out := object{}
	for k, v := range o {
		out[k] = v
	}
	return out
}

func affinity(node string, third int, state string) func() object {
	return of("BlockAffinity", fmt.Sprintf("%s-10-0-%d-0-29", node, third),
		object{"node": node, "cidr": fmt.Sprintf("10.0.%d.0/29", third), "state": state, "type": "host", "deleted": false})
}

func handle(name, node string) func() object {
	o := of("IPAMHandle", name, object{"handleID": name, "block": object{"10.0.1.0/29": 1}, "deleted": false})
	if node == "" {
		return o
	}
	return also(o, set(node, "metadata", "annotations", "weft.io/node"))
}

func also(f func() object, more ...func(object)) func() object {
	return func() object {
		o := f()
		for _, f := range more {
			f(o)
		}
		return o
	}
}

func felix(spec object, more ...func(object)) func() object {
	return of("FelixConfiguration", "default", spec, more...)
}

// stored is there before the test, by the path of its kind.
func stored() map[string][]object {
	pod := func(name, node string) object {
		o := object{"metadata": object{"name": name, "labels": object{"app": "web"}, "annotations": object{"a": "b"}},
			"spec": object{"containers": []any{object{"name": "c", "image": "i"}}}}
		if node != "" {
			o["spec"].(object)["nodeName"] = node
		}
		return o
	}
	return map[string][]object{
		"nodes":      {of("Node", "n1", object{})(), of("Node", "n2", object{})()},
		"ipamblocks": storedBlocks(),
		"ippools": {of("IPPool", "p", object{"cidr": "10.0.0.0/16", "blockSize": 29})(), of("IPPool", "other", object{"cidr": "10.9.0.0/16"})(),
			of("IPPool", "small", object{"cidr": "10.8.1.0/24"})(), of("IPPool", "disabled", object{"cidr": "10.6.0.0/24", "blockSize": 29, "disabled": true})(),
			of("IPPool", "off", object{"cidr": "10.0.0.0/16", "blockSize": 30, "disabled": true}, set("", "metadata", "labels", "weft.io/replaced"))()},
		"blockaffinities": {affinity("n1", 1, "confirmed")(), affinity("n2", 2, "confirmed")(), affinity("n2", 3, "pending")(), affinity("n2", 4, "pendingDeletion")()},
		"ipamhandles": {handle("k8s-pod-network.a1", "n1")(), handle("k8s-pod-network.a2", "n2")(), handle("k8s-pod-network.a3", "")(),
			handle("vxlan-tunnel-addr-n1", "")(), handle("vxlan-v6-tunnel-addr-n1", "")(), handle("vxlan-tunnel-addr-n2", "")(), handle("vxlan-v6-tunnel-addr-n2", "n2")()},
		"caliconodestatuses": {of("CalicoNodeStatus", "s1", object{"node": "n1", "classes": []any{"Agent"}})(),
			of("CalicoNodeStatus", "s2", object{"node": "n2", "classes": []any{"Agent"}})()},
		"felixconfigurations": {felix(object{"wireguardKeyEpoch": 3, "wireguardEnabled": true, "wireguardKeyRotationPeriod": "24h"}, set("x", "metadata", "annotations", "a"),
			set(mark(3, due.Add(-24*time.Hour)), "metadata", "annotations", rotation.Mark))(),
			of("FelixConfiguration", "node.n1", object{"wireguardEnabled": true})()},
		"/api/v1/namespaces/default/pods": {pod("p1", "n1"), pod("p2", "n2"), pod("p0", "")},
	}
}

// cases are the writes other than those of blocks.
func cases() []write {
	all := append(blockCases(), podCases()...)
	put := func(name, path string, body func() object, want string) {
		all = append(all, write{name, "PUT", path, body, want})
	}
	post := func(name, path string, body func() object, want string) {
		all = append(all, write{name, "POST", path, body, want})
	}
	remove := func(name, path, want string) { all = append(all, write{name, "DELETE", path, nil, want}) }

	const record = "a node service writes the record of its own node"
	put("its own record", "nodes/n1", of("Node", "n1", object{"bgp": object{"ipv4Address": "192.0.2.1/24"}}), "")
	put("another's record", "nodes/n2", of("Node", "n2", object{"bgp": object{"ipv4Address": "192.0.2.1/24"}}), record)
	post("a record of another name", "nodes", of("Node", "n3", object{}), record)
	remove("delete its own record", "nodes/n1", "")
	remove("delete another's record", "nodes/n2", record)

	const claim, inForce, theirs = "a node service claims blocks for its own node", "and in force", "of which only the state may change"
	post("claim a block", "blockaffinities", affinity("n1", 20, "pending"), "")
	put("give its own claim up", "blockaffinities/n1-10-0-1-0-29", affinity("n1", 1, "pendingDeletion"), "")
	put("annotate its own claim", "blockaffinities/n1-10-0-1-0-29", also(affinity("n1", 1, "confirmed"), set("b", "metadata", "annotations", "a")), "")
	remove("delete its own claim", "blockaffinities/n1-10-0-1-0-29", "")
	put("begin to delete another's claim, with its empty block", "blockaffinities/n2-10-0-3-0-29", affinity("n2", 3, "pendingDeletion"), "")
	put("leave another's claim in force after all", "blockaffinities/n2-10-0-4-0-29", affinity("n2", 4, "confirmed"), "")
	remove("delete another's claim that is being deleted", "blockaffinities/n2-10-0-4-0-29", "")
	remove("delete another's claim that was never finished", "blockaffinities/n2-10-0-3-0-29", "")
	remove("delete another's claim", "blockaffinities/n2-10-0-2-0-29", inForce)
	put("another's claim pending again", "blockaffinities/n2-10-0-2-0-29", affinity("n2", 2, "pending"), theirs)
	put("another's claim of another type", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set("virtual", "spec", "type")), theirs)
	put("another's claim without a type", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set(nil, "spec", "type")), theirs)
	put("label another's claim", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set("b", "metadata", "labels", "a")), theirs)
	put("annotate another's claim", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set("b", "metadata", "annotations", "a")), theirs)
	put("have another's claim deleted with something", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set(owners, "metadata", "ownerReferences")), theirs)
	put("keep another's claim from being deleted", "blockaffinities/n2-10-0-2-0-29", also(affinity("n2", 2, "confirmed"), set([]any{"a.b/c"}, "metadata", "finalizers")), theirs)
	post("claim a block for another node", "blockaffinities", affinity("n2", 20, "pending"), claim)
	post("claim a block under another's name", "blockaffinities", also(affinity("n1", 20, "pending"), set("n2-10-0-20-0-29", "metadata", "name")), claim)
	post("claim a block for a purpose", "blockaffinities", also(affinity("n1", 20, "pending"), set("virtual", "spec", "type")), claim)

	const whose, mark = "by its annotation weft.io/node it is of", "its annotation weft.io/node has to name this node"
	post("its own handle", "ipamhandles", handle("k8s-pod-network.a9", "n1"), "")
	post("the handle of its own tunnels", "ipamhandles", also(handle("t4", "n1"), set("vxlan-tunnel-addr-n1", "spec", "handleID")), "")
	post("the handle of its own tunnels, IPv6", "ipamhandles", also(handle("t6", "n1"), set("vxlan-v6-tunnel-addr-n1", "spec", "handleID")), "")
	put("say that the handle of its own tunnels is its own", "ipamhandles/vxlan-tunnel-addr-n1", handle("vxlan-tunnel-addr-n1", "n1"), "")
	put("say that the handle of its own tunnels is its own, IPv6", "ipamhandles/vxlan-v6-tunnel-addr-n1", handle("vxlan-v6-tunnel-addr-n1", "n1"), "")
	put("leave the handle of its own tunnels without a node", "ipamhandles/vxlan-tunnel-addr-n1", handle("vxlan-tunnel-addr-n1", ""), mark)
	put("say that the handle of another's tunnels is its own", "ipamhandles/vxlan-tunnel-addr-n2", handle("vxlan-tunnel-addr-n2", "n1"), whose+" no node")
	remove("delete the handle of its own tunnels, which says no node", "ipamhandles/vxlan-tunnel-addr-n1", "")
	remove("delete the handle of another's tunnels, which says no node", "ipamhandles/vxlan-tunnel-addr-n2", whose+" no node")
	remove("delete a handle of no node", "ipamhandles/k8s-pod-network.a3", whose+" no node")
	put("update its own handle", "ipamhandles/k8s-pod-network.a1", also(handle("k8s-pod-network.a1", "n1"), set(2, "spec", "block", "10.0.2.0/29")), "")
	remove("delete its own handle", "ipamhandles/k8s-pod-network.a1", "")
	put("update another's handle", "ipamhandles/k8s-pod-network.a2", handle("k8s-pod-network.a2", "n1"), whose+" n2")
	put("take a handle of no node", "ipamhandles/k8s-pod-network.a3", handle("k8s-pod-network.a3", "n1"), whose+" no node")
	remove("delete another's handle", "ipamhandles/k8s-pod-network.a2", whose+" n2")
	put("give its own handle away", "ipamhandles/k8s-pod-network.a1", handle("k8s-pod-network.a1", "n2"), mark)
	post("a handle of another node", "ipamhandles", handle("k8s-pod-network.a9", "n2"), mark)
	post("a handle of no node", "ipamhandles", handle("k8s-pod-network.a9", ""), mark)
	post("the handle of another's tunnels", "ipamhandles", also(handle("t4", "n1"), set("vxlan-tunnel-addr-n2", "spec", "handleID")), "tunnels of another node")
	post("the handle of another's tunnels, IPv6", "ipamhandles", also(handle("t6", "n1"), set("vxlan-v6-tunnel-addr-n2", "spec", "handleID")), "tunnels of another node")

	report := func(name, node string) func() object {
		return of("CalicoNodeStatus", name, object{"node": node, "classes": []any{"Agent"}}, set("2026-01-02T03:04:05Z", "status", "lastUpdated"))
	}
	put("report of itself", "caliconodestatuses/s1/status", report("s1", "n1"), "")
	put("report of another", "caliconodestatuses/s2/status", report("s2", "n2"), "it asks n2")
	put("report of another as itself", "caliconodestatuses/s2/status", report("s2", "n1"), "it asks n2")
	return append(all, keyCases()...)
}

// due is when keys that are stored may be rotated. What a node may say of the time is within 5 minutes of it, so that the
// test has 9 minutes from its begin.
var due = time.Now().Add(4 * time.Minute)

// mark is the annotation that says when an epoch of keys began.
func mark(epoch any, at time.Time) string {
	return fmt.Sprint(epoch, " ", at.UTC().Format(time.RFC3339))
}

func keyCases() []write {
	const only, named, next = "a node service writes spec.wireguardKeyEpoch and the annotation", "the one named default", "the epoch after 3 is 4"
	const once, young, clock = "says once of an epoch when it began", "are not as old as", "of the API server it is"
	marked := func(text any) func(object) { return set(text, "metadata", "annotations", rotation.Mark) }
	base := func(epoch any, more ...func(object)) func() object {
		return also(felix(object{"wireguardKeyEpoch": epoch, "wireguardEnabled": true, "wireguardKeyRotationPeriod": "24h0m0s"}, set("x", "metadata", "annotations", "a")),
			append([]func(object){marked(mark(epoch, map[bool]time.Time{true: due.Add(-24 * time.Hour), false: due}[epoch == 3]))}, more...)...)
	}
	put := func(name, want string, body func() object) write {
		return write{name, "PUT", "felixconfigurations/default", body, want}
	}
	return []write{
		put("begin the next epoch", "", base(4)),
		put("say nothing new of the keys", "", base(3)),
		put("say that the epoch began now", once, base(3, marked(mark(3, due)))),
		put("forget when the epoch began", once, base(3, marked(nil))),
		put("begin the next epoch without saying when", once, base(4, marked(nil))),
		put("begin the next epoch, and say it of another", once, base(4, marked(mark(5, due)))),
		put("begin the next epoch in words", once, base(4, marked("4 now"))),
		put("begin the next epoch before it is due", young, base(4, marked(mark(4, due.Add(-time.Second))))),
		put("begin the next epoch ahead of time", clock, base(4, marked(mark(4, due.Add(time.Hour))))),
		put("another period", only, base(4, set("25h", "spec", "wireguardKeyRotationPeriod"))),
		put("an epoch back", next, base(2)),
		put("two epochs", next, base(5)),
		put("turn encryption off", only, base(4, set(false, "spec", "wireguardEnabled"))),
		put("take a field away", only, base(4, set(nil, "spec", "wireguardEnabled"))),
		put("set another field", only, base(4, set(1400, "spec", "vxlanMTU"))),
		put("label it", only, base(4, set("b", "metadata", "labels", "a"))),
		put("another annotation", only, base(4, set("b", "metadata", "annotations", "b"))),
		put("change an annotation", only, base(4, set("y", "metadata", "annotations", "a"))),
		put("take an annotation away", only, base(4, set(nil, "metadata", "annotations", "a"))),
		put("have it deleted with something", only, base(4, set(owners, "metadata", "ownerReferences"))),
		put("keep it from being deleted", only, base(4, set([]any{"a.b/c"}, "metadata", "finalizers"))),
		{"the configuration of a node", "PUT", "felixconfigurations/node.n1", of("FelixConfiguration", "node.n1", object{"wireguardEnabled": true}), named},
		{"a new configuration", "POST", "felixconfigurations", of("FelixConfiguration", "node.n9", object{"wireguardKeyEpoch": 1}), named},
		{"delete the configuration", "DELETE", "felixconfigurations/default", nil, named},
	}
}

func podCases() []write {
	const only, nothing, elsewhere = "of its annotations a node service writes", "a node service writes nothing of a pod but annotations", "the pod is on n2"
	patch := func(name, want, pod string, value any, path ...string) write {
		o := object{}
		set(value, path...)(o)
		return write{name, "PATCH", "/api/v1/namespaces/default/pods/" + pod + "/status", func() object { return o }, want}
	}
	address := func(key string) []string { return []string{"metadata", "annotations", "cni.projectcalico.org/" + key} }
	return []write{
		patch("the address of its pod", "", "p1", "10.0.1.1", address("podIP")...),
		patch("the addresses of its pod", "", "p1", "10.0.1.1", address("podIPs")...),
		patch("the container of its pod", "", "p1", "c", address("containerID")...),
		patch("the address of another's pod", elsewhere, "p2", "10.0.1.1", address("podIP")...),
		patch("the address of a pod of no node", "the pod is on no node", "p0", "10.0.1.1", address("podIP")...),
		patch("another annotation of its pod", only, "p1", "x", address("ipAddrs")...),
		patch("change an annotation of its pod", only, "p1", "x", "metadata", "annotations", "a"),
		{"take an annotation of its pod away", "PATCH", "/api/v1/namespaces/default/pods/p1/status",
			func() object { return object{"metadata": object{"annotations": object{"a": nil}}} }, only},
		patch("label its pod", nothing, "p1", "x", "metadata", "labels", "app"),
		patch("keep its pod from being deleted", nothing, "p1", []any{"a.b/c"}, "metadata", "finalizers"),
		patch("say that its pod is over", nothing, "p1", "Succeeded", "status", "phase"),
		patch("say that its pod has an address", nothing, "p1", "10.0.1.1", "status", "podIP"),
	}
}
