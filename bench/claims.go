package bench

import "slices"

// What measures a figure.
const (
	byAll   = "`make bench`"
	byTests = "`make bench-tests`"
)

// What settings of `weft bench policy` and `weft bench scale` are called whose figures are asked.
const (
	askedPolicies = "1000 policies, 100 pods, 5000 endpoints elsewhere"
	askedFlood    = "2000 policies, 100 pods, 100000 endpoints elsewhere"
	askedNodes    = "5000 nodes"
)

const mebibyte = 1 << 20

// Where the time goes of figures that are not met, as profiles and the tests named say.
const (
	goesToRules = "A device made by hand has no connection tracking and no rules. `perf` over a whole run, half of it by hand, gives netfilter's hooks 12 % of the processors' busy time: " +
		"a node's rules 5, connection tracking 2, most of the rest the lab's bridges. Drivers alone, without a node's policy, carry 0.90 to 0.95 (`tunnel/vxlan` TestThroughput)."
	goesToNode     = "The driver's process alone is as fast as wireguard-go alone (below); with it are the node's rules, and few rounds of a slow thing."
	goesToPrograms = "Two eBPF programs encapsulate and take off what plain routing does not ([ipip.md](ipip.md))."
	goesToPlugins  = "32 at a time both processors are busy all the time, by plugins, the node service and etcd ([cni.md](cni.md))."
	goesToStart    = "`perf` over such starts gives enforcing 42 % of the processors' time, 28 of them to the kernel for one transaction of 100,000 members (6 to look sets up by name for each rule, " +
		"6 to tell who listens), and 12 to the decoding of what the store has. Where BIRD, a yardstick of the machine, took 1.0 s for 100,000 routes, the start took 1.4 s."
	goesToChange = "A watcher beside the node hears of the write after most of that time, too; of the processor time most is the kernel's, which makes the rules of a chain anew. " +
		"Where BIRD took 1.0 s for 100,000 routes these were 4.9 ms and 4.5 ms."
	goesToBinary = "71 MiB of it are pages of the binary's file, which all processes of Weft share."
	goesToFlood  = "Writers, etcd and the node share two processors; in the run of 2026-11-23 the writers came to 893 of 1,000 changes a second. In another run it was 74 ms."
	goesToGoBGP  = "Two thirds of the processor time are GoBGP's ([features.md](features.md)). Where BIRD beside it took 1.0 and 0.6 s, these were 2.4 to 4.2 s."
)

// claims are the figures of docs/performance.md, in its order.
var claims = slices.Concat(carrying, encapsulating, staying, policing, encrypting, speaking)

var carrying = []claim{
	{what: "CNI ADD until the pod answers, p50", asked: "25 ms", how: byTests, experiment: "add", metric: "answers", goes: goesToPlugins, within: atMost(0.025)},
	{what: "CNI ADD until the pod answers, p99", asked: "100 ms", how: byTests, experiment: "add", metric: "answers", stat: atP99, goes: goesToPlugins, within: atMost(0.1)},
	{what: "weft-cni itself, a STATUS, from its start to its end, p50", asked: "10 ms", how: byTests, experiment: "add", metric: "plugin", within: atMost(0.01)},
	{what: "CNI ADD, p50", how: byAll + " (`cni`)", experiment: "cni", metric: "add", way: "weft"},
	{what: "CNI ADD beside the same link made by netlink alone", how: byAll + " (`cni`)", experiment: "cni", metric: "add_of_hand", ratio: true},
	{what: "CNI DEL, p50", how: byAll + " (`cni`)", experiment: "cni", metric: "del", way: "weft"},
	{what: "topology computed", asked: "50 ms", how: byTests, experiment: "topology", metric: "computed", within: atMost(0.05)},
	{what: "process start until all routes are in the kernel, 5,000 nodes, no BGP", asked: "2 s", how: byAll + " (`scale`)", experiment: "scale", metric: "start",
		setting: askedNodes, within: atMost(2)},
	{what: "one more node, from before its records are written until the kernel has the route, 5,000 nodes, no BGP, p50", asked: "20 ms", how: byAll + " (`scale`)",
		experiment: "scale", metric: "one_more_node", setting: askedNodes, within: atMost(0.02)},
	{what: "memory of the node service, 5,000 nodes, no policy, no BGP", asked: "100 MiB", how: byAll + " (`scale`)", experiment: "scale", metric: "memory", setting: askedNodes,
		within: atMost(100 * mebibyte)},
	{what: "processor while nothing changes, of a core", asked: "0.2 %", percent: true, how: byAll + " (`scale`)",
		experiment: "scale", metric: "idle_share", within: atMost(0.002)},
}

