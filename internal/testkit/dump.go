package testkit

import (
	"slices"
	"strings"
	"testing"
)

// The dumps print what the kernel holds, read by iproute2 and not by our own code, in a form that
// is the same every time: one entry a line, sorted, without what differs from run to run.

// Routes prints the main table's routes of both families. Without kernelRoutes, those that the
// kernel made by itself are left out.
func Routes(t testing.TB, ns NS, kernelRoutes bool) string {
	t.Helper()
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		for _, l := range split(Run(t, ns, "ip", family, "-o", "route", "show", "table", "main")) {
			if kernelRoutes || !strings.Contains(l, " proto kernel") {
				lines = append(lines, strings.TrimSuffix(l, " pref medium"))
			}
		}
	}
	return join(lines)
}

// Links prints name, kind, MTU and administrative state of every link but the loopback.
func Links(t testing.TB, ns NS) string {
	t.Helper()
	var lines []string
	for _, l := range links(t, ns) {
		lines = append(lines, l.String())
	}
	return join(lines)
}

// Neighbours prints the permanent neighbour entries of a device.
func Neighbours(t testing.TB, ns NS, device string) string {
	t.Helper()
	return join(split(Run(t, ns, "ip", "neigh", "show", "dev", device, "nud", "permanent")))
}

// FDB prints the forwarding entries of a device that lead to another host.
func FDB(t testing.TB, ns NS, device string) string {
	t.Helper()
	lines := slices.DeleteFunc(split(Run(t, ns, "bridge", "fdb", "show", "dev", device)), func(l string) bool {
		return !strings.Contains(l, " dst ")
	})
	return join(lines)
}

func split(out string) []string {
	var lines []string
	for l := range strings.Lines(out) {
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

func join(lines []string) string {
	slices.Sort(lines)
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}
