// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"lvs"
	"lvs/ipvsadm"
	"lvs/oracle"
)

// TestRecordedTranscripts plays what was recorded from a Linux 6.1 kernel and its ipvsadm: commands and their output, and where
// clients got to. The program and the oracle both have to answer as the recording does.
func TestRecordedTranscripts(t *testing.T) {
	for name, withXDP := range map[string]bool{"tc": false, "xdp": true} {
		t.Run(name, func(t *testing.T) {
			s := mustStage(t, withXDP)
			for n := range 4 {
				mustDo(t, "neighbour", netlink.NeighSet(&netlink.Neigh{LinkIndex: s.sides[serverSide].index, State: netlink.NUD_PERMANENT,
					IP: net.IPv4(10, 2, 0, byte(11+n)), HardwareAddr: s.sides[serverSide].far[:]}))
			}
			played := 0
			for _, file := range []string{"persistence", "quiesce", "removal", "thresholds"} {
				text, err := os.ReadFile("testdata/transcripts/" + file + ".txt")
				mustDo(t, file, err)
				for section := range strings.SplitSeq(strings.TrimPrefix(string(text), "== "), "\n== ") {
					title, lines, _ := strings.Cut(section, "\n")
					if strings.HasPrefix(title, "service removed") || withXDP && strings.HasPrefix(title, "firewall mark") {
						continue // the director's own TCP answers there; XDP comes before the firewall
					}
					played++
					t.Log(title) // in no goroutine of its own, which would be in another namespace
					r := &transcript{stage: s, t: t, title: title, lines: strings.Split(lines, "\n"), port: 40000}
					r.virtual = netip.MustParseAddr(recordedVirtual.FindString(lines))
					r.play()
				}
			}
			if want := map[bool]int{false: 12, true: 11}[withXDP]; played != want {
				t.Errorf("%d sections played, want %d", played, want)
			}
		})
	}
}

var recordedVirtual = regexp.MustCompile(`10\.9\.200\.\d+`)

// transcript is a section of a recording while it is played.
type transcript struct {
	*stage
	t       *testing.T
	title   string
	lines   []string
	virtual netip.Addr
	mark    uint32
	port    uint16      // the next client's
	open    []tcpClient // connections that are kept
}

// tcpClient is a connection, in both its halves.
type tcpClient struct{ client, virtual, server netip.AddrPort }

func (r *transcript) play() {
	r.mustBegin(r.t, 1<<20)
	r.prepare()
	for len(r.lines) > 0 {
		line := r.lines[0]
		r.lines = r.lines[1:]
		if command, ok := strings.CutPrefix(line, "dir$ "); ok {
			r.command(command, r.output())
		} else if line != "" {
			r.statement(line)
		}
		r.checkState(r.t)
	}
	r.mustEnd(r.t)
}

// prepare makes what the title of a section tells of.
func (r *transcript) prepare() {
	kind, _, _ := strings.Cut(r.title, " ")
	switch service := fmt.Sprintf("-t %v:80", r.virtual); kind {
	case "persistent":
		r.run("-A " + service + " -s rr -p 300")
		r.servers(service, "", "")
	case "destination":
		_, options, _ := strings.Cut(r.title, "service options:")
		r.run("-A " + service + " -s rr" + options)
		r.servers(service, "", "")
	case "no":
		r.run("-A " + service + " -s rr")
		r.servers(service, "", "")
		r.connect("10.1.0.1", 80, true)
	case "rr,":
		_, limits, _ := strings.Cut(r.title, "with ")
		limits, _, _ = strings.Cut(limits, ",")
		r.run("-A " + service + " -s rr")
		r.servers(service, " "+limits, "")
	case "firewall":
		r.mark = 77
		r.run("-A " + service + " -s rr")
		r.run("-a " + service + " -r 10.2.0.14:80 -m")
	}
}

// servers adds a server for each text of options.
func (r *transcript) servers(service string, options ...string) {
	port := ""
	if i := strings.LastIndexByte(service, ':'); i >= 0 {
		port = service[i:]
	}
	for n, o := range options {
		r.run(fmt.Sprintf("-a %s -r 10.2.0.%d%s -m%s", service, 11+n, port, o))
	}
}

// run has ipvsadm change or list both tables, which have to answer alike.
func (r *transcript) run(command string) string {
	r.t.Helper()
	var outs [2]bytes.Buffer
	for n, d := range []lvs.Director{r.Director, r.judge} {
		env := ipvsadm.Env{Stdin: strings.NewReader(""), Stdout: &outs[n], Stderr: &outs[n], Open: func(ipvsadm.Mode) (lvs.Director, error) { return d, nil }}
		if code := ipvsadm.Run(env, append([]string{"ipvsadm"}, strings.Fields(command)...)); code != 0 {
			r.t.Fatalf("ipvsadm %s: exit %d, %s", command, code, outs[n].String())
		}
	}
	r.mustSweep(r.t)
	if got, want := sortedRows(outs[0].String()), sortedRows(outs[1].String()); got != want {
		r.t.Fatalf("ipvsadm %s:\n%swant, by the oracle\n%s", command, got, want)
	}
	return outs[0].String()
}

