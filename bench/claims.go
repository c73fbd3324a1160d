package bench

// What measures a figure.
const (
	byAll   = "`make bench`"
	byTests = "`make bench-tests`"
)

// claims are the figures of docs/performance.md, in its order.
var claims = []claim{
	{what: "TCP throughput, 4 streams, beside plain routing", how: byAll + " (`encap`)",
		experiment: "encap", metric: "throughput", setting: toPlain, streams: 4, ratio: true},
	{what: "TCP throughput, 4 streams, beside a device made by hand", asked: "as fast, but for noise", how: byAll + " (`encap`)",
		experiment: "encap", metric: "throughput", setting: toHand, streams: 4, ratio: true, within: asTheReference},
	{what: "small packets a second, beside a device made by hand", asked: "as many, but for noise", how: byAll + " (`encap`)",
		experiment: "encap", metric: "packets_received", setting: toHand, ratio: true, within: asTheReference},
	{what: "processor time for a gigabit, 4 streams, beside a device made by hand", how: byAll + " (`encap`)",
		experiment: "encap", metric: "cpu_per_gigabit", setting: toHand, streams: 4, ratio: true},
	{what: "packets lost", asked: "0", how: byTests, experiment: "modes", metric: "lost", except: []string{"control"},
		stat: inAll, of: "sent", within: atMost(0)},
	{what: "packets lost", asked: "more than 0", how: byTests, experiment: "modes", metric: "lost", setting: "control", stat: inAll, of: "sent", control: true},
	{what: "TCP streams broken", asked: "0", how: byTests, experiment: "modes", metric: "streams_broken", stat: inAll, of: "streams", within: atMost(0)},
	{what: "packets lost in changes of mode, VNI, port and encryption", asked: "0", how: byAll + " (`switch`)", experiment: "switch", metric: "packets_lost",
		except: []string{"naive", "nothing changed"}, merge: true, stat: inAll, of: "packets_sent", within: atMost(0)},
	{what: "packets lost", asked: "more than 0", how: byAll + " (`switch`)", experiment: "switch", metric: "packets_lost", setting: "naive", stat: inAll,
		of: "packets_sent", control: true},
	{what: "a random piece of the kernel's state that somebody removes is back, p50", asked: "1 s", how: byTests,
		experiment: "sabotage", metric: "heal", setting: "random pieces", within: atMost(1)},
	{what: "the same, p99", asked: "1 s", how: byTests, experiment: "sabotage", metric: "heal", setting: "random pieces", stat: atP99, within: atMost(1)},
	{what: "what somebody breaks on a node under traffic is whole again, p50", how: byAll + " (`heal`)", experiment: "heal", metric: metricHealed, merge: true},
	{what: "the same, p99", how: byAll + " (`heal`)", experiment: "heal", metric: metricHealed, merge: true, stat: atP99},
	{what: "packets lost while the node service is stopped", asked: "more than 0", how: byAll + " (`heal`)", experiment: "heal", metric: metricLost, setting: "control",
		stat: inAll, of: metricSent, control: true},
	{what: "process start until policy is enforced", how: byAll + " (`policy`)", experiment: "policy", metric: "start"},
	{what: "one policy changes, from before the write until the kernel has it, p50", how: byAll + " (`policy`)",
		experiment: "policy", metric: "policy_change"},
	{what: "the same, p99", how: byAll + " (`policy`)", experiment: "policy", metric: "policy_change", stat: atP99},
	{what: "one label changes, p50", how: byAll + " (`policy`)", experiment: "policy", metric: "label_change"},
	{what: "the same, p99", how: byAll + " (`policy`)", experiment: "policy", metric: "label_change", stat: atP99},
	{what: "processor time of a new TCP connection, beside no policy", how: byAll + " (`policy`)",
		experiment: "policy", metric: "connection_cost_of_none", ratio: true},
	{what: "new TCP connections a second", how: byAll + " (`policy`)", experiment: "policy", metric: "connection_rate"},
	{what: "CNI ADD, p50", how: byAll + " (`cni`)", experiment: "cni", metric: "add", except: []string{"by hand"}},
	{what: "the same, p99", how: byAll + " (`cni`)", experiment: "cni", metric: "add", except: []string{"by hand"}, stat: atP99},
	{what: "CNI ADD beside the same link made by netlink alone", how: byAll + " (`cni`)", experiment: "cni", metric: "add_of_hand", ratio: true},
	{what: "CNI DEL, p50", how: byAll + " (`cni`)", experiment: "cni", metric: "del", except: []string{"by hand"}},
	{what: "process start until all routes are in the kernel", how: byAll + " (`scale`)", experiment: "scale", metric: "start"},
	{what: "processor while nothing changes, share of a core", asked: "0.2 %", how: byAll + " (`scale`)",
		experiment: "scale", metric: "idle_share", within: atMost(0.002)},
	{what: "memory", how: byAll + " (`scale`)", experiment: "scale", metric: "memory"},
	{what: "100,000 routes of a BGP neighbour in the kernel, or out of it", asked: "5 s", how: byTests,
		experiment: "bgp", metric: "installed", within: atMost(5)},
	{what: "processor time of node service and BGP speaker for that", how: byTests, experiment: "bgp", metric: "processor_time"},
	{what: "BIRD beside it, with a kernel of its own", how: byTests, experiment: "bgp", metric: "bird_installed"},
	{what: "memory of node service and BGP speaker", how: byTests, experiment: "bgp", metric: "memory"},
}
