package report

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"weft/bench/result"
)

// Picture is one that records are drawn as.
type Picture struct {
	Name, Title string
	SVG         func(io.Writer) error
}

const (
	pictureMTU    = "mtu"
	pictureRatios = "ratios"
	pictureTimes  = "times"
	// mostRows is how many rows a picture has at most: with more nobody reads them.
	mostRows = 60
)

// Pictures returns what can be drawn of records.
func Pictures(records []result.Record) []Picture {
	var out []Picture
	if s := Summarise(of(records, "mtu")); len(s.Encapsulations(Throughput)) > 0 {
		out = append(out, Picture{pictureMTU, "throughput, processor time and latency by MTU", func(w io.Writer) error { return s.SVG(w, s.Recommend()) }})
	}
	var ratios, times []Group
	for _, g := range Groups(records) {
		switch {
		case g.Key.Experiment == Suite || g.Key.Experiment == "mtu":
		case g.Key.Unit == result.Ratio:
			ratios = append(ratios, g)
		case g.Key.Unit == result.Seconds && spread(g.Values).Low > 0:
			times = append(times, g)
		}
	}
	if len(ratios) > 0 {
		out = append(out, Picture{pictureRatios, "ratios to what is measured beside", func(w io.Writer) error { return rows(w, ratios, "ratio", false) }})
	}
	if len(times) > 0 {
		out = append(out, Picture{pictureTimes, "times", func(w io.Writer) error { return rows(w, times, "seconds", true) }})
	}
	return out
}

// spans are medians at the heights of their rows, with the range of each.
type spans struct {
	plotter.XYs
	plotter.XErrors
}

// rows draws one group a row, the first at the top.
func rows(w io.Writer, groups []Group, unit string, logarithmic bool) error {
	groups = groups[:min(len(groups), mostRows)]
	p := newPlot("", unit, "")
	var of, controls spans
	names := make([]string, len(groups))
	low, high := math.Inf(1), 0.0
	for i, g := range groups {
		y := len(groups) - 1 - i
		names[y] = g.Key.String()
		s := g.Spread()
		at := &of
		if g.Key.Control {
			at = &controls
		}
		at.XYs = append(at.XYs, plotter.XY{X: s.Median, Y: float64(y)})
		at.XErrors = append(at.XErrors, struct{ Low, High float64 }{s.Median - s.Low, s.High - s.Median})
		low, high = min(low, s.Low), max(high, s.High)
	}
	for i, s := range []spans{of, controls} {
		if err := dots(p, s, []color.Color{colours["vxlan"], colours["none"]}[i]); err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	p.NominalY(names...)
	p.Y.Tick.Label.Font = font.From(p.Y.Tick.Label.Font, vg.Points(9))
	p.Y.Min, p.Y.Max = -0.7, float64(len(groups))-0.3
	p.X.Tick.Marker = steps{}
	p.X.Min, p.X.Max = 0, max(high, 1e-9)*1.05
	if logarithmic {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
		p.X.Min, p.X.Max = low/1.3, high*1.3
	}
	c := vgsvg.New(plotWidth, vg.Length(len(groups))*0.7*vg.Centimeter+2.5*vg.Centimeter)
	p.Draw(draw.Crop(draw.New(c), 2*vg.Millimeter, -6*vg.Millimeter, 2*vg.Millimeter, -2*vg.Millimeter))
	_, err := c.WriteTo(w)
	return err
}

func dots(p *plot.Plot, s spans, c color.Color) error {
	if len(s.XYs) == 0 {
		return nil
	}
	points, err := plotter.NewScatter(s.XYs)
	if err != nil {
		return err
	}
	bars, err := plotter.NewXErrorBars(s)
	if err != nil {
		return err
	}
	points.Color, points.Shape, points.Radius = c, draw.CircleGlyph{}, vg.Points(3)
	bars.Color, bars.Width = c, vg.Points(1)
	p.Add(points, bars)
	return nil
}
