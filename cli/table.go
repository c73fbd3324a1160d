package cli

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// table lays out rows of cells as people know it from kubectl: columns as wide as their widest
// cell, three spaces between, no lines. Cells are cleaned here, so that no caller forgets.
type table struct {
	header []string
	rows   [][]string
	// least is what the columns are wide at least.
	least []int
	// indent is what every line begins with.
	indent string
	// width is the number of columns of the screen; 0 means unlimited. A line that would be longer
	// has its last cell broken into lines below each other.
	width int
	// paint colours a cell after it has been padded; nil leaves it plain.
	paint func(row, column int, text string) string
}

const columnGap = "   "

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	out := bufio.NewWriter(w)
	widths := t.widths()
	if t.header != nil {
		t.line(out, -1, t.header, widths)
	}
	for i, r := range t.rows {
		t.line(out, i, r, widths)
	}
	return out.Flush()
}

// widths returns the width of every column.
func (t *table) widths() []int {
	widths := append([]int(nil), t.least...)
	grow := func(cells []string) {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(clean(c)))
		}
	}
	grow(t.header)
	for _, r := range t.rows {
		grow(r)
	}
	return widths
}

func (t *table) line(out *bufio.Writer, row int, cells []string, widths []int) {
	var b strings.Builder
	used := utf8.RuneCountInString(t.indent)
	for i, c := range cells {
		c = clean(c)
		if i == len(cells)-1 {
			t.lastCell(&b, row, i, c, used)
			break
		}
		pad := max(widths[i]-utf8.RuneCountInString(c), 0)
		b.WriteString(t.painted(row, i, c) + strings.Repeat(" ", pad) + columnGap)
		used += widths[i] + len(columnGap)
	}
	for _, l := range strings.Split(b.String(), "\n") {
		_, _ = out.WriteString(strings.TrimRight(t.indent+l, " ") + "\n")
	}
}

// lastCell writes the last cell, broken below itself where the screen is too narrow.
func (t *table) lastCell(b *strings.Builder, row, column int, text string, used int) {
	room := t.width - used
	if t.width == 0 || utf8.RuneCountInString(text) <= room {
		b.WriteString(t.painted(row, column, text))
		return
	}
	pad := used - utf8.RuneCountInString(t.indent)
	// A cell that would become a ribbon goes to lines of its own, a little indented.
	if room < 24 {
		pad, room = 4, max(t.width-len(t.indent)-4, 24)
		b.WriteString("\n" + strings.Repeat(" ", pad))
	}
	for i, l := range fold(text, room) {
		if i > 0 {
			b.WriteString("\n" + strings.Repeat(" ", pad))
		}
		b.WriteString(t.painted(row, column, l))
	}
}

func (t *table) painted(row, column int, text string) string {
	if t.paint == nil {
		return text
	}
	return t.paint(row, column, text)
}

// fold breaks text into lines of at most width runes, at spaces where it can.
func fold(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for utf8.RuneCountInString(word) > width {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			r := []rune(word)
			lines, word = append(lines, string(r[:width])), string(r[width:])
		}
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" || lines == nil {
		lines = append(lines, line)
	}
	return lines
}
