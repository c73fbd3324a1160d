package compare

import (
	"fmt"
	"io"
	"text/tabwriter"

	"weft/bench/result"
)

// Print writes the report as a table, what failed first.
func (r Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tOLD\tNEW\tCHANGE\tNOISE\tMEASURED")
	for _, failed := range []bool{true, false} {
		for _, row := range r.Rows {
			if failed == (row.Verdict == Worse || row.Verdict == Gone) {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Verdict, row.Old, row.New, row.change(), percent(row.Noise, false), row.Key)
			}
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	unclear := 0
	for _, row := range r.Rows {
		if row.Verdict == Unclear {
			unclear++
		}
	}
	if unclear > 0 {
		fmt.Fprintf(w, "%d ratios would count as worse, were the runs not so noisy: repeat them on a quieter machine\n", unclear)
	}
	if r.Ignored > 0 {
		fmt.Fprintf(w, "%d ratios do not say which way is good, and are not judged\n", r.Ignored)
	}
	_, err := fmt.Fprintln(w, "Medians, with their interval at 95 % and the number of rounds; a change counts when the intervals do not meet and it exceeds the noise.")
	return err
}

// String gives the median with its interval and the number of values.
func (m Median) String() string {
	if m.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f [%.3f, %.3f] n=%d", m.Value, m.Low, m.High, m.N)
}

func (r Row) change() string {
	if r.Old.N == 0 || r.New.N == 0 {
		return "-"
	}
	c := r.Change
	if r.Key.Better == result.Less {
		c = -c // as the value moved
	}
	return percent(c, true)
}

func percent(share float64, sign bool) string {
	if sign {
		return fmt.Sprintf("%+.1f %%", 100*share)
	}
	return fmt.Sprintf("%.1f %%", 100*share)
}