var tableSize = regexp.MustCompile(`\(size=\d+\)`)

func sortedRows(text string) string {
	rows := strings.SplitAfter(tableSize.ReplaceAllString(text, "(size=N)"), "\n")
	slices.Sort(rows)
	return strings.Join(rows, "")
}

// output takes the lines that a command has printed.
func (r *transcript) output() (all []string) {
	for len(r.lines) > 0 && regexp.MustCompile(`^(IP Virtual|Prot |  ->|TCP |UDP |net\.)`).MatchString(r.lines[0]) {
		all, r.lines = append(all, r.lines[0]), r.lines[1:]
	}
	return all
}

func (r *transcript) command(text string, want []string) {
	r.t.Helper()
	if setting, ok := strings.CutPrefix(text, "sysctl -w net.ipv4.vs."); ok {
		name, value, _ := strings.Cut(setting, "=")
		n, err := lvs.Setting(name)
		mustDo(r.t, text, err)
		change := func(s *lvs.Settings) error { return n.Set(s, value) }
		mustDo(r.t, text, r.Set(change))
		mustDo(r.t, text, r.judge.Set(change))
		return
	}
	text = strings.TrimPrefix(text, "ipvsadm ")
	if change, _, ok := strings.Cut(text, "   (and rs1..rs3"); ok {
		if v := recordedVirtual.FindString(change); v != "" && v != r.virtual.String() {
			r.run("-C")
			r.virtual = netip.MustParseAddr(v)
		}
		r.run(change)
		r.servers(strings.Join(strings.Fields(change)[1:3], " "), "", "", "")
		return
	}
	text, filter, _ := strings.Cut(text, " | ")
	got := strings.Split(strings.TrimSuffix(r.run(text), "\n"), "\n")
	switch {
	case strings.HasPrefix(text, "-Lnc"):
		r.checkConns(got, want)
		return
	case filter == "tail -n 2":
		got = got[len(got)-2:]
	case got[0] == "":
		got = nil
	}
	if sortedRows(strings.Join(got, "\n")) != sortedRows(strings.Join(want, "\n")) {
		r.t.Fatalf("ipvsadm %s:\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// checkConns compares listings but for the ports of clients, and for the seconds that the recorded ones took.
func (r *transcript) checkConns(got, want []string) {
	r.t.Helper()
	rows := func(lines []string) (all []string, left []int) {
		for _, line := range lines {
			f := strings.Fields(line)
			if len(f) != 6 || !strings.HasPrefix(f[4], r.virtual.String()+":") {
				continue
			}
			minutes, seconds, _ := strings.Cut(f[1], ":")
			client, port, _ := strings.Cut(f[3], ":")
			if port != "0" {
				port = "any"
			}
			m, _ := strconv.Atoi(minutes)
			s, _ := strconv.Atoi(seconds)
			all = append(all, fmt.Sprint(f[0], " ", f[2], " ", client, ":", port, " ", f[4], " ", f[5], " ", fmt.Sprintf("%06d", m*60+s)))
		}
		slices.Sort(all)
		for i, row := range all {
			at := strings.LastIndexByte(row, ' ')
			n, _ := strconv.Atoi(row[at+1:])
			all[i], left = row[:at], append(left, n)
		}
		return all, left
	}
	g, gotLeft := rows(got)
	w, wantLeft := rows(want)
	if !slices.Equal(g, w) {
		r.t.Fatalf("connections\n%s\nwant\n%s", strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
	for i := range w {
		if late := gotLeft[i] - wantLeft[i]; late < 0 || late > 12 {
			r.t.Errorf("%s: %d s left, want %d", w[i], gotLeft[i], wantLeft[i])
		}
	}
}

var (
	recordedSequence = regexp.MustCompile(`(?:port (\d+)(?: \(no listener\))?:? |: |, |; )([123x]+)\b`)
	recordedClient   = regexp.MustCompile(`^client (\S+?):? `)
)

// statement is what clients have done, and how they fared.
func (r *transcript) statement(line string) {
	r.t.Helper()
	client, keep := "10.1.0.1", strings.Contains(line, "open")
	if m := recordedClient.FindStringSubmatch(line); m != nil {
		client = m[1]
	} else if r.mark != 0 {
		client = "10.1.0.9"
	}
	switch {
	case strings.Contains(line, "old connection"):
		r.old(line)
	case strings.HasPrefix(line, "connected to"):
		if r.open == nil {
			r.connect(client, 80, true)
		}
		if got := fmt.Sprintf("connected to rs%c", digitOf(r.open[0].server)); !strings.HasPrefix(line, got) {
			r.t.Errorf("%s, want %s", got, line)
		}
	case strings.HasPrefix(line, "after 5 s"):
		r.mustAdvance(r.t, 5*r.in.hz)
	case strings.HasPrefix(line, "wlc, ") || strings.HasPrefix(line, "wrr, "):
		_, sequences, _ := strings.Cut(line, ": ")
		for n, want := range strings.Fields(sequences) {
			r.sequence(line, fmt.Sprintf("10.1.0.%d", n+1), 80, want, false)
		}
	case strings.HasPrefix(line, "one of rs1's"):
		i := slices.IndexFunc(r.open, func(c tcpClient) bool { return digitOf(c.server) == '1' })
		r.segment(r.open[i].client, r.open[i].virtual, rst)
		r.open = slices.Delete(r.open, i, i+1)
		r.mustAdvance(r.t, 23*r.in.hz/2)
		r.sequence(line, client, 80, line[strings.LastIndexByte(line, ' ')+1:], true)
	default:
		all := recordedSequence.FindAllStringSubmatch(line, -1)
		if all == nil {
			r.t.Fatalf("statement %q", line)
		}
		for _, m := range all {
			port, _ := strconv.Atoi(m[1])
			if port == 0 {
				port = 80
			}
			r.sequence(line, client, uint16(port), m[2], keep)
		}
	}
}

// old lets a connection that was kept go on.
func (r *transcript) old(line string) {
	r.t.Helper()
	c := r.open[0]
	if strings.HasPrefix(line, "old connection") && len(r.open) > 1 {
		r.open = r.open[1:]
	}
	answered := !strings.Contains(line, "timeout") || strings.HasPrefix(line, "the server added") // its TCP waits before it tries again
	if to, ok := r.segment(c.client, c.virtual, ack|psh); ok != answered || ok && to != c.server {
		r.t.Errorf("an old connection gets to %v (%v), want %s", to, ok, line)
	}
}

func (r *transcript) sequence(line, client string, port uint16, want string, keep bool) {
	r.t.Helper()
	var got []byte
	for range want {
		if port == 99 { // where nobody listens
			got = append(got, r.refused(client))
		} else {
			got = append(got, r.connect(client, port, keep))
		}
	}
	if string(got) != want {
		r.t.Fatalf("got %s, want %s", got, line)
	}
}

func digitOf(server netip.AddrPort) byte { return '0' + server.Addr().As4()[3] - 10 }

// connect opens a connection, and closes it unless it is to be kept: the number of its server, or x.
func (r *transcript) connect(client string, port uint16, keep bool) byte {
	r.port++
	c := tcpClient{client: netip.AddrPortFrom(netip.MustParseAddr(client), r.port), virtual: netip.AddrPortFrom(r.virtual, port)}
	to, ok := r.segment(c.client, c.virtual, syn)
	if !ok {
		return 'x'
	}
	c.server = to
	r.segment(c.server, c.client, syn|ack)
	r.segment(c.client, c.virtual, ack)
	if keep {
		r.open = append(r.open, c)
		return digitOf(to)
	}
	r.segment(c.client, c.virtual, fin|ack)
	r.segment(c.server, c.client, fin|ack)
	r.segment(c.client, c.virtual, ack)
	return digitOf(to)
}

func (r *transcript) refused(client string) byte {
	r.port++
	from := netip.AddrPortFrom(netip.MustParseAddr(client), r.port)
	if to, ok := r.segment(from, netip.AddrPortFrom(r.virtual, 99), syn); ok {
		r.segment(to, from, rst|ack)
	}
	return 'x'
}

// segment passes both, and tells where it goes to.
func (r *transcript) segment(from, to netip.AddrPort, flags byte) (netip.AddrPort, bool) {
	r.t.Helper()
	side := clientSide
	if from.Addr().As4()[1] == 2 {
		side = serverSide
	}
	w := wire{protocol: lvs.TCP, from: from, to: to, flags: flags, ttl: 64, fragment: 0x4000}
	if side == clientSide {
		w.mark = r.mark
	}
	s := r.sides[side]
	frame := w.frame(s.mac, s.far)
	want := r.judge.Packet(oracle.Packet{Interface: side, Frame: frame, Mark: w.mark})
	got := r.mustHandle(r.t, side, frame, w.mark)
	if got.Verdict != want.Verdict {
		r.t.Fatalf("%v to %v: %v, want %v %q", from, to, got.Verdict, want.Verdict, want.Reason)
	}
	if want.Frame == nil {
		return netip.AddrPort{}, false
	}
	if !bytes.Equal(got.Frame[14:], want.Frame[14:]) {
		r.t.Fatalf("%v to %v becomes\n% x, want\n% x", from, to, got.Frame, want.Frame)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(got.Frame[30:34])), uint16(got.Frame[36])<<8|uint16(got.Frame[37])), true
}
