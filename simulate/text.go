// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// describe tells of the load in a line.
func (s Setup) describe() string {
	if r := s.Load.Replay; r != nil {
		span := r.conns[len(r.conns)-1].At - r.conns[0].At
		return fmt.Sprintf("%s connections of %s clients, replayed: %v", grouped(len(r.conns)), grouped(len(r.clients)), span.Round(time.Millisecond))
	}
	l := s.Load
	text := fmt.Sprintf("%s connections of %s clients, %v, each %v", grouped(l.Conns), grouped(l.Clients), l.Arrivals, l.Durations)
	if l.Destinations > 1 {
		text += fmt.Sprintf(", to %s destinations", grouped(l.Destinations))
	}
	return text
}

// goes tells what happens to the server that leaves.
func (s Setup) goes() string {
	number := s.Leaver
	if number == 0 {
		number = len(s.Weights)
	}
	if s.Quiesce {
		return fmt.Sprintf("server %d gets weight 0", number)
	}
	return fmt.Sprintf("server %d is removed", number)
}

// grouped gives a number with its thousands apart.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// each gives a number of every server, or, of many servers, the lowest and the highest.
func each(servers []Server, format string, of func(Server) float64) string {
	var all []float64
	var words []string
	for _, s := range servers {
		all = append(all, of(s))
		words = append(words, fmt.Sprintf(format, of(s)))
	}
	if len(all) > 5 {
		return fmt.Sprintf(format+" to "+format, slices.Min(all), slices.Max(all))
	}
	return strings.Join(words, " ")
}

func percent(f float64) string { return fmt.Sprintf("%.1f", 100*f) }

// Table prints the results, a line for each scheduler.
func (s Setup) Table(out io.Writer, results []Result) error {
	fmt.Fprintln(out, s.describe())
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nSCHEDULER\tSHARE %\tMEAN LOAD\tPEAK LOAD\tFAIRNESS\tOF LOAD\tSTAYS %\tLEAVE %\tRETURN %\tREFUSED")
	if len(results) > 0 {
		fmt.Fprintf(w, "ideal\t%s\t\t\t1.0000\t1.0000\t\t\t\t\n", each(results[0].Servers, "%.1f", func(d Server) float64 { return 100 * d.Ideal }))
	}
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.4f\t%.4f\t%s\t%s\t%s\t%s\n", r.Scheduler,
			each(r.Servers, "%.1f", func(d Server) float64 { return 100 * d.Share }),
			each(r.Servers, "%.0f", func(d Server) float64 { return d.Mean }),
			each(r.Servers, "%.0f", func(d Server) float64 { return float64(d.Peak) }),
			r.ShareFairness, r.LoadFairness, percent(r.Stays), percent(r.Leave.Part()), percent(r.Return.Part()), grouped(r.Refused))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, `
fairness       Jain's index of connections by weight, and of mean load by weight: 1 is as the weights say
stays          of the times that a client came again, those to the same server
leave, return  of the clients of other servers, those that are moved when %s, and when it comes back
`, s.goes())
	return err
}

// shades tell servers apart where there is no colour, and colours where there is.
var (
	shades  = []string{"█", "▒", "▚", "░", "▞"}
	colours = []string{"36", "33", "35", "32", "34"}
)

// Chart prints a bar of shares for each scheduler, so many characters wide.
func (s Setup) Chart(out io.Writer, results []Result, width int, colour bool) error {
	if len(results) == 0 {
		return nil
	}
	ink := func(server int, length int) string {
		if !colour {
			return strings.Repeat(shades[server%len(shades)], length)
		}
		return "\x1b[" + colours[server%len(colours)] + "m" + strings.Repeat("█", length) + "\x1b[0m"
	}
	label := len("ideal")
	for _, r := range results {
		label = max(label, len(r.Scheduler))
	}
	var b strings.Builder
	bar := func(name string, servers []Server, share func(Server) float64) {
		fmt.Fprintf(&b, "%-*s  ", label, name)
		sum, drawn := 0.0, 0
		for i, d := range servers {
			sum += share(d)
			until := int(math.Round(sum * float64(width)))
			b.WriteString(ink(i, until-drawn))
			drawn = until
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%-*s ", label, "")
	for i, d := range results[0].Servers[:min(len(results[0].Servers), len(shades))] {
		fmt.Fprintf(&b, " %s server %d, weight %d ", ink(i, 1), i+1, d.Weight)
	}
	b.WriteString("\n")
	bar("ideal", results[0].Servers, func(d Server) float64 { return d.Ideal })
	for _, r := range results {
		bar(r.Scheduler, r.Servers, func(d Server) float64 { return d.Share })
	}
	_, err := io.WriteString(out, b.String())
	return err
}
