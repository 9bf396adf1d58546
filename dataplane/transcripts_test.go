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
)

// TestRecordedTranscripts plays what was recorded from a Linux 6.1 kernel and its ipvsadm: commands and their output, and where
// clients got to. The program and the oracle both have to answer as the recording does.
func TestRecordedTranscripts(t *testing.T) {
	for _, name := range []string{"tc", "xdp", "firewall"} {
		t.Run(name, func(t *testing.T) {
			withXDP := name == "xdp"
			s := mustStage(t, withXDP)
			if name == "firewall" {
				s.mustFirewall(t)
			}
			for n := range 4 {
				for _, a := range []string{fmt.Sprintf("10.2.0.%d", 11+n), fmt.Sprintf("2001:db8:2::%d", 11+n)} {
					mustDo(t, "neighbour", netlink.NeighSet(&netlink.Neigh{LinkIndex: s.sides[serverSide].index, State: netlink.NUD_PERMANENT,
						IP: net.ParseIP(a), HardwareAddr: s.sides[serverSide].far[:]}))
				}
			}
			played := 0
			for _, file := range []string{"persistence", "masks", "prefixes", "quiesce", "removal", "thresholds", "states", "timeouts", "stats", "misc"} {
				text, err := os.ReadFile("testdata/transcripts/" + file + ".txt")
				mustDo(t, file, err)
				_, sections, _ := strings.Cut("\n"+string(text), "\n== ")
				for section := range strings.SplitSeq(sections, "\n== ") {
					title, lines, _ := strings.Cut(section, "\n")
					if why := unplayed(title, name); why != "" {
						t.Log(title, "is not played:", why)
						continue
					}
					played++
					t.Log(title) // in no goroutine of its own, which would be in another namespace
					r := &transcript{stage: s, t: t, title: title, lines: strings.Split(lines, "\n"), port: 40000, forward: forwardOf(title)}
					r.virtual = netip.MustParseAddr(recordedVirtual.FindString(lines))
					r.play()
				}
			}
			if want := map[string]int{"tc": 53, "xdp": 53, "firewall": 3}[name]; played != want {
				t.Errorf("%d sections played, want %d", played, want)
			}
		})
	}
}

// unplayed says why a section is left out.
func unplayed(title, hook string) string {
	for what, why := range map[string]string{
		"expire_nodest_conn=0, it was the last one": "the kernel's hooks go with the last service, ours stay",
		"TCP: ":                    "how many packets there are is up to the hosts",
		"rates: ":                  "takes time",
		"large numbers":            "takes a hundred million bytes",
		"over a connection's life": "played with the states",
		"formats with IPv4 long":   "how entries are listed is known from ipvsadm's recordings",
		"sysctls of a namespace":   "what differs is in docs/COMPATIBILITY.md",
	} {
		if strings.Contains(title, what) {
			return why
		}
	}
	if marks := strings.Contains(title, "irewall mark"); marks != (hook == "firewall") {
		return "it is about the firewall, or not"
	}
	return ""
}

// forwardOf is the option for the forwarding method that a section is about.
func forwardOf(title string) string {
	method, _, _ := strings.Cut(title, ",")
	if option, ok := map[string]string{"DR": "-g", "TUN": "-i"}[method]; ok {
		return option
	}
	return "-m"
}

var recordedVirtual = regexp.MustCompile(`10\.9\.200\.\d+|2001:db8:9::[0-9a-f]+`)

// transcript is a section of a recording while it is played.
type transcript struct {
	*stage
	t       *testing.T
	title   string
	lines   []string
	virtual netip.Addr
	forward string // an option of ipvsadm
	mark    uint32
	port    uint16      // the next client's
	open    []tcpClient // connections that are kept
}

// tcpClient is a connection, in both its halves.
type tcpClient struct{ client, virtual, server netip.AddrPort }

func (r *transcript) play() {
	r.mustBegin(r.t, 1<<20)
	mustDo(r.t, "settings", r.Set(asKernel))
	mustDo(r.t, "settings", r.judge.Set(asKernel))
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
	if strings.Contains(r.title, "irewall mark") {
		r.mark = 77
	}
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
	case "closed":
		r.run("-A " + service + " -s rr")
		r.servers(service, " -x 4", "")
	case "thresholds":
		r.run("-A " + service + " -s rr -p 300")
		r.servers(service, " -x 2", " -x 2")
	case "service":
		if strings.Contains(r.title, "expire_nodest_conn=1") {
			r.command("sysctl -w net.ipv4.vs.expire_nodest_conn=1", nil)
		}
		if strings.Contains(r.title, "another service") {
			r.run("-A -t 10.9.201.1:80 -s rr")
		}
		r.run("-A " + service + " -s rr")
		r.servers(service, "")
	case "edit":
		r.run("-A " + service + " -s wlc")
		r.servers(service, "", "")
	case "ipvsadm", "expiry:":
		datagrams := fmt.Sprintf("-u %v:53", r.virtual)
		for _, s := range []string{service, datagrams} {
			r.run("-A " + s + " -s rr")
			r.servers(s, "")
		}
		if kind == "expiry:" {
			r.run("--set 3 2 2")
			r.come(47010)
		} else {
			r.come(47000)
		}
	case "firewall":
		if strings.Contains(r.title, "which wins") {
			r.run("-A " + service + " -s rr")
			r.run("-a " + service + " -r 10.2.0.14:80 -m")
		}
	}
	if strings.HasSuffix(r.title, "two client ports") {
		service := fmt.Sprintf("-u %v:53", r.virtual)
		r.run("-A " + service + " -s rr")
		r.servers(service, "", "")
	}
}