var encapsulating = []claim{
	{what: "TCP throughput, 4 streams, beside a device made by hand", asked: "0.95", how: byAll + " (`encap`)", encapsulations: []string{"vxlan"},
		experiment: "encap", metric: "throughput", setting: toHand, streams: 4, ratio: true, goes: goesToRules, within: atLeast(0.95)},
	{what: "TCP throughput, 4 streams, beside a device made by hand", asked: "0.95", how: byAll + " (`encap`)", encapsulations: []string{"wireguard"},
		experiment: "encap", metric: "throughput", setting: toHand, streams: 4, ratio: true, goes: goesToNode, within: atLeast(0.95)},
	{what: "TCP throughput, 4 streams, beside a device made by hand", asked: "as fast, but for noise", how: byAll + " (`encap`)",
		encapsulations: []string{"none", "ipip", "crosssubnet"}, experiment: "encap", metric: "throughput", setting: toHand, streams: 4, ratio: true, goes: goesToRules, within: asTheReference},
	{what: "TCP throughput, 4 streams, beside plain routing", asked: "0.95", how: byAll + " (`encap`)", encapsulations: []string{"ipip"},
		experiment: "encap", metric: "throughput", setting: toPlain, streams: 4, ratio: true, goes: goesToPrograms, within: atLeast(0.95)},
	{what: "TCP throughput, 4 streams, beside plain routing", asked: "0.97", how: byAll + " (`encap`)", encapsulations: []string{"crosssubnet"},
		experiment: "encap", metric: "throughput", setting: toPlain, streams: 4, ratio: true, within: atLeast(0.97)},
	{what: "TCP throughput, 4 streams, beside plain routing", how: byAll + " (`encap`)", encapsulations: []string{"vxlan", "wireguard"},
		experiment: "encap", metric: "throughput", setting: toPlain, streams: 4, ratio: true},
	{what: "small packets a second, beside a device made by hand", asked: "as many, but for noise", how: byAll + " (`encap`)",
		experiment: "encap", metric: "packets_received", setting: toHand, ratio: true, within: asTheReference},
	{what: "processor time for a gigabit, 4 streams, beside a device made by hand", how: byAll + " (`encap`)",
		experiment: "encap", metric: "cpu_per_gigabit", setting: toHand, streams: 4, ratio: true},
	{what: "packet sizes from 1,200 to 9,000 bytes that vanish, neither delivered nor answered", asked: "0", how: byTests, experiment: "sizes", metric: "vanished",
		stat: inAll, of: "probed", within: atMost(0)},
}

var staying = []claim{
	{what: "packets lost", asked: "0", how: byTests, experiment: "modes", metric: "lost", except: []string{"control"},
		stat: inAll, of: "sent", within: atMost(0)},
	{what: "packets lost", asked: "more than 0", how: byTests, experiment: "modes", metric: "lost", setting: "control", stat: inAll, of: "sent", control: true},
	{what: "TCP streams broken", asked: "0", how: byTests, experiment: "modes", metric: "streams_broken", merge: true, stat: inAll, of: "streams", within: atMost(0)},
	{what: "packets lost in changes of mode, VNI, port and encryption", asked: "0", how: byAll + " (`switch`)", experiment: "switch", metric: "packets_lost",
		except: []string{"naive", "nothing changed"}, merge: true, stat: inAll, of: "packets_sent", within: atMost(0)},
	{what: "packets lost", asked: "more than 0", how: byAll + " (`switch`)", experiment: "switch", metric: "packets_lost", setting: "naive", stat: inAll,
		of: "packets_sent", control: true},
	{what: "a random piece of the kernel's state that somebody removes is back, p50", asked: "1 s", how: byTests,
		experiment: "sabotage", metric: "heal", setting: "random pieces", within: atMost(1)},
	{what: "the same, p99", asked: "1 s", how: byTests, experiment: "sabotage", metric: "heal", setting: "random pieces", stat: atP99, within: atMost(1)},
	{what: "what somebody breaks on a node under traffic is whole again, p50", how: byAll + " (`heal`)", experiment: "heal", metric: metricHealed, merge: true},
	{what: "the same, p99", how: byAll + " (`heal`)", experiment: "heal", metric: metricHealed, merge: true, stat: atP99},
	{what: "packets lost while it is broken, 13 kinds of sabotage", how: byAll + " (`heal`)", experiment: "heal", metric: metricLost, except: []string{"control"},
		merge: true, stat: inAll, of: metricSent},
	{what: "packets lost while the node service is stopped", asked: "more than 0", how: byAll + " (`heal`)", experiment: "heal", metric: metricLost, setting: "control",
		stat: inAll, of: metricSent, control: true},
}

