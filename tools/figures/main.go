// SPDX-License-Identifier: Apache-2.0

// Figures makes a table in Markdown and a plot in SVG of what benchmarks have printed.
//
//	go test -run='^$' -bench=. ./... | figures docs/figures.md docs/figures.svg
package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// figure is what one benchmark has measured.
type figure struct {
	group, name string             // of a package's BenchmarkGroup/name
	values      map[string]float64 // by their units, as they were printed
}

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader) error {
	if len(args) != 2 {
		return errors.New("usage: figures TABLE.md PLOT.svg <BENCHMARKS")
	}
	all, units, machine, err := read(in)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("there is no benchmark in the input")
	}
	if err := os.WriteFile(args[0], []byte(table(all, units, machine)), 0o644); err != nil {
		return err
	}
	return os.WriteFile(args[1], []byte(plot(all)), 0o644)
}

// read gives all figures, their units in the order that they first come in, and which machine they are of.
func read(in io.Reader) (all []figure, units []string, machine string, err error) {
	r := benchfmt.NewReader(in, "stdin")
	for r.Scan() {
		b, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		full := string(b.Name)
		if i := strings.LastIndexByte(full, '-'); i > 0 {
			full = full[:i] // the number of CPUs
		}
		group, name, _ := strings.Cut(full, "/")
		f := figure{group: path.Base(b.GetConfig("pkg")) + " " + group, name: name, values: map[string]float64{}}
		for _, v := range b.Values {
			unit, value := v.Unit, v.Value
			if v.OrigUnit != "" {
				unit, value = v.OrigUnit, v.OrigValue
			}
			if unit == "ns/op" {
				if value == 0 {
					continue // what the benchmark reports instead is its own
				}
				if value >= 1e6 {
					unit, value = "ms/op", value/1e6
				}
			}
			f.values[unit] = value
			if !slices.Contains(units, unit) {
				units = append(units, unit)
			}
		}
		all = append(all, f)
		machine = b.GetConfig("cpu")
	}
	return all, units, machine, r.Err()
}

// table has a part for each benchmark, with a column for each unit in it.
func table(all []figure, units []string, machine string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Figures\n\nBy `make bench`, on %s. What they are of is in [PERFORMANCE](PERFORMANCE.md).\n", machine)
	for _, group := range groups(all) {
		figures := of(group, all)
		columns := slices.DeleteFunc(slices.Clone(units), func(unit string) bool {
			return !slices.ContainsFunc(figures, func(f figure) bool { _, ok := f.values[unit]; return ok })
		})
		fmt.Fprintf(&s, "\n## %s\n\n| | %s |\n|%s\n", group, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+1))
		for _, f := range figures {
			fmt.Fprintf(&s, "| %s |", f.name)
			for _, unit := range columns {
				text := ""
				if v, ok := f.values[unit]; ok {
					text = short(v)
				}
				fmt.Fprintf(&s, " %s |", text)
			}
			s.WriteString("\n")
		}
	}
	return s.String()
}

// short is a number with some three digits.
func short(v float64) string {
	switch {
	case v >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func groups(all []figure) (names []string) {
	for _, f := range all {
		if !slices.Contains(names, f.group) {
			names = append(names, f.group)
		}
	}
	return names
}

func of(group string, all []figure) (some []figure) {
	for _, f := range all {
		if f.group == group {
			some = append(some, f)
		}
	}
	return some
}

// beside finds what a figure in ns is compared with, if anything.
func (f figure) beside() (name string, ns float64, ok bool) {
	for unit, v := range f.values {
		if name, ok := strings.CutSuffix(unit, "-ns"); ok {
			return name, v, true
		}
	}
	return "", 0, false
}

// plot has a bar for each figure that has another one beside it, and one for that; each benchmark has a scale of its own.
func plot(all []figure) string {
	const width, left, row, bar = 760, 250, 26, 9
	var s strings.Builder
	y := 10
	for _, group := range groups(all) {
		figures := slices.DeleteFunc(of(group, all), func(f figure) bool { _, _, ok := f.beside(); return !ok })
		if len(figures) == 0 {
			continue
		}
		most, other := 0.0, ""
		for _, f := range figures {
			name, ns, _ := f.beside()
			most, other = max(most, ns, f.values["ns"]), name
		}
		y += 24
		fmt.Fprintf(&s, `<text x="10" y="%d" class="group">%s: ns a packet, <tspan class="own">the director</tspan> and <tspan class="other">%s</tspan></text>`+"\n",
			y, html.EscapeString(group), html.EscapeString(other))
		y += 12
		for _, f := range figures {
			_, ns, _ := f.beside()
			fmt.Fprintf(&s, `<text x="%d" y="%d" class="name">%s</text>`+"\n", left-8, y+13, html.EscapeString(f.name))
			for i, v := range []float64{f.values["ns"], ns} {
				long := v / most * (width - left - 60)
				fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" class="%s"/><text x="%.1f" y="%d" class="value">%s</text>`+"\n",
					left, y+2+i*(bar+1), long, bar, []string{"own", "other"}[i], float64(left)+long+4, y+10+i*(bar+1), short(v))
			}
			y += row
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">
<style>text{font:12px sans-serif;fill:#333}.group{font-weight:bold}.name{text-anchor:end}.value{font-size:9px}.own{fill:#0b6e4f}.other{fill:#b0b0b0}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
%s</svg>
`, width, y+14, width, y+14, s.String())
}
