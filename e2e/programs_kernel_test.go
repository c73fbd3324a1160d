package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/internal/testkit"
)

// program is an eBPF program at an interface of a namespace.
type program struct {
	device string
	index  int
	attach ebpf.AttachType
	id     ebpf.ProgramID
	name   string
	maps   []ebpf.MapID
}

// programs lists the programs at the interfaces that a node's tunnels use. Where tunnels need none
// (IPIP by the kernel's own device), or are attached in an older way, it is empty.
func programs(t testing.TB, ns testkit.NS) (all []program) {
	t.Helper()
	ns.Do(t, func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Name != "eth0" && !strings.HasPrefix(l.Name, "weft-") {
				continue
			}
			for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				there, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: at})
				if err != nil {
					continue // the device went meanwhile, or this kernel has no such hook
				}
				for _, p := range there.Programs {
					if found, ok := describe(p.ID); ok {
						found.device, found.index, found.attach = l.Name, l.Index, at
						all = append(all, found)
					}
				}
			}
		}
		return nil
	})
	return all
}

func describe(id ebpf.ProgramID) (program, bool) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return program{}, false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return program{}, false
	}
	maps, _ := info.MapIDs()
	return program{id: id, name: info.Name, maps: maps}, true
}

// keysOf reads the keys of a map.
func keysOf(id ebpf.MapID) (m *ebpf.Map, name string, keys [][]byte) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, "", nil
	}
	if info, err := m.Info(); err == nil {
		name = info.Name
	}
	if m.Type() != ebpf.LPMTrie && m.Type() != ebpf.Hash {
		return m, name, nil
	}
	var key, value []byte
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	return m, name, keys
}

// programState prints which programs are where, and what their tables hold.
func programState(t testing.TB, ns testkit.NS) string {
	t.Helper()
	var lines []string
	for _, p := range programs(t, ns) {
		lines = append(lines, fmt.Sprintf("program %s at %v of %s", p.name, p.attach, p.device))
		for _, id := range p.maps {
			m, name, keys := keysOf(id)
			if m == nil {
				continue
			}
			_ = m.Close()
			for _, k := range keys {
				lines = append(lines, fmt.Sprintf("map %s has %x", name, k))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// detachOne takes a program from where it is attached.
func (s *saboteur) detachOne() string {
	all := programs(s.t, s.ns)
	if len(all) == 0 {
		return ""
	}
	victim := one(s, all)
	s.ns.Do(s.t, func() error {
		p, err := ebpf.NewProgramFromID(victim.id)
		if err != nil {
			return err
		}
		defer p.Close()
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: victim.index, Program: p, Attach: victim.attach})
	})
	return "detach " + victim.name + " from " + victim.device
}

// empty deletes one entry, or all, of a table of a program.
func (s *saboteur) empty(all bool) string {
	var ids []ebpf.MapID
	for _, p := range programs(s.t, s.ns) {
		ids = append(ids, p.maps...)
	}
	s.rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids {
		m, name, keys := keysOf(id)
		if m == nil {
			continue
		}
		defer m.Close()
		if len(keys) == 0 {
			continue
		}
		if !all {
			keys = [][]byte{one(s, keys)}
		}
		for _, k := range keys {
			if err := m.Delete(k); err != nil {
				s.t.Fatalf("delete %x of map %s: %v", k, name, err)
			}
		}
		return fmt.Sprintf("delete %d entries of map %s", len(keys), name)
	}
	return ""
}
