// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lvs"
)

// recorded is a service of a story that was recorded from a Linux 6.1 kernel: clients come while its servers are edited.
type recorded struct {
	t       *testing.T
	d       *Director
	virtual string
	config  lvs.ServiceConfig
	open    bool               // connections stay open
	client  func(k int) string // the address and port of one
	clients int                // so far
	err     error              // of the last command
}

// do does what a command of ipvsadm does, with the address of the service left out.
func (s *recorded) do(command string) {
	s.t.Helper()
	words := strings.Fields(command)
	option := map[string]string{}
	for i, w := range words[:len(words)-1] {
		option[w] = words[i+1]
	}
	c := lvs.ServerConfig{Forward: lvs.Masq}
	fmt.Sscan(option["-w"], &c.Weight)
	fmt.Sscan(option["-x"], &c.Upper)
	switch words[0] {
	case "-A", "-E":
		s.config = lvs.ServiceConfig{Scheduler: option["-s"]}
		switch flag := option["-b"]; {
		case strings.HasSuffix(flag, "-port"):
			s.config.SchedulerFlags = lvs.SchedulerPort
		case strings.HasSuffix(flag, "-fallback"):
			s.config.SchedulerFlags = lvs.SchedulerFallback
		}
		s.err = s.d.Update(func(t *lvs.Table) error {
			if words[0] == "-A" {
				return t.AddService(serviceID(lvs.TCP, s.virtual), s.config)
			}
			return t.EditService(serviceID(lvs.TCP, s.virtual), s.config)
		})
	case "-a":
		s.err = s.d.Update(addServer(lvs.TCP, s.virtual, option["-r"], c))
	case "-e":
		s.err = s.d.Update(editServer(lvs.TCP, s.virtual, option["-r"], c))
	case "-d":
		s.err = s.d.Update(deleteServer(lvs.TCP, s.virtual, option["-r"]))
	default:
		s.t.Fatalf("command %q", command)
	}
}

// burst lets n clients come, and gives the last digit of the server of each, or x.
func (s *recorded) burst(n int) string {
	s.t.Helper()
	if s.err != nil {
		s.t.Fatal(s.err)
	}
	var took []byte
	for range n {
		client := s.client(s.clients)
		s.clients++
		r := s.d.Packet(frame{from: client, to: s.virtual, flags: "S"}.mustPacket(s.t))
		if r.Verdict != Forward {
			took = append(took, 'x')
			continue
		}
		last := r.Frame[ethernetHeader+19]
		took = append(took, '0'+last-10)
		rest := []string{"< SA", "> A"}
		if !s.open {
			rest = append(rest, "> FA", "< FA", "> A")
		}
		mustForward(s.t, s.d, segments(client, s.virtual, fmt.Sprintf("10.2.0.%d:80", last), rest...)...)
	}
	return string(took)
}

// clientOf is client i of a kind, as the recordings were made.
func clientOf(kind string, i, port int) string {
	switch kind {
	case "one":
		return fmt.Sprintf("10.1.0.1:%d", 20000+i+port)
	case "many":
		return fmt.Sprintf("10.1.%d.%d:%d", i*37%256, 1+i*91%254, 20000+i*13%5000+port)
	}
	return fmt.Sprintf("10.1.3.%d:%d", 1+i%6, 21000+i/6*7+port)
}

// TestRecordedEdits: all schedulers answer as recorded, while the same edits happen to each.
func TestRecordedEdits(t *testing.T) {
	text, err := os.ReadFile("../sched/testdata/dynamic.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "== -s ") {
		title, lines, _ := strings.Cut(block, "\n")
		head := strings.Split(title, ", ") // scheduler, connections ..., clients ..., service ..., servers
		if len(head) < 5 {
			continue
		}
		t.Run(head[0]+" "+head[1], func(t *testing.T) {
			s := &recorded{t: t, d: asKernel(t, New(Options{Size: 1000, Route: route})), virtual: strings.TrimPrefix(head[3], "service "),
				open: head[1] == "connections open"}
			s.client = func(k int) string {
				if head[2] == "clients many" {
					return clientOf("many", k%12, 6000+k)
				}
				return clientOf("one", k, 0)
			}
			s.do("-A -s " + head[0])
			for n := range 3 {
				s.do(fmt.Sprintf("-a -r 10.2.0.%d:80 -m -w %d", 11+n, n+1))
			}
			lines, _, _ = strings.Cut(lines, "\nProt ")
			for line := range strings.SplitSeq(lines, "\n") {
				command, want := strings.TrimSpace(line[:min(len(line), 40)]), line[min(len(line), 41):]
				switch {
				case strings.HasPrefix(command, "-"):
					s.do(command)
				case command != "start":
					continue
				}
				if got := s.burst(12); got != want {
					t.Fatalf("%s: got %s, want %s", command, got, want)
				}
			}
			if s.clients != 8*12 {
				t.Errorf("%d connections, want 96", s.clients)
			}
		})
	}
}

