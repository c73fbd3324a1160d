package cli

import (
	"fmt"
	"io"
	"strings"

	"weft/node/flows"
)

// print tells people the verdict of each family and how it came about.
func (a *whyAnswer) print(out, notes io.Writer) error {
	for _, p := range a.Problems {
		fmt.Fprintf(notes, "weft: warning: %s\n", oneLine(p))
	}
	var b strings.Builder
	for i := range a.Verdicts {
		v := &a.Verdicts[i]
		fmt.Fprintf(&b, "%s, %s to %s, %s: %s\n", v.Family, end(a.Source, v.Source.String()), end(a.Destination, v.Destination.String()), a.Protocol, verdict(v.Allowed))
		printSteps(&b, v.Steps)
		if v.Staged != nil {
			fmt.Fprintf(&b, "  with staged policies enforced: %s\n", verdict(v.Staged.Allowed))
			printSteps(&b, v.Staged.Steps)
		}
	}
	_, err := io.WriteString(out, cleanLines(b.String()))
	return err
}

func end(e whyEnd, address string) string {
	if e.Node == "" {
		return address
	}
	return e.String() + " (" + address + ")"
}

func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func printSteps(b *strings.Builder, steps []whyStep) {
	if len(steps) == 0 {
		b.WriteString("  no policy is about it\n")
	}
	for _, s := range steps {
		fmt.Fprintf(b, "  %s, %s: ", clean(s.Node), clean(s.At))
		if s.Tier != "" {
			fmt.Fprintf(b, "tier %s, ", clean(s.Tier))
		}
		if s.Rule == nil {
			fmt.Fprintf(b, "%s: %s\n", clean(s.Text), s.Action)
			for _, p := range s.Asked {
				fmt.Fprintf(b, "    asked in vain: %s\n", clean(p))
			}
			printCounters(b, s.Counters, " at the end of this tier, of all pods together")
			continue
		}
		fmt.Fprintf(b, "%s, rule %d: %s", clean(s.Policy), *s.Rule, s.Action)
		if s.Staged {
			b.WriteString(", staged")
		}
		b.WriteString("\n")
		if s.Selector != "" {
			fmt.Fprintf(b, "    selects %s\n", clean(s.Selector))
		}
		fmt.Fprintf(b, "    rule    %s\n", clean(s.Asks))
		for _, id := range s.Sets {
			fmt.Fprintf(b, "    found in %s\n", clean(id))
		}
		together := ""
		if s.Counters != nil && len(s.Counters.Rules) > 1 {
			together = fmt.Sprintf(", with %d other rules", len(s.Counters.Rules)-1)
		}
		printCounters(b, s.Counters, together)
	}
}

func printCounters(b *strings.Builder, c *flows.Counter, of string) {
	if c != nil {
		fmt.Fprintf(b, "    counted %d packets, %d bytes%s\n", c.Packets, c.Bytes, of)
	}
}
