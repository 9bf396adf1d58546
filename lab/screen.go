// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Screen is where a scenario is watched.
type Screen struct {
	Out    io.Writer
	Colour bool
	JSON   io.Writer // what was shown, an object a line: a [Spread], a [Way] or a [Sticky]; or nil
}

// The colours of a terminal: servers take turns with the last of them.
const (
	bold  = "1"
	faint = "2"
	good  = "32"
	bad   = "31"

	changed = "33"
)

var serverColours = []string{"36", "33", "35", "32", "34"}

func (s Screen) print(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

func (s Screen) paint(colour, text string) string {
	if !s.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (s Screen) json(shown any) {
	if s.JSON != nil {
		json.NewEncoder(s.JSON).Encode(shown) // who has closed the pipe does not want to know
	}
}

func serverColour(i int) string { return serverColours[i%len(serverColours)] }

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

func (s Screen) title(text string) {
	s.print("\n%s", s.paint(bold, text))
}

func (s Screen) command(host, line string) {
	s.print("  %s %s", s.paint(faint, host+"#"), line)
}

func (s Screen) output(text string) {
	for line := range strings.Lines(text) {
		s.print("    %s", strings.TrimRight(line, " \n"))
	}
}

// few is up to how many requests are worth a line each; of more, a digit tells the server.
const few = 20

func (s Screen) requests(client string, vip netip.AddrPort, n int) {
	s.print("  %s GET %s  × %d", s.paint(faint, client+"$"), url(vip), n)
}

func (s Screen) answer(n, of, server int, text string) {
	switch {
	case of <= few:
		s.print("    %3d  %s", n+1, s.paint(serverColour(server), text))
		return
	case n%50 == 0:
		fmt.Fprintf(s.Out, "  %5d  ", n+1)
	}
	fmt.Fprint(s.Out, s.paint(serverColour(server), fmt.Sprint((server+1)%10)))
	if n%50 == 49 || n+1 == of {
		fmt.Fprintln(s.Out)
	}
}

// verdict shows how the answers are spread, with bars, and what that keeps.
func (s Screen) verdict(r Spread, words string) {
	most, wide := 0, 0
	for _, a := range r.Servers {
		most, wide = max(most, a.Answers), max(wide, len(a.Address))
	}
	for i, a := range r.Servers {
		bar := strings.Repeat("█", (a.Answers*24+most/2)/most)
		s.print("    %-*s  weight %-5d %5d of %-5d %s", wide, a.Address, a.Weight, a.Answers, len(r.Sequence), s.paint(serverColour(i), bar))
	}
	s.success(words)
}

func (s Screen) success(words string) { s.print("  %s", s.paint(good, "✓ "+words)) }

// kept tells how to use a network that stays up, and how to be rid of it.
func (s Screen) kept(st *stage) {
	s.title("The lab stays up")
	s.print("  ip netns exec %s curl %s", st.client.Namespace(), url(st.vip(80)))
	s.print("  ip netns exec %s %s", st.director.Namespace(), asIpvsadm(st.program))
	for _, one := range st.servers {
		s.print("  ip netns exec %s bash", one.host.Namespace())
	}
	s.print("Take it away with: %s", cleaning(st.network.Name))
}

// asIpvsadm is a command line that lists the table: by the link if there is one, else without it.
func asIpvsadm(program string) string {
	if link, err := exec.LookPath("ipvsadm"); err == nil {
		if real, err := filepath.EvalSymlinks(link); err == nil && real == program {
			return "ipvsadm -L -n"
		}
	}
	return "bash -c 'exec -a ipvsadm " + program + " -L -n'"
}

// way shows packets from hop to hop. What a hop has changed of the addresses stands out.
func (s Screen) way(hops []Hop) {
	s.title("The first connection's packets on their way")
	left, middle := 0, 0
	for _, h := range hops {
		left = max(left, utf8.RuneCountInString(h.From+" → "+h.To))
		middle = max(middle, utf8.RuneCountInString(h.IP.String()), utf8.RuneCountInString(h.MAC.String()))
	}
	line := func(who, what, text string, ends, before Ends, right string) {
		text = pad(text, middle)
		for _, end := range [][2]string{{ends.Source, before.Source}, {ends.Destination, before.Destination}} {
			if end[0] != end[1] {
				text = strings.Replace(text, end[0], s.paint(changed, end[0]), 1)
			}
		}
		s.print("  %s  %s %s  %s", pad(who, left), s.paint(faint, what), text, right)
	}
	for i, h := range hops {
		before := h
		if i > 0 && hops[i-1].Packet == h.Packet {
			before = hops[i-1]
		}
		line(h.From+" → "+h.To, "MAC", h.MAC.String(), h.MAC, h.MAC, h.Packet)
		what := "IP "
		if h.Outer != nil {
			outer := Ends{}
			if before.Outer != nil {
				outer = *before.Outer
			}
			line("", what, h.Outer.String(), *h.Outer, outer, h.outerNames+"  "+h.Tunnel)
			what = " in"
		}
		line("", what, h.IP.String(), h.IP, before.IP, h.Names)
		if h.TOA != "" {
			line("", "TOA", h.TOA, Ends{h.TOA, ""}, Ends{}, "CIP")
		}
	}
}

// played shows a line of the table of all labs.
func (s Screen) played(name, shows, took, mark string) {
	s.print("  %-12s  %-52s  %6s  %s", name, shows, took, mark)
}

// table shows how the requests of all kinds of persistence were answered, side by side.
func (s Screen) table(rows [][]cell) {
	wide := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			wide[i] = max(wide[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		line := ""
		for i, c := range row {
			line += "  " + s.paint(c.colour, pad(c.text, wide[i]))
		}
		s.print("  %s", strings.TrimRight(line, " "))
	}
}

// cell is a word of a table.
type cell struct{ text, colour string }
