// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
	"time"
)

// The measures of the picture, in pixels. Panels stand in columns, each with a plot above and a bar of shares below.
const (
	columns             = 2
	margin, gutter      = 40, 36
	panelWide, plotHigh = 500, 110
	barHigh, panelHigh  = 12, 204
	headHigh            = 118
	axisWide            = 34 // of the numbers left of a plot
)

// palette has colours that are told apart by everybody's eyes (Okabe and Ito).
var palette = []string{"#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#7F7F7F"}

const style = `text{font-family:system-ui,"DejaVu Sans",sans-serif;font-size:12px;fill:#52606d}` +
	`.title{font-size:22px;font-weight:600;fill:#1f2933}.name{font-size:16px;font-weight:600;fill:#1f2933}` +
	`.end{text-anchor:end}.small{font-size:10px;fill:#7b8794}.grid{stroke:#e4e7eb;stroke-width:1}` +
	`.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.ideal{stroke:#1f2933;stroke-width:2}`

// SVG draws the results: for each scheduler the load of its servers over time, on one scale for all, and their shares of
// the connections, with marks where the weights would have them end.
func (s Setup) SVG(out io.Writer, results []Result) error {
	rows := (len(results) + columns - 1) / columns
	wide := 2*margin + columns*panelWide + (columns-1)*gutter
	high := headHigh + rows*panelHigh + 30
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`+"\n", wide, high, wide, high)
	fmt.Fprintf(&b, "<title>Schedulers side by side</title>\n<style>%s</style>\n", style)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", wide, high)
	fmt.Fprintf(&b, `<text class="title" x="%d" y="46">Schedulers side by side</text>`+"\n", margin)
	fmt.Fprintf(&b, `<text x="%d" y="68">%s</text>`+"\n", margin, html.EscapeString(s.describe()))
	s.legend(&b)
	top := scale(results)
	for i, r := range results {
		x, y := margin+i%columns*(panelWide+gutter), headHigh+i/columns*panelHigh
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n", x, y)
		panel(&b, r, top)
		b.WriteString("</g>\n")
	}
	fmt.Fprintf(&b, `<text class="small" x="%d" y="%d">Lines: open connections over time. Bars: shares of connections; strokes: as the weights say. `+
		`Moved: clients of other servers who get another one when %s, and when it comes back.</text>`+"\n</svg>\n",
		margin, high-16, s.goes())
	_, err := out.Write(b.Bytes())
	return err
}

// legend names the servers' colours.
func (s Setup) legend(b *bytes.Buffer) {
	for i, weight := range s.Weights[:min(len(s.Weights), len(palette))] {
		x := margin + i*164
		fmt.Fprintf(b, `<rect x="%d" y="84" width="12" height="12" rx="2" fill="%s"/><text x="%d" y="94">server %d, weight %d</text>`+"\n",
			x, palette[i], x+18, i+1, weight)
	}
}

// scale is the top of all plots: a round number that no line is above.
func scale(results []Result) float64 {
	highest := 1.0
	for _, r := range results {
		for _, d := range r.Servers {
			for _, v := range d.Load {
				highest = max(highest, float64(v))
			}
		}
	}
	unit := math.Pow(10, math.Floor(math.Log10(highest)))
	for _, times := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if times*unit >= highest {
			return times * unit
		}
	}
	return 10 * unit
}

// panel draws one scheduler.
func panel(b *bytes.Buffer, r Result, top float64) {
	fmt.Fprintf(b, `<text class="name" x="0" y="12">%s</text>`+"\n", html.EscapeString(r.Scheduler))
	facts := fmt.Sprintf("fairness %.3f · stays %.0f %% · moved %.0f %% and %.0f %%", r.ShareFairness, 100*r.Stays, 100*r.Leave.Part(), 100*r.Return.Part())
	if r.Refused > 0 {
		facts += fmt.Sprintf(" · refused %.0f %%", 100*float64(r.Refused)/float64(r.Conns))
	}
	fmt.Fprintf(b, `<text class="end" x="%d" y="12">%s</text>`+"\n", panelWide, facts)
	const left, plotTop = axisWide, 24
	wide := float64(panelWide - left)
	for i := range 3 {
		y := plotTop + plotHigh*i/2
		fmt.Fprintf(b, `<path class="grid" d="M%d %dH%d"/><text class="small end" x="%d" y="%d">%g</text>`+"\n",
			left, y, panelWide, left-6, y+4, top*(1-float64(i)/2))
	}
	for i, d := range r.Servers {
		if len(d.Load) < 2 {
			continue
		}
		fmt.Fprintf(b, `<path class="line" stroke="%s" d="`, palette[i%len(palette)])
		for n, v := range d.Load {
			fmt.Fprintf(b, "%c%.1f %.1f", "ML"[min(n, 1)], left+wide*float64(n)/float64(len(d.Load)-1), plotTop+plotHigh*(1-float64(v)/top))
		}
		b.WriteString("\"/>\n")
	}
	bar(b, r, left, plotTop+plotHigh+10, wide)
	fmt.Fprintf(b, `<text class="small end" x="%d" y="%d">%v</text>`+"\n", panelWide, plotTop+plotHigh+barHigh+24, r.Span.Round(time.Second))
}

// bar draws the shares.
func bar(b *bytes.Buffer, r Result, left float64, y int, wide float64) {
	x, ideal := left, 0.0
	for i, d := range r.Servers {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, x, y, wide*d.Share, barHigh, palette[i%len(palette)])
		if d.Share >= 0.06 {
			fmt.Fprintf(b, `<text class="small" x="%.1f" y="%d">%.1f %%</text>`, x, y+barHigh+12, 100*d.Share)
		}
		b.WriteString("\n")
		x += wide * d.Share
	}
	for _, d := range r.Servers[:len(r.Servers)-1] {
		ideal += d.Ideal
		fmt.Fprintf(b, `<path class="ideal" d="M%.1f %dv%d"/>`+"\n", left+wide*ideal, y-3, barHigh+6)
	}
}
