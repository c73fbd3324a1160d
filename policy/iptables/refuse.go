package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"weft/model"
)

// maxRefusals bounds how often one Apply tries again without the rules that were refused.
const maxRefusals = 8

// refusals are lines of policies' chains that iptables or the kernel refuses, with the reason. What such
// a rule would allow is not allowed; what it would deny or pass over is dropped, with all else that
// gets there. All other rules go in.
type refusals map[key]map[string]string

// instead is what is written for a line.
func (r refusals) instead(k key, line string) string {
	if _, refused := r[k][line]; !refused {
		return line
	}
	note := comment("refused by the kernel")
	if strings.HasSuffix(line, "-j DROP") || strings.HasSuffix(line, "-g "+chainPass) {
		return note + " -j DROP"
	}
	return note
}

// refuse takes note of the lines that an error blames. It tells whether there are new ones.
func (d *Driver) refuse(err error) (found bool) {
	for _, e := range restoreErrors(err) {
		for _, n := range linesOf(e.said) {
			k, line, ok := e.rule(n)
			if !ok || d.refused[k][line] != "" {
				continue
			}
			if d.refused[k] == nil {
				d.refused[k] = map[string]string{}
			}
			d.refused[k][line] = e.said
			d.log.Error("the kernel refuses a policy's rule", "family", k.family.String(), "rule", line, "why", e.said)
			found = true
		}
	}
	return found
}

// standing says what is refused of what is wanted now, and forgets the rest.
func (d *Driver) standing() error {
	var errs []error
	for _, p := range d.rules.parts {
		for k := range p.chains {
			for _, line := range p.chains[k] {
				if why := d.refused[k][line]; why != "" {
					errs = append(errs, fmt.Errorf("%s, %s rule %q is refused, so that what it allows is not allowed and what it denies or passes over is dropped: %s", p.id, k.family, line, why))
				}
			}
		}
	}
	if len(errs) == 0 {
		clear(d.refused)
	}
	return errors.Join(errs...)
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
