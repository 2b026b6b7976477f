package bench

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// The plots stand side by side, one for each kind of growth; both axes are logarithmic.
const (
	plotWidth, plotHeight = 300, 260
	plotLeft, plotTop     = 50, 40
)

// axis maps values to pixels.
type axis struct{ least, most, from, to float64 }

func (a axis) at(v float64) float64 {
	return a.from + (a.to-a.from)*(math.Log10(max(v, a.least))-math.Log10(a.least))/(math.Log10(a.most)-math.Log10(a.least))
}

// plots draws CPU time, wall time and memory against the size of the work.
func plots(r *results) string {
	var s strings.Builder
	fmt.Fprintf(&s, svgHead, 3*(plotWidth+plotLeft)+60, plotHeight+100)
	for i, g := range growths() {
		points := r.Growth[g.name]
		if len(points) < 2 {
			continue
		}
		plot(&s, g, points, float64(plotLeft+i*(plotWidth+plotLeft+15)))
	}
	return s.String() + "</svg>\n"
}

func plot(s *strings.Builder, g growth, points map[int]cost, left float64) {
	sizes := slices.Sorted(maps.Keys(points))
	first, last := float64(sizes[0]), float64(sizes[len(sizes)-1])
	x := axis{first, last, left, left + plotWidth}
	y := axis{0.01, 1000, plotTop + plotHeight, plotTop}
	fmt.Fprintf(s, `<text x="%.0f" y="24" font-weight="bold">%s</text><rect x="%.0f" y="%d" width="%d" height="%d" fill="none" stroke="#94a3b8"/>`+"\n",
		left, g.unit, left, plotTop, plotWidth, plotHeight)
	for v := 0.01; v <= 1000; v *= 10 {
		fmt.Fprintf(s, `<text x="%.0f" y="%.0f" text-anchor="end">%g</text>`, left-4, y.at(v)+4, v)
	}
	for _, n := range sizes {
		fmt.Fprintf(s, `<text x="%.0f" y="%d" text-anchor="middle">%d</text>`, x.at(float64(n)), plotTop+plotHeight+16, n)
	}
	for _, c := range []struct {
		name, colour string
		of           func(cost) float64
	}{
		{"CPU s", "#1e3a5f", func(c cost) float64 { return c.CPU.Seconds() }},
		{"wall s", "#4a90d9", func(c cost) float64 { return c.Wall.Seconds() }},
		{"peak MB", "#b45309", func(c cost) float64 { return float64(c.Memory) / (1 << 20) }},
	} {
		var line []string
		for _, n := range sizes {
			line = append(line, fmt.Sprintf("%.1f,%.1f", x.at(float64(n)), y.at(c.of(points[n]))))
		}
		end := c.of(points[sizes[len(sizes)-1]])
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%.0f" y="%.0f" text-anchor="end" fill="%s">%s</text>`+"\n",
			strings.Join(line, " "), c.colour, x.to-4, y.at(end)-6, c.colour, c.name)
	}
	// Linear growth through the last CPU time.
	end := points[sizes[len(sizes)-1]].CPU.Seconds()
	fmt.Fprintf(s, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#94a3b8" stroke-dasharray="4"/>`+"\n", x.from, y.at(end*first/last), x.to, y.at(end))
}
