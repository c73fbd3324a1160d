package report

import (
	"fmt"
	"image/color"
	"io"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// One colour an encapsulation, told apart by eyes that see fewer of them too (Okabe and Ito).
var colours = map[string]color.Color{
	"none":      color.RGBA{0x55, 0x55, 0x55, 0xff},
	"vxlan":     color.RGBA{0x00, 0x72, 0xb2, 0xff},
	"ipip":      color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	"wireguard": color.RGBA{0x00, 0x9e, 0x73, 0xff},
}

const (
	plotWidth  = 30 * vg.Centimeter
	plotHeight = 21 * vg.Centimeter
	plotDPI    = 96
)

// PNG and SVG write the same picture: throughput by MTU with one stream and with several, processor time, and latency.
func (s Summary) PNG(w io.Writer, a Advice) error {
	c := vgimg.NewWith(vgimg.UseWH(plotWidth, plotHeight), vgimg.UseDPI(plotDPI))
	if err := s.draw(draw.New(c), a); err != nil {
		return err
	}
	_, err := vgimg.PngCanvas{Canvas: c}.WriteTo(w)
	return err
}

// SVG writes the picture as PNG does.
func (s Summary) SVG(w io.Writer, a Advice) error {
	c := vgsvg.New(plotWidth, plotHeight)
	if err := s.draw(draw.New(c), a); err != nil {
		return err
	}
	_, err := c.WriteTo(w)
	return err
}

func (s Summary) draw(c draw.Canvas, a Advice) error {
	var plots []*plot.Plot
	add := func(p *plot.Plot, err error) error {
		plots = append(plots, p)
		return err
	}
	few, many := 0, 0
	if n := len(s.Streams); n > 0 {
		few, many = s.Streams[0], s.Streams[n-1]
	}
	sides := s.Sides()
	side := ""
	if len(sides) > 0 {
		side = sides[0]
	}
	for _, err := range []error{
		add(s.byMTU("TCP throughput, "+countStreams(few), "Gbit/s", 1e-9, Point{Streams: few, Metric: Throughput}, a)),
		add(s.byMTU("TCP throughput, "+countStreams(many), "Gbit/s", 1e-9, Point{Streams: many, Metric: Throughput}, a)),
		add(s.byMTU("Processor time, "+sideName(side)+", "+countStreams(many), "seconds for each Gbit", 1, Point{Streams: many, Side: side, Metric: CPU}, a)),
		add(s.latency()),
	} {
		if err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	grid := [][]*plot.Plot{plots[:2], plots[2:]}
	t := draw.Tiles{Rows: 2, Cols: 2, PadX: 8 * vg.Millimeter, PadY: 8 * vg.Millimeter,
		PadTop: 4 * vg.Millimeter, PadBottom: 12 * vg.Millimeter, PadLeft: 4 * vg.Millimeter, PadRight: 6 * vg.Millimeter}
	for i, row := range plot.Align(grid, t, c) {
		for j, cell := range row {
			grid[i][j].Draw(cell)
		}
	}
	style := plots[0].X.Tick.Label
	style.Font.Size, style.XAlign, style.YAlign, style.Rotation = vg.Points(10), draw.XCenter, draw.YBottom, 0
	c.FillText(style, vg.Point{X: c.Center().X, Y: c.Min.Y + 3*vg.Millimeter},
		"Points are medians, bars reach from the lowest to the highest round. A ring and its number mark the MTU that is recommended.")
	return nil
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = vg.Points(14)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size, a.Tick.Label.Font.Size = vg.Points(11), vg.Points(10)
	}
	p.Title.Padding = vg.Points(6)
	p.Legend.TextStyle.Font = font.From(p.Legend.TextStyle.Font, vg.Points(10))
	p.Legend.Padding = vg.Points(3)
	p.Y.Min, p.Y.Tick.Marker = 0, steps{}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe8}, color.Gray{0xe8}
	p.Add(grid)
	return p
}

// ranged are points with the range of each.
type ranged struct {
	plotter.XYs
	plotter.YErrors
}

func (r *ranged) add(x float64, s Spread, scale float64) {
	r.XYs = append(r.XYs, plotter.XY{X: x, Y: s.Median * scale})
	r.YErrors = append(r.YErrors, struct{ Low, High float64 }{(s.Median - s.Low) * scale, (s.High - s.Median) * scale})
}

// line adds a line with points and bars to a plot and its legend.
func line(p *plot.Plot, e Encapsulation, r ranged) error {
	l, dots, err := plotter.NewLinePoints(r.XYs)
	if err != nil {
		return err
	}
	bars, err := plotter.NewYErrorBars(r)
	if err != nil {
		return err
	}
	c := colours[e.Name]
	if c == nil {
		c = color.Black
	}
	l.Color, l.Width = c, vg.Points(2)
	dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(3)
	bars.Color, bars.Width = c, vg.Points(1)
	p.Add(l, dots, bars)
	p.Legend.Add(e.String(), l, dots)
	return nil
}

