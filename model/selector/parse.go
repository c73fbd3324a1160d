package selector

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Error says where a selector stopped making sense. It is what Parse returns.
type Error struct {
	Source  string // the selector; cut when long
	Column  int    // of the offending text, in bytes, the first is 1
	Found   string // what stands there
	Allowed string // what could stand there
}

// Error prints "selector "a = 'b'": column 3: found "=", want ==, !=, in, ...".
func (e *Error) Error() string {
	return fmt.Sprintf("selector %s: column %d: found %s, want %s", excerpt(e.Source, 80), e.Column, e.Found, e.Allowed)
}

// Parse reads a selector. An empty one, or white space, is all(). The error is an *Error.
func Parse(s string) (*Selector, error) {
	p := parser{src: s}
	if len(s) > MaxLength {
		return nil, p.fail(MaxLength, fmt.Sprintf("%d bytes", len(s)), fmt.Sprintf("at most %d bytes", MaxLength))
	}
	p.space()
	if p.end() {
		return &Selector{}, nil
	}
	root, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if !p.end() {
		return nil, p.unexpected("&&, || or the end")
	}
	if p.global > 0 && root.op != opGlobal {
		return nil, p.fail(p.global-1, "global() within an expression", "global() alone, or another term")
	}
	return &Selector{root}, nil
}

// parser walks src; pos is at a token or the end whenever a method begins or returns.
type parser struct {
	src    string
	pos    int
	global int // 1 + offset of the first global() seen
}

const wantTerm = "a label name, has(label), all(), global(), ! or ("

func (p *parser) or(depth int) (node, error)  { return p.list(depth, opOr, "||", (*parser).and) }
func (p *parser) and(depth int) (node, error) { return p.list(depth, opAnd, "&&", (*parser).unary) }

// list reads operands joined by one operator, and flattens operands that are of the same one.
func (p *parser) list(depth int, o op, sign string, operand func(*parser, int) (node, error)) (node, error) {
	var kids []node
	for {
		n, err := operand(p, depth)
		if err != nil {
			return node{}, err
		}
		if n.op == o {
			kids = append(kids, n.kids...)
		} else {
			kids = append(kids, n)
		}
		if !p.take(sign) {
			break
		}
	}
	if len(kids) == 1 {
		return kids[0], nil
	}
	return node{op: o, kids: kids}, nil
}

func (p *parser) unary(depth int) (node, error) {
	negated, at := false, p.pos
	for p.take("!") {
		negated = !negated
	}
	n, err := p.term(depth)
	if err != nil || !negated {
		return n, err
	}
	if depth == MaxDepth && n.comparison() { // its canonical form has parentheses
		return node{}, p.fail(at, "! of a comparison", fmt.Sprintf("at most %d nested parentheses", MaxDepth))
	}
	if n.op == opNot {
		return n.kids[0], nil
	}
	return node{op: opNot, kids: []node{n}}, nil
}

func (p *parser) term(depth int) (node, error) {
	at := p.pos
	if p.take("(") {
		if depth == MaxDepth {
			return node{}, p.fail(at, "(", fmt.Sprintf("at most %d nested parentheses", MaxDepth))
		}
		n, err := p.or(depth + 1)
		if err != nil {
			return node{}, err
		}
		return n, p.expect(")", "&&, || or )")
	}
	word := p.word()
	if word == "" {
		return node{}, p.unexpected(wantTerm)
	}
	if p.take("(") {
		return p.call(word, at)
	}
	if len(word) > MaxLabelLength {
		return node{}, p.tooLong(at, word)
	}
	return p.comparison(word)
}

func (p *parser) tooLong(at int, label string) error {
	return p.fail(at, fmt.Sprintf("a label name of %d bytes", len(label)), fmt.Sprintf("at most %d", MaxLabelLength))
}

// call reads the rest of a function after its opening parenthesis.
func (p *parser) call(name string, at int) (node, error) {
	switch name {
	case "all":
		return node{op: opAll}, p.expect(")", ") of all()")
	case "global":
		if p.global == 0 {
			p.global = at + 1
		}
		return node{op: opGlobal}, p.expect(")", ") of global()")
	case "has":
		labelAt := p.pos
		label := p.word()
		if label == "" {
			return node{}, p.unexpected("a label name")
		}
		if len(label) > MaxLabelLength {
			return node{}, p.tooLong(labelAt, label)
		}
		return node{op: opHas, label: label}, p.expect(")", ") of has(label)")
	}
	return node{}, p.fail(at, excerpt(name+"(", 40), "has(label), all() or global()")
}

