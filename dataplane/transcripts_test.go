// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"lvs/oracle"
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
			s.mustRecordedHosts(t)
			played := 0
			for _, file := range []string{"persistence", "masks", "prefixes", "quiesce", "removal", "thresholds", "states", "timeouts", "stats", "misc", "modes", "icmp"} {
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
					r := newTranscript(s, t, file, title, lines)
					r.play()
				}
			}
			if want := map[string]int{"tc": 80, "xdp": 80, "firewall": 3}[name]; played != want {
				t.Errorf("%d sections played, want %d", played, want)
			}
		})
	}
}

// mustRecordedHosts says who is there: servers with MAC addresses of their own, by which they are told apart, and clients.
func (s *stage) mustRecordedHosts(t *testing.T) {
	t.Helper()
	s.macs = map[netip.Addr][6]byte{}
	know := func(side int, address string, mac [6]byte) {
		mustDo(t, "neighbour", netlink.NeighSet(&netlink.Neigh{LinkIndex: s.sides[side].index, State: netlink.NUD_PERMANENT,
			IP: net.ParseIP(address), HardwareAddr: mac[:]}))
		s.macs[netip.MustParseAddr(address)] = mac
	}
	for n := range byte(4) {
		for _, a := range []string{"10.2.0.%d", "2001:db8:2::%d"} {
			know(serverSide, fmt.Sprintf(a, 11+n), [6]byte{2, 0, 0, 0, 1, 1 + n})
		}
	}
	for _, a := range []string{"10.1.0.5", "10.1.0.6", "10.1.0.8", "10.1.200.200", "2001:db8::2"} {
		know(clientSide, a, s.sides[clientSide].far)
	}
}

// unplayed says why a section is left out.
func unplayed(title, hook string) string {
	if marks := strings.Contains(title, "irewall mark"); marks != (hook == "firewall") {
		return "it is about the firewall, or not"
	}
	return ""
}

// forwardOf is the option for the forwarding method that a section is about.
func forwardOf(title string) string {
	for option, method := range map[string]string{"-g": `^DR\b|in DR mode`, "-i": `^TUN\b|^tunnel`} {
		if regexp.MustCompile(method).MatchString(title) {
			return option
		}
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
	client  string
	port    uint16      // the next client's
	open    []tcpClient // connections that are kept
	before  []func()    // what happens before each command, where no line tells of it

	counted  bool                    // the recording has all packets, or their sums
	captures bool                    // packets were captured
	gets     map[string]byte         // the number of the server that is to get a protocol's packets
	sees     []string                // its end of the connection, and the other one
	spreads  map[netip.Addr][]uint16 // source ports of GUE

	verdict oracle.Verdict // about the last packet
	sent    []byte         // what became of it
	toward  [6]byte        // the MAC address that it goes to
}

func newTranscript(s *stage, t *testing.T, file, title, lines string) *transcript {
	r := &transcript{stage: s, t: t, title: title, lines: strings.Split(lines, "\n"), client: "10.1.0.1", port: 40000, forward: forwardOf(title)}
	r.virtual = netip.MustParseAddr("10.9.200.62") // where the recording names none
	if a := recordedVirtual.FindString(lines); a != "" {
		r.virtual = netip.MustParseAddr(a)
	}
	r.counted = slices.Contains([]string{"stats", "modes", "icmp"}, file)
	r.captures = strings.Contains(lines, "packets on ")
	r.gets, r.spreads = map[string]byte{}, map[netip.Addr][]uint16{}
	return r
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
			if len(r.before) != 0 {
				r.before[0]()
				r.before = r.before[1:]
			}
			r.command(command, r.output())
		} else if host, command, ok := strings.Cut(line, "$ "); ok && !strings.Contains(host, " ") {
			r.elsewhere(command)
		} else if line != "" {
			r.statement(line)
		}
		r.checkState(r.t)
	}
	for server, ports := range r.spreads {
		if len(slices.Compact(ports)) != 1 {
			r.t.Errorf("packets of one connection come to %v from ports %v", server, ports)
		}
	}
	r.mustEnd(r.t)
}

// prepare makes what the title of a section tells of.
func (r *transcript) prepare() {
	kind, _, _ := strings.Cut(r.title, " ")
	if strings.Contains(r.title, "irewall mark") {
		r.mark = 77
	}
	switch service, other := fmt.Sprintf("-t %v:80", r.virtual), fmt.Sprintf("-t %v:81", r.virtual); kind {
	case "DR":
		r.port = 34002 // of the only client that has no packets recorded
	case "IPv6,":
		r.client, r.port = "2001:db8::2", 35999
	case "only", "VIP,", "ping":
		r.run("-A " + service + " -s rr")
	case "tunnel:":
		service = fmt.Sprintf("-u %v:53", r.virtual)
		r.run("-A " + service + " -s rr")
		r.servers(service, "")
	case "fragmentation", "ActiveConn/InActConn", "the":
		r.run("-A " + service + " -s rr")
		if strings.Contains(r.title, "formats") {
			r.run("-a " + service + " -r 10.2.0.11:8080 -m")
			r.port = 48199
			r.connect("10.1.200.200", 80, true)
			return
		}
		r.servers(service, "")
		if kind[0] == 'A' {
			r.before = []func(){func() { r.greet(48100) }, func() { r.talk(48100, 80, "> FA", "< FA", "> A") }}
		}
	case "NAT,", "DR,", "TUN,", "large":
		if strings.Contains(r.title, "UDP") {
			break
		}
		r.run("-A " + other + " -s rr")
		r.servers(other, "")
		if kind == "large" {
			r.before = []func(){r.manyBytes}
		}
	case "rates:":
		service = fmt.Sprintf("-u %v:53", r.virtual)
		r.run("-A " + service + " -s rr")
		r.servers(service, "")
		r.before = []func(){func() { r.datagrams(9, 17) }, func() { r.datagrams(4) }}
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