// TestRecordedStories: all schedulers answer as recorded, each in random stories with thresholds.
func TestRecordedStories(t *testing.T) {
	files, err := filepath.Glob("testdata/random-*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for block := range strings.SplitSeq(string(text), "== -s ") {
			title, lines, _ := strings.Cut(block, "\n")
			head := strings.Split(title, ", ") // scheduler, connections stay open: ..., clients ...
			if len(head) < 3 {
				continue
			}
			t.Run(filepath.Base(file)+" "+head[0], func(t *testing.T) { tell(t, head, lines) })
		}
	}
}

// firstPort is what was added to clients' ports in a story. Stories were numbered, and their services' addresses by that: in 10.9.0.0/16 from 1
// on, elsewhere from 0 on.
func firstPort(virtual string) int {
	a := netip.MustParseAddrPort(virtual).Addr().As4()
	if a[1] == 9 {
		a[3]--
	}
	return 3000 * int(a[3]%10)
}

func tell(t *testing.T, head []string, lines string) {
	_, after, _ := strings.Cut(lines, "\nTCP  ")
	virtual, _, _ := strings.Cut(after, " ")
	s := &recorded{t: t, d: asKernel(t, New(Options{Size: 1000, Route: route})), virtual: virtual, open: strings.HasSuffix(head[1], "true")}
	s.client = func(k int) string { return clientOf(strings.TrimPrefix(head[2], "clients "), k, firstPort(virtual)) }
	lines, _, _ = strings.Cut(lines, "\nProt ")
	command, bursts := "", 0
	for line := range strings.SplitSeq(lines, "\n") {
		switch {
		case strings.HasPrefix(line, "-"):
			command = line
			s.do(line)
		case strings.HasPrefix(line, "  "):
			bursts++
			want := strings.TrimSpace(line)
			if got := s.burst(len(want)); got != want {
				t.Fatalf("burst %d, after %s: got %s, want %s", bursts, command, got, want)
			}
		case line != "" && line != "(exit 255)":
			if s.err == nil || s.err.Error() != line {
				t.Fatalf("%s: %v, want %s", command, s.err, line)
			}
			s.err = nil
		}
	}
	if bursts != 10 {
		t.Errorf("%d bursts understood, want 10", bursts)
	}
}

// TestEditsThatChangeNothing: even then wrr begins its pass again, as recorded. An edit of the service moves nothing.
func TestEditsThatChangeNothing(t *testing.T) {
	s := &recorded{t: t, d: asKernel(t, New(Options{Size: 1000, Route: route})), virtual: "10.9.0.4:80"}
	s.client = func(k int) string { return clientOf("one", k, 0) }
	s.do("-A -s wrr")
	for n := range 3 {
		s.do(fmt.Sprintf("-a -r 10.2.0.%d:80 -m -w %d", 11+n, n+1))
	}
	for _, c := range []struct{ command, want string }{
		{"", "3213323"},
		{"-e -r 10.2.0.12:80 -m -w 2", "3213323"},
		{"-e -r 10.2.0.12:80 -m -w 2 -x 500", "3213323"},
		{"-E -s wrr", "2133232"},
	} {
		if c.command != "" {
			s.do(c.command)
		}
		if got := s.burst(7); got != c.want {
			t.Errorf("%s: got %s, want %s", c.command, got, c.want)
		}
	}
}