const wantOperator = "==, !=, in, not in, contains, starts with or ends with"

func (p *parser) comparison(label string) (node, error) {
	if p.take("==") {
		return p.withString(node{op: opEqual, label: label})
	}
	if p.take("!=") {
		return p.withString(node{op: opNotEqual, label: label})
	}
	at := p.pos
	switch p.word() {
	case "in":
		return p.withSet(node{op: opIn, label: label})
	case "notin":
		return p.withSet(node{op: opNotIn, label: label})
	case "contains":
		return p.withString(node{op: opContains, label: label})
	case "startswith":
		return p.withString(node{op: opStartsWith, label: label})
	case "endswith":
		return p.withString(node{op: opEndsWith, label: label})
	case "not":
		return p.second("in", node{op: opNotIn, label: label})
	case "starts":
		return p.second("with", node{op: opStartsWith, label: label})
	case "ends":
		return p.second("with", node{op: opEndsWith, label: label})
	}
	p.pos = at
	return node{}, p.unexpected(wantOperator)
}

// second reads the second word of an operator, and what follows it.
func (p *parser) second(word string, n node) (node, error) {
	at := p.pos
	if p.word() != word {
		p.pos = at
		return node{}, p.unexpected(strconv.Quote(word))
	}
	if n.op == opNotIn {
		return p.withSet(n)
	}
	return p.withString(n)
}

func (p *parser) withString(n node) (node, error) {
	v, err := p.literal("a quoted string")
	n.value = v
	return n, err
}

func (p *parser) withSet(n node) (node, error) {
	if err := p.expect("{", "{ and quoted strings"); err != nil {
		return node{}, err
	}
	if p.take("}") {
		return n, nil
	}
	for {
		v, err := p.literal("a quoted string")
		if err != nil {
			return node{}, err
		}
		n.values = append(n.values, v)
		if p.take(",") {
			continue
		}
		slices.Sort(n.values)
		n.values = slices.Compact(n.values)
		return n, p.expect("}", ", or }")
	}
}

func (p *parser) literal(want string) (string, error) {
	if p.end() || p.src[p.pos] != '\'' && p.src[p.pos] != '"' {
		return "", p.unexpected(want)
	}
	quote := p.src[p.pos]
	v, _, closed := strings.Cut(p.src[p.pos+1:], string(rune(quote)))
	if !closed {
		return "", p.fail(p.pos, "a string without its end", "a closing "+string(rune(quote)))
	}
	p.pos += len(v) + 2
	p.space()
	return v, nil
}

// word takes the longest run of label characters, perhaps none.
func (p *parser) word() string {
	start := p.pos
	for !p.end() && labelChar(p.src[p.pos]) {
		p.pos++
	}
	w := p.src[start:p.pos]
	p.space()
	return w
}

func labelChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

func (p *parser) take(token string) bool {
	rest := p.src[p.pos:]
	if !strings.HasPrefix(rest, token) || token == "!" && strings.HasPrefix(rest, "!=") {
		return false
	}
	p.pos += len(token)
	p.space()
	return true
}

func (p *parser) expect(token, want string) error {
	if p.take(token) {
		return nil
	}
	return p.unexpected(want)
}

func (p *parser) space() {
	for !p.end() && strings.IndexByte(" \t\r\n", p.src[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *parser) end() bool { return p.pos >= len(p.src) }

// unexpected describes what stands at pos.
func (p *parser) unexpected(want string) error {
	if p.end() {
		return p.fail(p.pos, "the end", want)
	}
	end := p.pos
	for end < len(p.src) && labelChar(p.src[end]) {
		end++
	}
	if end == p.pos { // an operator or something foreign: up to what could start a token
		for end < len(p.src) && !labelChar(p.src[end]) && strings.IndexByte(" \t\r\n'\"", p.src[end]) < 0 {
			end++
		}
	}
	if end == p.pos {
		end++
	}
	return p.fail(p.pos, excerpt(p.src[p.pos:end], 40), want)
}

func (p *parser) fail(at int, found, want string) error {
	return &Error{Source: p.src, Column: at + 1, Found: found, Allowed: want}
}

// excerpt quotes s, cut to about limit bytes: control characters never reach a terminal.
func excerpt(s string, limit int) string {
	if len(s) > limit {
		return strconv.Quote(s[:limit]) + "…"
	}
	return strconv.Quote(s)
}