var policing = []claim{
	{what: "process start until policy is enforced, " + askedPolicies, asked: "1 s", how: byAll + " (`policy`)", way: "nftables", experiment: "policy", metric: "start",
		setting: askedPolicies, goes: goesToStart, within: atMost(1)},
	{what: "one policy changes, " + askedPolicies + ", from before the write until the kernel has it, p50", asked: "10 ms", how: byAll + " (`policy`)", way: "nftables",
		experiment: "policy", metric: "policy_change", setting: askedPolicies, goes: goesToChange, within: atMost(0.01)},
	{what: "the same, p99", asked: "50 ms", how: byAll + " (`policy`)", way: "nftables", experiment: "policy", metric: "policy_change", setting: askedPolicies,
		stat: atP99, within: atMost(0.05)},
	{what: "processor time of that change", asked: "5 ms", how: byAll + " (`policy`)", way: "nftables", experiment: "policy", metric: "policy_change_cpu",
		setting: askedPolicies, goes: goesToChange, within: atMost(0.005)},
	{what: "one label changes, p50", how: byAll + " (`policy`)", way: "nftables", experiment: "policy", metric: "label_change", setting: askedPolicies},
	{what: "memory of the node service, " + askedPolicies, asked: "120 MiB", how: byAll + " (`policy`)", way: "nftables", experiment: "policy", metric: "memory",
		setting: askedPolicies, goes: goesToBinary, within: atMost(120 * mebibyte)},
	{what: "process start until policy is enforced", how: byAll + " (`policy`)", way: "iptables", experiment: "policy", metric: "start", setting: askedPolicies},
	{what: "one policy changes, from before the write until the kernel has it, p50", how: byAll + " (`policy`)", way: "iptables",
		experiment: "policy", metric: "policy_change", setting: askedPolicies},
	{what: "1,000 label changes a second asked for 10 s, " + askedFlood + ", from before each write until the kernel has it, p99", asked: "100 ms", how: byTests, way: "nftables",
		experiment: "policy", metric: "flood_p99", setting: askedFlood, goes: goesToFlood, within: atMost(0.1)},
	{what: "of a core meanwhile", asked: "100 %", percent: true, how: byTests, way: "nftables", experiment: "policy", metric: "flood_cpu", setting: askedFlood, within: atMost(1)},
	{what: "process start until policy is enforced, " + askedFlood, how: byTests, way: "nftables", experiment: "policy", metric: "start", setting: askedFlood},
	{what: "memory of the node service, " + askedFlood, how: byTests, way: "nftables", experiment: "policy", metric: "memory", setting: askedFlood},
	{what: "a set loaded", asked: "1 s", how: byTests, experiment: "set", metric: "loaded", within: atMost(1)},
	{what: "one member of it changed, p50", asked: "5 ms", how: byTests, experiment: "set", metric: "member_changed", within: atMost(0.005)},
	{what: "new TCP connections for the same processor time, beside 10 policies in the cluster", asked: "0.95", how: byTests,
		experiment: "connections", metric: "of_few_policies", except: []string{"100 on the pods"}, ratio: true, within: atLeast(0.95)},
	{what: "the same, where more policies are asked for each", how: byTests, experiment: "connections", metric: "of_few_policies", setting: "100 on the pods", ratio: true},
	{what: "processor time of a new TCP connection, beside no policy", how: byAll + " (`policy`)",
		experiment: "policy", metric: "connection_cost_of_none", ratio: true},
	{what: "probes answered that are to be denied", asked: "0", how: byTests, experiment: "probes", metric: "answered", except: []string{"control"}, merge: true,
		stat: inAll, of: "asked", within: atMost(0)},
	{what: "probes answered of who is let in (one under way at the start counts as answered only)", asked: "more than 0", how: byTests, experiment: "probes", metric: "answered", setting: "control", merge: true,
		stat: inAll, of: "asked", control: true},
}

