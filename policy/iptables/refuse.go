package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"weft/model"
	"weft/policy"
)

// maxRefusals bounds how often one Apply tries again without the rules that were refused.
const maxRefusals = 8

// refusals are what iptables, ipset or the kernel refuses, with the reason. What a refused rule would allow
// is not allowed; what it would deny or pass over is dropped, with all else that gets there. A rule that
// asks about a refused set is refused with it. All others go in.
type refusals struct {
	lines map[key]map[string]string // of policies' chains
	sets  map[string]string         // by name; tried again with other members
}

func newRefusals() refusals {
	return refusals{lines: map[key]map[string]string{}, sets: map[string]string{}}
}

// instead is what is written for a line.
func (r *refusals) instead(k key, line string) string {
	if r == nil || r.lines[k][line] == "" && !r.asks(line) {
		return line
	}
	note := comment("refused by the kernel")
	if strings.HasSuffix(line, "-j DROP") || strings.HasSuffix(line, "-g "+chainPass) {
		return note + " -j DROP"
	}
	return note
}

// asks tells whether a line asks about a refused set.
func (r *refusals) asks(line string) bool {
	if len(r.sets) == 0 {
		return false
	}
	for _, after := range strings.Split(line, "--match-set ")[1:] {
		name, _, _ := strings.Cut(after, " ")
		if _, refused := r.sets[name]; refused {
			return true
		}
	}
	return false
}

// touched forgets the refused sets that a change is about, and tells whether there are any.
func (r *refusals) touched(d *policy.Delta) bool {
	before := len(r.sets)
	for i := range d.Members {
		delete(r.sets, setName(d.Members[i].Set))
	}
	for _, id := range d.SetsRemoved {
		delete(r.sets, setName(id))
	}
	return len(r.sets) < before
}

// refuse takes note of the sets and lines that an error blames. It tells whether there are new ones.
func (d *Driver) refuse(p *policy.Program, err error) (found bool) {
	var failed *setsError
	if errors.As(err, &failed) {
		wanted := setsOf(p, render(p))
		for _, n := range linesOf(failed.said) {
			name := failed.set(n)
			if what := wanted[name]; what != "" && d.refused.sets[name] == "" {
				d.refused.sets[name] = failed.said
				d.log.Error("the kernel refuses a policy's set", "name", name, "set", what, "why", failed.said)
				found = true
			}
		}
	}
	for _, e := range restoreErrors(err) {
		for _, n := range linesOf(e.said) {
			k, line, ok := e.rule(n)
			if !ok || d.refused.lines[k][line] != "" {
				continue
			}
			if d.refused.lines[k] == nil {
				d.refused.lines[k] = map[string]string{}
			}
			d.refused.lines[k][line] = e.said
			d.log.Error("the kernel refuses a policy's rule", "family", k.family.String(), "rule", line, "why", e.said)
			found = true
		}
	}
	return found
}

// setsOf says what each set of a Program is, by name.
func setsOf(p *policy.Program, r *rules) map[string]string {
	names := map[string]string{}
	for id := range p.Sets {
		if !id.Staged {
			names[setName(id)] = id.String()
		}
	}
	for name, l := range r.lists {
		names[name] = fmt.Sprint(l.nets)
	}
	return names
}

// standing says what is refused of what is wanted now, and forgets the rest.
func (d *Driver) standing(p *policy.Program) error {
	var errs []error
	for _, p := range d.rules.parts {
		for k := range p.chains {
			for _, line := range p.chains[k] {
				if why := d.refused.lines[k][line]; why != "" {
					errs = append(errs, fmt.Errorf("%s, %s rule %q is refused, so that what it allows is not allowed and what it denies or passes over is dropped: %s", p.id, k.family, line, why))
				}
			}
		}
	}
	if len(errs) == 0 {
		clear(d.refused.lines)
	}
	if len(d.refused.sets) == 0 {
		return errors.Join(errs...)
	}
	wanted := setsOf(p, d.rules)
	for _, name := range sortedKeys(d.refused.sets) {
		if wanted[name] == "" {
			delete(d.refused.sets, name)
			continue
		}
		errs = append(errs, fmt.Errorf("%s: the set is refused, so that what rules with it allow is not allowed and what they deny or pass over is dropped: %s", wanted[name], d.refused.sets[name]))
	}
	return errors.Join(errs...)
}

// setsError is a failed change of sets.
type setsError struct{ *runError }

func (e *setsError) Error() string { return "program policy's sets: " + e.runError.Error() }

// set is the set that a line of the input, from 1, is about. What goes into the temporary one is for that
// which it takes the place of.
func (e *setsError) set(n int) string {
	lines := strings.Split(string(e.input), "\n")
	for _, line := range lines[min(n, len(lines))-1:] {
		w := strings.Fields(line)
		switch {
		case len(w) >= 2 && w[1] != temporary:
			return w[1]
		case len(w) >= 3 && w[0] == "swap":
			return w[2]
		}
	}
	return ""
}

// restoreError is a restore of one family that failed.
type restoreError struct {
	*runError
	family model.Family
}

func (e *restoreError) Error() string {
	return fmt.Sprintf("program %s policy: %v", e.family, e.runError)
}

func restoreErrors(err error) (list []*restoreError) {
	switch e := err.(type) {
	case nil:
	case *restoreError:
		list = append(list, e)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			list = append(list, restoreErrors(inner)...)
		}
	default:
		list = restoreErrors(errors.Unwrap(err))
	}
	return list
}

// rule finds the rule of a policy's chain in a line of the input, from 1.
func (e *restoreError) rule(n int) (k key, line string, ok bool) {
	table := ""
	for i, l := range bytes.Split(e.input, []byte("\n")) {
		text := string(l)
		if strings.HasPrefix(text, "*") {
			table = text[1:]
		}
		if i != n-1 {
			continue
		}
		chain, rule, isRule := strings.Cut(strings.TrimPrefix(text, "-A "), " ")
		return key{e.family, table, chain}, rule, isRule && strings.HasPrefix(text, "-A "+prefix+"p-")
	}
	return key{}, "", false
}

// linesOf finds the numbers in "iptables-restore: line 12 failed", "Error occurred at line: 12" and
// ipset's "Error in line 12: ...".
func linesOf(said string) (numbers []int) {
	for _, after := range strings.Split(said, "line")[1:] {
		digits, _, _ := strings.Cut(strings.TrimLeft(after, ": "), " ")
		digits, _, _ = strings.Cut(strings.TrimRight(digits, ":."), "\n")
		if n, err := strconv.Atoi(strings.TrimRight(digits, ":.")); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
