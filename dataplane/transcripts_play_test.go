// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lvs"
	"lvs/oracle"
)

var (
	recordedSequence = regexp.MustCompile(`(?:port (\d+)(?: \(no listener\))?:? |([\d.]+):(\d+) |: |, |; )([123x]+)\b`)
	recordedBurst    = regexp.MustCompile(`^[12]+$`)
	recordedClient   = regexp.MustCompile(`^client (\S+?):? `)
)

// statement is what clients have done, and how they fared.
func (r *transcript) statement(line string) {
	r.t.Helper()
	client, keep := r.client, strings.Contains(line, "open")
	if m := recordedClient.FindStringSubmatch(line); m != nil {
		client = m[1]
	} else if r.mark != 0 {
		client = "10.1.0.9"
	}
	switch {
	case r.counted && r.witnessed(line):
	case r.phase(line):
	case recordedBurst.MatchString(line):
		r.sequence(line, client, 80, line, true)
	case line == "new connection: !refused":
		r.port++
		if to, ok := r.segment(netip.AddrPortFrom(netip.MustParseAddr(client), r.port), netip.AddrPortFrom(r.virtual, 80), syn); ok {
			r.t.Errorf("a new connection gets to %v, want %s", to, line)
		}
	case strings.HasPrefix(line, "service made again"):
		service := fmt.Sprintf("-t %v:80", r.virtual)
		r.run("-A " + service + " -s rr")
		r.servers(service, "")
		r.old(line)
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
			port, _ := strconv.Atoi(m[1] + m[3])
			if port == 0 {
				port = 80
			}
			if m[2] != "" {
				r.virtual = netip.MustParseAddr(m[2])
			}
			r.sequence(line, client, uint16(port), m[4], keep)
		}
	}
}

// old lets a connection that was kept go on.
func (r *transcript) old(line string) {
	r.t.Helper()
	if strings.Contains(line, "broken pipe") { // the client has no connection any more
		return
	}
	c := r.open[0]
	if strings.HasPrefix(line, "old connection") && len(r.open) > 1 {
		r.open = r.open[1:]
	}
	answered := !strings.Contains(line, "timeout") && !strings.Contains(line, "reset") || strings.HasPrefix(line, "the server added") || strings.HasPrefix(line, "service made") // its TCP waits before it tries again
	if to, ok := r.segment(c.client, c.virtual, ack|psh); ok != answered || ok && to != c.server {
		r.t.Errorf("an old connection gets to %v (%v), want %s", to, ok, line)
	}
	if !strings.Contains(r.title, "it was the last one") {
		return
	}
	// the kernel's hooks go with the last service, so that the director's own TCP resets the connection; ours stay
	want := oracle.Drop
	if strings.Contains(r.title, "expire_nodest_conn=1") {
		want = oracle.Pass
	}
	if r.verdict != want {
		r.t.Errorf("a connection of the last service: %v, want %v", r.verdict, want)
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

// digitOf is a server's number: 10.2.0.11 and 2001:db8:2::11 are 1.
func digitOf(server netip.AddrPort) byte {
	if b := server.Addr().As16(); server.Addr().Is6() {
		return '0' + b[15] - 0x10
	}
	return '0' + server.Addr().As4()[3] - 10
}

// connect opens a connection, and closes it unless it is to be kept: the number of its server, or x.
func (r *transcript) connect(client string, port uint16, keep bool) byte {
	r.port++
	c := tcpClient{client: netip.AddrPortFrom(netip.MustParseAddr(client), r.port), virtual: netip.AddrPortFrom(r.virtual, port)}
	to, ok := r.segment(c.client, c.virtual, syn)
	if !ok {
		return 'x'
	}
	c.server = to
	by := r.digit()
	segments := []string{"< SA", "> A", "> FA", "< FA", "> A"}
	if keep {
		r.open, segments = append(r.open, c), segments[:2]
	}
	for _, s := range segments {
		r.say(c, s)
	}
	return by
}

// say lets one segment pass: "> S" goes to the server, "< PA4", with 4 bytes, comes from it, which the director does not see but with NAT.
func (r *transcript) say(c tcpClient, segment string) {
	r.t.Helper()
	var flags byte
	letters := strings.TrimRight(segment[2:], "0123456789")
	for _, l := range letters {
		flags |= map[rune]byte{'S': syn, 'A': ack, 'F': fin, 'R': rst, 'P': psh}[l]
	}
	payload, _ := strconv.Atoi(segment[2+len(letters):])
	if segment[0] == '>' {
		r.pass(tcpSegment(c.client, c.virtual, flags, payload))
	} else if r.forward == "-m" {
		r.pass(tcpSegment(c.server, c.client, flags, payload))
	}
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
	return r.pass(tcpSegment(from, to, flags, 0))
}

// tcpSegment has the options that segments of Linux have.
func tcpSegment(from, to netip.AddrPort, flags byte, payload int) wire {
	w := wire{protocol: lvs.TCP, from: from, to: to, flags: flags, ttl: 64, fragment: 0x4000, words: 3, payload: payload}
	if flags&syn != 0 {
		w.words = 5
	}
	if from.Addr().Is6() {
		w.fragment = 0
	}
	return w
}

// sideOf is where a packet comes from.
func (r *transcript) sideOf(w wire) int {
	if hop, ok := r.route(w.from.Addr()); ok {
		return hop.Interface
	}
	return clientSide
}

// pass passes a packet to both, and tells where it goes to.
func (r *transcript) pass(w wire) (netip.AddrPort, bool) {
	r.t.Helper()
	side := r.sideOf(w)
	if side == clientSide {
		w.mark = r.mark
	}
	return r.handle(w, side, w.frame(r.sides[side].mac, r.sides[side].far))
}

func (r *transcript) handle(w wire, side int, frame []byte) (netip.AddrPort, bool) {
	r.t.Helper()
	want := r.judge.Packet(oracle.Packet{Interface: side, Frame: frame, Mark: w.mark})
	got := r.mustHandle(r.t, side, frame, w.mark)
	r.verdict, r.sent = want.Verdict, nil
	refused := want.Verdict == oracle.Answer
	if refused { // the answer is sent as others are
		want.Verdict = oracle.Forward
	}
	if got.Verdict != want.Verdict {
		r.t.Fatalf("%v to %v: %v, want %v %q", w.from, w.to, got.Verdict, want.Verdict, want.Reason)
	}
	if want.Frame == nil {
		return netip.AddrPort{}, false
	}
	r.sent = got.Frame
	copy(r.toward[:], want.Frame)
	mustIdentify(r.t, got.Frame, want.Frame, frame)
	if !bytes.Equal(got.Frame[14:], want.Frame[14:]) {
		r.t.Fatalf("%v to %v becomes\n% x, want\n% x", w.from, w.to, got.Frame, want.Frame)
	}
	if byKernel := bytes.Equal(got.Frame[:12], frame[:12]); !byKernel && !bytes.Equal(got.Frame[:12], want.Frame[:12]) {
		r.t.Fatalf("%v to %v goes to % x, want % x", w.from, w.to, got.Frame[:12], want.Frame[:12])
	}
	if refused {
		return netip.AddrPort{}, false
	}
	if got.Frame[12] == 0x86 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(got.Frame[38:54])), uint16(got.Frame[56])<<8|uint16(got.Frame[57])), true
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(got.Frame[30:34])), uint16(got.Frame[36])<<8|uint16(got.Frame[37])), true
}

// digit is the number of the server that the last packet went to.
func (r *transcript) digit() byte { return '0' + r.toward[5] }
