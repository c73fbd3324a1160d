package iptables

import (
	"slices"

	"weft/internal/kernel"
)

// treeWidth is how many devices a chain lists before it is divided by the next letter of the name.
const treeWidth = 8

// tree renders the dispatch by device: a prefix tree of chains, so that a packet meets a few rules for
// each letter that tells devices apart, and not one for each device. flag is -i or -o; root, what
// its branches' names begin with too, is where it starts; leaf names a device's chain; unknown is the
// target for a device that is not there. All of it is reached by goto.
func tree(devices []string, flag, root, unknown string, leaf func(device string) string) map[string][]string {
	chains := map[string][]string{}
	var branch func(name string, list []string)
	branch = func(name string, list []string) {
		var lines []string
		if len(list) <= treeWidth {
			for _, d := range list {
				lines = append(lines, flag+" "+d+" -g "+leaf(d))
			}
			chains[name] = append(lines, unknown)
			return
		}
		at := commonLength(list)
		if at == len(list[0]) { // all others begin with this name
			lines, list = append(lines, flag+" "+list[0]+" -g "+leaf(list[0])), list[1:]
		}
		for len(list) > 0 {
			n := 1
			for n < len(list) && list[n][at] == list[0][at] {
				n++
			}
			if n == 1 {
				lines = append(lines, flag+" "+list[0]+" -g "+leaf(list[0]))
			} else {
				p := list[0][:at+1]
				sub := root + "-" + p[len(kernel.PodLinkPrefix):]
				lines = append(lines, flag+" "+p+"+ -g "+sub)
				branch(sub, list[:n])
			}
			list = list[n:]
		}
		chains[name] = append(lines, unknown)
	}
	branch(root, slices.Sorted(slices.Values(devices)))
	return chains
}

// commonLength is how many letters all of a sorted list begin with, of names that are not equal.
func commonLength(list []string) int {
	first, last := list[0], list[len(list)-1]
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	return n
}
