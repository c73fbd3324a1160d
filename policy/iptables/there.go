package iptables

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"weft/model"
	"weft/policy"
)

// found is what of ours a family's tables hold, as the save command prints it.
type found struct {
	chains map[key]*foundChain
	hooks  map[[2]string]*foundHook // by table and built-in chain
}

type foundChain struct {
	rules int
	sum   uint64 // of the rules' text
}

// foundHook is a built-in chain with jumps to us.
type foundHook struct {
	rules []string // without "-A CHAIN "
	first bool     // the first of all is one
}

// hooked tells whether packets reach a chain of ours by the built-in one.
func (f *found) hooked(table, builtin string) bool {
	h := f.hooks[[2]string{table, builtin}]
	return h != nil && len(h.rules) > 0
}

// right tells whether a hook is as it must be: one jump to the chain, before all else; or none.
func (h *foundHook) right(chain string, wanted bool) bool {
	if h == nil || len(h.rules) == 0 {
		return !wanted
	}
	return wanted && len(h.rules) == 1 && h.first && h.rules[0] == "-j "+chain
}

// read finds what of ours is in a family's tables.
func (d *Driver) read(ctx context.Context, b Backend, f model.Family) (*found, error) {
	out := &found{chains: map[key]*foundChain{}, hooks: map[[2]string]*foundHook{}}
	tables := tableOrder
	if !present(f) {
		return out, nil
	}
	if b == Legacy {
		// Asking for a table makes it, and with it work for every packet.
		var err error
		if tables, err = d.legacyTables(f); err != nil {
			return nil, err
		}
	}
	for _, t := range tables {
		text, err := d.run.run(ctx, nil, d.tools.save[b][f], "-t", t)
		if err != nil {
			return nil, err
		}
		out.parse(text, f, t)
	}
	return out, nil
}

// legacyTables lists which of the tables that we use are there.
func (d *Driver) legacyTables(f model.Family) ([]string, error) {
	path := "/proc/thread-self/net/ip_tables_names"
	if f == model.IPv6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	var text []byte
	err := d.run.in(func() (err error) {
		text, err = os.ReadFile(path)
		return err
	})
	if os.IsNotExist(err) { // the kernel has no ip_tables, or nobody asked for it yet
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of legacy iptables: %w", err)
	}
	names := strings.Fields(string(text))
	return slices.DeleteFunc(slices.Clone(tableOrder), func(t string) bool { return !slices.Contains(names, t) }), nil
}

func (o *found) parse(text []byte, f model.Family, table string) {
	seen := map[string]bool{}            // built-in chains with a rule
	for raw := range bytes.Lines(text) { // of any length
		line := strings.TrimSuffix(string(raw), "\n")
		if name, ok := strings.CutPrefix(line, ":"); ok {
			if name, _, _ = strings.Cut(name, " "); strings.HasPrefix(name, prefix) {
				o.chains[key{f, table, name}] = &foundChain{}
			}
			continue
		}
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		chain, rule, _ := strings.Cut(rest, " ")
		if c := o.chains[key{f, table, chain}]; c != nil {
			c.rules++
			h := fnv.New64a()
			h.Write([]byte(strconv.FormatUint(c.sum, 16) + rule))
			c.sum = h.Sum64()
			continue
		}
		if hookable(table, chain) && leadsToUs(rule) {
			h := o.hooks[[2]string{table, chain}]
			if h == nil {
				h = &foundHook{first: !seen[chain]}
				o.hooks[[2]string{table, chain}] = h
			}
			h.rules = append(h.rules, rule)
		}
		seen[chain] = true
	}
}

// hookable tells whether a built-in chain is one of those that we are in.
func hookable(table, chain string) bool {
	for _, h := range hooks {
		if h.table == table && h.builtin == chain {
			return true
		}
	}
	return false
}

// leadsToUs tells whether a rule's target is a chain of ours; the target is what is printed last.
func leadsToUs(rule string) bool {
	w := strings.Fields(rule)
	n := len(w)
	return n >= 2 && (w[n-2] == "-j" || w[n-2] == "-g") && strings.HasPrefix(w[n-1], prefix) && !strings.Contains(w[n-1], `"`)
}

// foundSet is an ipset of ours.
type foundSet struct {
	kind    string // "hash:net family inet"
	members map[string]bool
}

// readSets reads all sets of ours with their members.
func (d *Driver) readSets(ctx context.Context) (map[string]*foundSet, error) {
	text, err := d.run.run(ctx, nil, d.tools.ipset, "save")
	if err != nil {
		return nil, err
	}
	sets := map[string]*foundSet{}
	for line := range bytes.Lines(text) {
		w := strings.Fields(string(line))
		if len(w) < 3 || !strings.HasPrefix(w[1], prefix) {
			continue
		}
		switch w[0] {
		case "create":
			sets[w[1]] = &foundSet{kind: strings.Join(w[2:min(len(w), 5)], " "), members: map[string]bool{}}
		case "add":
			if set := sets[w[1]]; set != nil {
				set.members[element(w[2])] = true
			}
		}
	}
	return sets, nil
}

// element writes what ipset printed in the way that we do.
func element(text string) string {
	addr, port, withPort := strings.Cut(text, ",")
	if withPort {
		if a, err := netip.ParseAddr(addr); err == nil {
			return a.String() + "," + port
		}
		return text
	}
	if a, err := netip.ParseAddr(addr); err == nil {
		return a.String()
	}
	p, err := netip.ParsePrefix(addr)
	if err != nil {
		return text
	}
	return elements(false, policy.Member{Prefix: p})[0]
}

// othersRules counts the rules of a backend that are not ours.
func (d *Driver) othersRules(ctx context.Context, b Backend) (int, error) {
	n := 0
	for _, f := range families {
		if b == Legacy {
			tables, err := d.legacyTables(f)
			if err != nil || len(tables) == 0 {
				return n, err
			}
		}
		text, err := d.run.run(ctx, nil, d.tools.save[b][f])
		if err != nil {
			return n, err
		}
		for line := range bytes.Lines(text) {
			if bytes.HasPrefix(line, []byte("-A ")) && !bytes.Contains(line, []byte(" "+prefix)) {
				n++
			}
		}
	}
	return n, nil
}