// byMTU draws a metric over the MTU, one line an encapsulation.
func (s Summary) byMTU(title, unit string, scale float64, at Point, a Advice) (*plot.Plot, error) {
	p := newPlot(title, "MTU in bytes, of the inner packet", unit)
	groups := s.groups(at.Metric)
	low, high := math.Inf(1), 0.0
	for i, e := range s.Encapsulations(at.Metric) {
		var r ranged
		var choice *plotter.XY
		at.Encapsulation = e
		for x, g := range groups {
			var ok bool
			at.MTU, ok = g[e]
			v := s.Of(at)
			if !ok || v.N == 0 {
				continue
			}
			r.add(float64(x)+0.1*float64(i), v, scale)
			if a.recommends(e, at.MTU) {
				choice = &r.XYs[len(r.XYs)-1]
				if err := markChoice(p, e, at.MTU, *choice); err != nil {
					return nil, err
				}
			}
			low, high = min(low, v.Low*scale), max(high, v.High*scale)
		}
		if len(r.XYs) == 0 {
			continue
		}
		if err := line(p, e, r); err != nil {
			return nil, err
		}
	}
	if len(groups) > 0 {
		p.NominalX(groupNames(groups)...)
	}
	p.X.Min, p.X.Max = -0.5, max(1, float64(len(groups)))-0.3
	p.Y.Min, p.Y.Max = 0, max(high, 1e-9)*1.35 // and room for the legend
	if at.Metric == CPU && low > 0 && high > 0 {
		logarithmic(p, low, high)
	}
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

// logarithmic gives the plot an axis for values that differ by factors.
func logarithmic(p *plot.Plot, low, high float64) {
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = low/1.5, high*math.Pow(high/low, 0.35)*1.5
}

// group are MTUs that stand at one place of the axis, at most one of each encapsulation: near the limit each has its own.
type group map[Encapsulation]int

// groupSpan is how far apart the MTUs of a group may be, in bytes: more than any overhead.
const groupSpan = 80

func (s Summary) groups(metric string) []group {
	type place struct {
		Encapsulation
		mtu int
	}
	var all []place
	for _, e := range s.Encapsulations(metric) {
		for _, m := range s.MTUs(e, metric) {
			all = append(all, place{e, m})
		}
	}
	slices.SortStableFunc(all, func(a, b place) int { return a.mtu - b.mtu })
	var out []group
	first := 0
	for _, p := range all {
		if n := len(out); n > 0 {
			if _, taken := out[n-1][p.Encapsulation]; !taken && p.mtu-first <= groupSpan {
				out[n-1][p.Encapsulation] = p.mtu
				continue
			}
		}
		out = append(out, group{p.Encapsulation: p.mtu})
		first = p.mtu
	}
	return out
}

func groupNames(groups []group) (names []string) {
	for _, g := range groups {
		m := slices.Sorted(maps.Values(g))
		name := fmt.Sprint(m[0])
		if last := m[len(m)-1]; last != m[0] {
			name += fmt.Sprintf("-%d", last)
		}
		names = append(names, name)
	}
	return names
}

// markChoice rings the recommended MTU.
func markChoice(p *plot.Plot, e Encapsulation, mtu int, at plotter.XY) error {
	ring, err := plotter.NewScatter(plotter.XYs{at})
	if err != nil {
		return err
	}
	ring.Color, ring.Shape, ring.Radius = colours[e.Name], draw.RingGlyph{}, vg.Points(7)
	label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{at}, Labels: []string{fmt.Sprint(mtu)}})
	if err != nil {
		return err
	}
	label.TextStyle[0].Font.Size, label.TextStyle[0].Color = vg.Points(10), colours[e.Name]
	label.TextStyle[0].XAlign = draw.XRight
	label.Offset = vg.Point{X: vg.Points(-8), Y: vg.Points(4)}
	p.Add(ring, label)
	return nil
}

// latency draws the percentiles of latency, one line an encapsulation.
func (s Summary) latency() (*plot.Plot, error) {
	p := newPlot("Time from request to answer, 64 bytes", "share of the requests that did not take longer", "µs")
	var names []string
	for _, q := range percentiles {
		names = append(names, q.name)
	}
	low, high := math.Inf(1), 0.0
	for i, e := range s.Encapsulations(LatencyP50) {
		var r ranged
		for x, q := range percentiles {
			for _, mtu := range s.MTUs(e, q.metric) {
				if v := s.Of(Point{Encapsulation: e, MTU: mtu, Metric: q.metric}); v.N > 0 && v.Low > 0 {
					r.add(float64(x)+0.06*float64(i), v, 1e6)
					low, high = min(low, v.Low*1e6), max(high, v.High*1e6)
					break
				}
			}
		}
		if len(r.XYs) == 0 {
			continue
		}
		if err := line(p, e, r); err != nil {
			return nil, err
		}
	}
	if high == 0 {
		low, high = 1, 10
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.3, float64(len(percentiles))-0.5
	logarithmic(p, low, high)
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

// decades are 1, 2 and 5 in each decade of a logarithmic axis.
type decades struct{}

// Ticks implements plot.Ticker.
func (decades) Ticks(low, high float64) (out []plot.Tick) {
	for d := math.Pow(10, math.Floor(math.Log10(low))); d <= high; d *= 10 {
		for _, k := range []float64{1, 2, 5} {
			if v := k * d; low <= v && v <= high {
				out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%g", math.Round(v*1e6)/1e6)})
			}
		}
	}
	return out
}

// steps are some five round values of a linear axis.
type steps struct{}

// Ticks implements plot.Ticker.
func (steps) Ticks(low, high float64) (out []plot.Tick) {
	if high <= low {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10(high-low)))
	for step > (high-low)/4 {
		step /= 2
	}
	for v := math.Ceil(low/step) * step; v <= high; v += step {
		out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
	}
	return out
}