var encrypting = []claim{
	{what: "packets on the wire that hold a pod's data in clear", asked: "0", how: byTests, experiment: "wire", metric: "clear", except: []string{"control"},
		merge: true, stat: inAll, of: "inspected", within: atMost(0)},
	{what: "packets on the wire that hold a pod's data in clear", asked: "more than 0", how: byTests, experiment: "wire", metric: "clear", setting: "control",
		stat: inAll, of: "inspected", control: true},
	{what: "TCP throughput of the driver's process beside wireguard-go alone, both without a node's rules, by cycles where they can be counted, else by the clock", asked: "0.95", how: byTests,
		experiment: "wireguard", metric: "of_bare", ratio: true, within: atLeast(0.95)},
	{what: "the same, by the processor time of the devices' processes", how: byTests, experiment: "wireguard", metric: "of_bare_by_processor", ratio: true},
	{what: "packets lost", asked: "0", how: byTests, experiment: "wireguard", metric: "lost", stat: inAll, of: "sent", within: atMost(0)},
	{what: "a device's process is killed: traffic is back, p50", asked: "1 s", how: byTests, experiment: "wireguard", metric: "process_back", within: atMost(1)},
	{what: "packets in clear meanwhile", asked: "0", how: byTests, experiment: "wireguard", metric: "clear", stat: inAll, of: "inspected", within: atMost(0)},
	{what: "peers configured from empty", asked: "3 s", how: byTests, experiment: "wireguard", metric: "configured", within: atMost(3)},
	{what: "one peer changed, p50", asked: "10 ms", how: byTests, experiment: "wireguard", metric: "peer_changed", within: atMost(0.01)},
}

var speaking = []claim{
	{what: "sessions of a mesh of 3 nodes established after their start", asked: "5 s", how: byTests, experiment: "bgp", metric: "mesh", within: atMost(5)},
	{what: "one more block, from before its record is written until the kernel has the route, 5,000 nodes, no BGP, p50", asked: "200 ms", how: byAll + " (`scale`)",
		experiment: "scale", metric: "one_more_block", setting: askedNodes, within: atMost(0.2)},
	{what: "100,000 routes of a BGP neighbour in the kernel, or out of it", asked: "5 s", how: byTests,
		experiment: "bgp", metric: "installed", goes: goesToGoBGP, within: atMost(5)},
	{what: "processor time of node service and BGP speaker for that", how: byTests, experiment: "bgp", metric: "processor_time"},
	{what: "BIRD beside it, with a kernel of its own", how: byTests, experiment: "bgp", metric: "bird_installed"},
	{what: "memory of node service and BGP speaker", asked: "400 MiB", how: byTests, experiment: "bgp", metric: "memory", within: atMost(400 * mebibyte)},
	{what: "route events at a neighbour, in so many kills of the process that configures the speaker", asked: "0", how: byTests, experiment: "neighbour", metric: "route_events",
		except: []string{"control"}, stat: inAll, of: "agents_killed", within: atMost(0)},
	{what: "route events at a neighbour, in so many kills", asked: "more than 0", how: byTests, experiment: "neighbour", metric: "route_events", setting: "control",
		stat: inAll, of: "agents_killed", control: true},
	{what: "a link that is cut is noticed, p50", asked: "1 s", how: byTests, experiment: "neighbour", metric: "cut_noticed", within: atMost(1)},
	{what: "pairs of block and node that automatic reflectors leave out, simulated", asked: "0", how: byTests, experiment: "reflection", metric: "unreached",
		stat: inAll, of: "pairs", within: atMost(0)},
}
