// SPDX-License-Identifier: Apache-2.0

package lab

import (
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
}

// The colours of a terminal: servers take turns with the last of them.
const (
	bold  = "1"
	faint = "2"
	good  = "32"
)

var serverColours = []string{"36", "33", "35", "32", "34"}

func (s Screen) print(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

func (s Screen) paint(colour, text string) string {
	if !s.Colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func serverColour(i int) string { return serverColours[i%len(serverColours)] }

// picture shows the network.
func (s Screen) picture(st *stage) {
	vip, dip := "VIP "+st.vip.Addr().String(), "DIP "+st.dip.String()
	left := max(len(st.cip.String()), len(st.client.Name))
	middle := max(len(vip), len(dip))
	const gap = " ────── "
	blank := strings.Repeat(" ", left+utf8.RuneCountInString(gap))
	s.print("")
	s.print("  %s %s %s", s.paint(bold, pad(st.client.Name, left+utf8.RuneCountInString(gap)-1)),
		s.paint(bold, pad(st.director.Name, middle+10)), s.paint(bold, "servers")+", whose gateway is the DIP")
	s.print("  %s%s%s", pad(st.cip.String(), left), gap, vip)
	for i, one := range st.servers {
		branch := strings.Repeat(" ", middle+6) + "├"
		switch {
		case len(st.servers) == 1:
			branch = pad(dip, middle) + " ──────"
		case i == 0:
			branch = pad(dip, middle) + " ─────┬"
		case i == len(st.servers)-1:
			branch = strings.Repeat(" ", middle+6) + "└"
		}
		s.print("  %s%s─── %s", blank, branch, s.paint(serverColour(i), one.addr.Addr().String()+"  "+one.host.Name))
	}
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

func (s Screen) title(text string) {
	s.print("\n%s", s.paint(bold, text))
}

func (s Screen) command(host, name string, args []string) {
	s.print("  %s %s", s.paint(faint, host+"#"), name+" "+strings.Join(args, " "))
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
func (s Screen) verdict(r Result, words string) {
	most, wide := 0, 0
	for _, a := range r.Servers {
		most, wide = max(most, a.Answers), max(wide, len(a.Address))
	}
	for i, a := range r.Servers {
		bar := strings.Repeat("█", (a.Answers*24+most/2)/most)
		s.print("    %-*s  weight %-5d %5d of %-5d %s", wide, a.Address, a.Weight, a.Answers, len(r.Sequence), s.paint(serverColour(i), bar))
	}
	s.print("  %s", s.paint(good, "✓ "+words))
}

// kept tells how to use a network that stays up, and how to be rid of it.
func (s Screen) kept(st *stage) {
	s.title("The lab stays up")
	s.print("  ip netns exec %s curl %s", st.client.Namespace(), url(st.vip))
	s.print("  ip netns exec %s %s", st.director.Namespace(), asIpvsadm(st.program))
	for _, one := range st.servers {
		s.print("  ip netns exec %s bash", one.host.Namespace())
	}
	s.print("Take it away with: director lab clean")
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
