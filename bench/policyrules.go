package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"weft/bench/compare"
	"weft/bench/result"
	"weft/bench/street"
)

// ruleKinds are what is done under each set of rules.
var ruleKinds = []struct {
	cost, count, title string
	do                 func(*street.Street, time.Duration) (street.Sample, error)
}{
	{"connection_cost", "connections", "a new TCP connection", (*street.Street).Connections},
	{"first_packet_cost", "first_packets", "a packet that all rules are asked about", func(s *street.Street, d time.Duration) (street.Sample, error) { return s.Packets(false, d) }},
	{"later_packet_cost", "later_packets", "a packet of an established flow", func(s *street.Street, d time.Duration) (street.Sample, error) { return s.Packets(true, d) }},
}

const again = "0 policies, again" // the control

// ruleSpecs are measured in turns; the first is the reference, the second the control.
var ruleSpecs = []street.Spec{
	{}, {}, {Bare: true}, {Policies: 10}, {Policies: 100}, {Policies: 1000}, {Others: 1000},
	{Members: 10}, {Members: 1000}, {Members: 100_000},
}

func ruleSetting(i int) string {
	if i == 1 {
		return again
	}
	return ruleSpecs[i].String()
}

// rules measures what rules cost packets by a backend.
func (p *Policy) rules(ctx context.Context, backend string, pace *pace) error {
	pace.say("%s: making %d nodes with different rules", backend, len(ruleSpecs))
	var streets []*street.Street
	defer func() {
		for _, s := range streets {
			s.Close()
		}
	}()
	for _, spec := range ruleSpecs {
		s, err := street.New(ctx, backend, spec)
		if err != nil {
			return err
		}
		streets = append(streets, s)
	}
	order := make([]int, len(streets))
	for i := range order {
		order[i] = i
	}
	pace.begin(p.Rounds*len(streets), time.Duration(p.Rounds*len(streets)*len(ruleKinds))*p.Time)
	for round := 1; round <= p.Rounds; round++ {
		samples := make([][]street.Sample, len(streets))
		for _, i := range order {
			pace.step(fmt.Sprintf("%s, round %d, %s", backend, round, ruleSetting(i)))
			for _, kind := range ruleKinds {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				got, err := kind.do(streets[i], p.Time)
				if err != nil {
					return fmt.Errorf("%s, %s: %s: %w", backend, ruleSetting(i), kind.title, err)
				}
				samples[i] = append(samples[i], got)
			}
		}
		if err := p.addRules(backend, round, samples); err != nil {
			return err
		}
		slices.Reverse(order) // so that a load that grows or shrinks favours none
	}
	return nil
}

// addRules writes one round: samples of each of ruleSpecs and of each of ruleKinds.
func (p *Policy) addRules(backend string, round int, samples [][]street.Sample) error {
	for i, row := range samples {
		for k, kind := range ruleKinds {
			each, reference := row[k].Each().Seconds(), samples[0][k].Each().Seconds()
			records := []result.Record{{Metric: kind.cost, Unit: result.Seconds, Value: each}, count(kind.count, row[k].N)}
			if k == 0 {
				records = append(records, result.Record{Metric: "connection_rate", Unit: result.PerSecond, Value: float64(row[k].N) / row[k].Clock.Seconds()})
			}
			switch {
			case i == 0 || reference == 0:
			case i == 1:
				records = append(records, control(kind.cost+"_of_none", each, reference))
			default:
				records = append(records, lessIsBetter(kind.cost+"_of_none", each, reference))
			}
			if err := p.sheet.add(backend, ruleSetting(i), round, records...); err != nil {
				return err
			}
		}
	}
	return nil
}

// printRules prints a backend's table, if anything was measured.
func printRules(w io.Writer, sheet *sheet, backend string) {
	if len(sheet.values(backend, ruleSetting(0), ruleKinds[0].cost)) == 0 {
		return
	}
	t := newTable(w, "rules, by "+backend, "connections/s", "connection", "first packet", "later packet")
	for i := range ruleSpecs {
		row := table.Row{ruleSetting(i)}
		if rates := sheet.values(backend, ruleSetting(i), "connection_rate"); len(rates) > 0 {
			row = append(row, fmt.Sprintf("%.0f", median(rates)))
		}
		for _, kind := range ruleKinds {
			cell, ratios := "-", sheet.values(backend, ruleSetting(i), kind.cost+"_of_none")
			if i == 1 {
				ratios = sheet.controls(backend, kind.cost+"_of_none")
			}
			if i == 0 {
				cell = fmt.Sprintf("%.2f µs", 1e6*median(sheet.values(backend, ruleSetting(0), kind.cost)))
			} else if len(ratios) > 0 {
				m := compare.MedianOf(ratios)
				cell = fmt.Sprintf("%.2f (%.2f to %.2f)", m.Value, m.Low, m.High)
			}
			row = append(row, cell)
		}
		t.AppendRow(row)
	}
	t.Render()
}