// servers adds a server for each text of options.
func (r *transcript) servers(service string, options ...string) {
	port := ""
	if i := strings.LastIndexByte(service, ':'); i >= 0 {
		port = service[i:]
	}
	for n, o := range options {
		server := fmt.Sprintf("10.2.0.%d", 11+n)
		if r.virtual.Is6() {
			server = fmt.Sprintf("[2001:db8:2::%d]", 11+n)
		}
		r.run(fmt.Sprintf("-a %s -r %s%s %s%s", service, server, port, r.forward, o))
	}
}

// run has ipvsadm change or list both tables, which have to answer alike.
func (r *transcript) run(command string) string {
	r.t.Helper()
	var outs [2]bytes.Buffer
	for n, d := range []lvs.Director{r.Director, r.judge} {
		env := ipvsadm.Env{Stdin: strings.NewReader(""), Stdout: &outs[n], Stderr: &outs[n], Open: func(ipvsadm.Mode) (lvs.Director, error) { return d, nil }}
		if code := ipvsadm.Run(env, append([]string{"ipvsadm"}, strings.Fields(command)...)); code != 0 && command[1] != 'L' {
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
	for len(r.lines) > 0 && regexp.MustCompile(`^(IP Virtual|Prot |  ->|TCP |UDP |FWM |IP +\d\d:|net\.|Timeout |No such service)`).MatchString(r.lines[0]) {
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
	if strings.HasPrefix(text, "cat ") { // what only the kernel has
		r.skip("   ")
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
	var got []string
	for _, one := range strings.Split(text, "; ") {
		one, filter, _ := strings.Cut(strings.TrimPrefix(one, "ipvsadm "), " | ")
		switch {
		case strings.HasPrefix(one, "cat "):
			continue
		case strings.HasPrefix(one, "-Lnc"):
			r.checkConns(strings.Split(r.run(one), "\n"), want, filter)
			return
		case strings.HasPrefix(one, "-Ln --stats") && !strings.HasSuffix(r.title, "two client ports"):
			// how many packets there are is up to the hosts
			for n, line := range slices.Backward(want) {
				if line == want[0] {
					want = want[:n]
					break
				}
			}
			continue
		case strings.HasPrefix(one, "-A ") && r.serves(one): // the recorder had cleared the table
			r.run("-C")
		}
		said := strings.Split(strings.TrimSuffix(r.run(one), "\n"), "\n")
		var n int
		if _, err := fmt.Sscanf(filter, "tail -n %d", &n); err == nil {
			said = said[max(0, len(said)-n):]
		}
		if said[0] != "" {
			got = append(got, said...)
		}
	}
	if sortedRows(strings.Join(got, "\n")) != sortedRows(strings.Join(want, "\n")) {
		r.t.Fatalf("ipvsadm %s:\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// serves says whether the table has the service that a command is to add.
func (r *transcript) serves(add string) bool {
	r.t.Helper()
	t, err := r.judge.Table()
	mustDo(r.t, "table", err)
	for _, s := range t.Services() {
		if strings.Contains(add, " "+netip.AddrPortFrom(s.Addr, s.Port).String()+" ") {
			return true
		}
	}
	return false
}

// skip takes lines that begin so.
func (r *transcript) skip(prefixes ...string) {
	for len(r.lines) > 0 && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(r.lines[0], p) }) {
		r.lines = r.lines[1:]
	}
}

// checkConns compares listings but for the ports of clients, and for the seconds that the recorded ones took.
func (r *transcript) checkConns(got, want []string, filter string) {
	r.t.Helper()
	of := []string{r.virtual.String()} // what listings were searched for, each the beginning of an address of ours
	if _, pattern, ok := strings.Cut(filter, "-E '"); ok {
		pattern, _, _ = strings.Cut(pattern, "'")
		of = strings.Split(pattern, "|")
	}
	rows := func(lines []string) (all []string, left []int) {
		for _, line := range lines {
			f := strings.Fields(line)
			if len(f) != 6 || !slices.ContainsFunc(of, func(a string) bool {
				host := f[4][:max(0, strings.LastIndexByte(f[4], ':'))]
				return strings.Trim(host, "[]") == strings.TrimSuffix(a, ":")
			}) {
				continue
			}
			minutes, seconds, _ := strings.Cut(f[1], ":")
			client, port := f[3][:strings.LastIndexByte(f[3], ':')], f[3][strings.LastIndexByte(f[3], ':')+1:]
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
	if strings.Contains(filter, "head") { // the first ones in an order that is up to the clock
		for _, row := range w {
			if !slices.Contains(g, row) {
				r.t.Errorf("no connection %s", row)
			}
		}
		return
	}
	if !slices.Equal(g, w) {
		r.t.Fatalf("connections\n%s\nwant\n%s", strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
	for i := range w {
		if late := gotLeft[i] - wantLeft[i]; late < 0 || late > 12 && (late > 40 || r.title != "TUN") { // recorded on a busy machine
			r.t.Errorf("%s: %d s left, want %d", w[i], gotLeft[i], wantLeft[i])
		}
	}
}
