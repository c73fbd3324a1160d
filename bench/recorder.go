package bench

import (
	"io"
	"time"

	"weft/bench/result"
)

// add gives records what they were measured under, and writes them.
func (s *sheet) add(way, setting string, round int, records ...result.Record) error {
	for _, r := range records {
		r.Way, r.Round = way, round
		if r.Setting == "" {
			r.Setting = setting
		}
		if err := s.write(r); err != nil {
			return err
		}
	}
	return nil
}

// values are those of a metric, in the order in which they were measured; of a ratio not its control's.
func (s *sheet) values(way, setting, metric string) []float64 {
	var out []float64
	for _, r := range s.records {
		if r.Way == way && r.Setting == setting && r.Metric == metric && !r.Control {
			out = append(out, r.Value)
		}
	}
	return out
}

// controls are the ratios of a metric's reference to itself.
func (s *sheet) controls(way, metric string) []float64 {
	var out []float64
	for _, r := range s.records {
		if r.Way == way && r.Metric == metric && r.Control {
			out = append(out, r.Value)
		}
	}
	return out
}

// tables is where people's tables go: nowhere where the figures are asked for as JSON.
func (s *sheet) tables(out io.Writer) io.Writer {
	if s.output == "json" {
		return io.Discard
	}
	return out
}

func seconds(metric string, d time.Duration) result.Record {
	return result.Record{Metric: metric, Unit: result.Seconds, Value: d.Seconds()}
}

func count(metric string, n int) result.Record {
	return result.Record{Metric: metric, Unit: result.Count, Value: float64(n)}
}

// lessIsBetter is a ratio to a reference that was measured beside it.
func lessIsBetter(metric string, value, reference float64) result.Record {
	return result.Record{Metric: metric, Unit: result.Ratio, Better: result.Less, Value: value / reference}
}

// control is the ratio of a reference to itself, measured again.
func control(metric string, again, reference float64) result.Record {
	return result.Record{Metric: metric, Unit: result.Ratio, Control: true, Setting: "the reference to itself", Value: again / reference}
}

// pace tells how far a command is, and about how long it still takes.
type pace struct {
	*progress
	began     time.Time
	done, all int
	left      time.Duration // of what has not begun, as planned
}

// begin says how many steps are to come now, and about how long all of them take.
func (p *pace) begin(steps int, takes time.Duration) {
	p.began, p.done, p.all, p.left = time.Now(), 0, steps, takes
}

// step tells that the next step is now.
func (p *pace) step(now string) {
	left := p.left
	if p.done > 0 {
		left = time.Since(p.began) / time.Duration(p.done) * time.Duration(p.all-p.done)
	}
	p.show(p.done, p.all, now, left)
	p.done++
}
