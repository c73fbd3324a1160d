package iptables

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// tableOrder is the order of a restore file's tables: those that a packet meets first come first.
var tableOrder = []string{raw, mangle, filter}

// change is what one family's tables are told. It prints as the input of iptables-restore.
type change struct {
	family model.Family
	chains map[key][]string // wanted
	// touched chains are written if they are wanted, else removed.
	touched map[key]bool
	// hooked are the jumps to us that are there, by table and built-in chain, when a hook is not as
	// it must be: they are removed, and one is put in the first place if the hook is wanted.
	hooked  map[[2]string][]string
	refused *refusals
}

// text returns the input of iptables-restore --noflush: each table is one transaction. Empty when
// nothing changes.
func (c *change) text() string {
	var b strings.Builder
	for _, t := range tableOrder {
		c.table(&b, t)
	}
	return b.String()
}

func (c *change) table(b *strings.Builder, table string) {
	var write, remove []key
	for k := range c.touched {
		if k.family != c.family || k.table != table {
			continue
		}
		if _, wanted := c.chains[k]; wanted {
			write = append(write, k)
		} else {
			remove = append(remove, k)
		}
	}
	jumps := c.jumps(table)
	if len(write)+len(remove)+len(jumps) == 0 {
		return
	}
	byName := func(a, b key) int { return cmp.Compare(a.chain, b.chain) }
	slices.SortFunc(write, byName)
	slices.SortFunc(remove, byName)
	b.WriteString("*" + table + "\n")
	for _, k := range slices.Concat(write, remove) { // makes or empties them
		b.WriteString(":" + k.chain + " - [0:0]\n")
	}
	for _, k := range write {
		for _, rule := range c.chains[k] {
			b.WriteString("-A " + k.chain + " " + c.refused.instead(k, rule) + "\n")
		}
	}
	for _, j := range jumps {
		b.WriteString(j + "\n")
	}
	for _, k := range remove {
		b.WriteString("-X " + k.chain + "\n")
	}
	b.WriteString("COMMIT\n")
}

// jumps are the commands that repair a table's hooks.
func (c *change) jumps(table string) []string {
	var lines []string
	for at, rules := range c.hooked {
		if at[0] != table {
			continue
		}
		for _, rule := range rules {
			lines = append(lines, "-D "+at[1]+" "+rule)
		}
	}
	slices.Sort(lines)
	for _, h := range hooks {
		_, wrong := c.hooked[[2]string{table, h.builtin}]
		_, wanted := c.chains[key{c.family, table, h.chain}]
		if h.table == table && wrong && wanted {
			lines = append(lines, "-I "+h.builtin+" 1 -j "+h.chain)
		}
	}
	return lines
}
