// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lvs"
	"lvs/ipvsadm"
)

// tale is a random story of edits and connections that was told to a Linux 6.1 kernel and its ipvsadm.
type tale struct {
	replay
	conns, clients string
	came           int // clients, so far
}

// TestRecordedStories: commands and connections of random stories have the answers that were recorded, under each scheduler.
func TestRecordedStories(t *testing.T) {
	files, err := filepath.Glob("../oracle/testdata/random-*.txt")
	must(t, err)
	w, stories := mustRecorded(t), 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for block := range strings.SplitSeq(strings.TrimPrefix(string(text), "== "), "\n== ") {
			title, lines, _ := strings.Cut(block, "\n")
			head := strings.Split(title, ", ") // -s scheduler, connections stay open: ..., clients ...
			if len(head) != 3 {
				t.Fatalf("%s: %s", file, title)
			}
			_, listing, _ := strings.Cut(lines, "\nTCP  ")
			virtual, _, _ := strings.Cut(listing, " ")
			s := &tale{conns: strings.TrimPrefix(head[1], "connections stay open: "), clients: strings.TrimPrefix(head[2], "clients ")}
			s.replay = replay{w, path{protocol: lvs.TCP, virtual: netip.MustParseAddrPort(virtual)}}
			s.mustTell(file+": "+title, lines)
			w.checkLoads()
			s.command("-C")
			w.mustExpire()
			stories++
		}
	}
	if stories < 4*17 {
		t.Errorf("only %d stories", stories)
	}
}

// mustTell plays a story: what is not connections has to be what commands say.
func (s *tale) mustTell(title, text string) {
	s.t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for len(lines) > 0 {
		line := lines[0]
		if lines = lines[1:]; line == "" {
			continue
		}
		if strings.HasPrefix(line, "Prot ") { // twice the list, and sorted by nothing the second time
			want := strings.Join(append([]string{line}, lines...), "\n")
			want = want[:strings.LastIndex(want, "\nTCP ")+1]
			if got := s.command("-Ln"); got != want {
				s.t.Errorf("%s: the list is\n%s\nwant\n%s", title, got, want)
			}
			return
		}
		if want, ok := strings.CutPrefix(line, "  "); ok {
			if got := s.burst(len(want)); got != want {
				s.t.Errorf("%s: got %s, want %s", title, got, want)
			}
			continue
		}
		var want string
		for len(lines) > 0 && lines[0] != "" && !strings.HasPrefix(lines[0], "-") && !strings.HasPrefix(lines[0], "  ") {
			want += lines[0] + "\n"
			lines = lines[1:]
		}
		if got := s.command(line); got != want {
			s.t.Errorf("%s: %s says %q, want %q", title, line, got, want)
		}
	}
	s.t.Errorf("%s: no list at the end", title)
}

// command does one of ipvsadm, in which the service was left out, and tells what it says.
func (s *tale) command(command string) string {
	s.t.Helper()
	words := strings.Fields(command)
	if words[0] != "-C" {
		words = append([]string{words[0], "-t", s.virtual.String()}, words[1:]...)
	}
	var said bytes.Buffer
	env := ipvsadm.System(func(ipvsadm.Mode) (lvs.Director, error) { return s.Director, nil })
	env.Stdout, env.Stderr = &said, &said
	if code := ipvsadm.Run(env, append([]string{"ipvsadm"}, words...)); code != 0 {
		fmt.Fprintf(&said, "(exit %d)\n", code)
	}
	return said.String()
}

// burst lets n clients come.
func (s *tale) burst(n int) string {
	s.t.Helper()
	number := s.virtual.Addr().As4() // of the story; their numbers began at 1 in 10.9.0.0/16, elsewhere at 0
	if number[1] == 9 {
		number[3]--
	}
	var took []byte
	for range n {
		client := clientOf(s.clients, s.came)
		client = netip.AddrPortFrom(client.Addr(), client.Port()+3000*uint16(number[3]%10))
		s.came++
		took = append(took, s.connect(client, s.conns == "false"))
	}
	return string(took)
}
