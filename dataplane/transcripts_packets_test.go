// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lvs"
	"lvs/oracle"
)

// Where packets were captured, those are played again: what came in is made of what the capture has of it, and what leaves is told in
// tcpdump's words and compared.

var (
	recordedSees    = regexp.MustCompile(`^the server sees local address rs\d ([\d.:]+), peer rs\d ([\d.:]+)$`)
	recordedServer  = regexp.MustCompile(`^(tcp|udp): rs(\d)$`)
	recordedQuoted  = regexp.MustCompile(`> ([\d.]+)\.(\d+): +\[\|tcp\]`)
	recordedTold    = regexp.MustCompile(`\(mtu (\d+)\)`)
	recordedTotals  = regexp.MustCompile(`(?m)^TCP +10\.\S+ +1 +(\d+) +(\d+) +(\d+) +(\d+)$`)
	recordedClients = netip.MustParsePrefix("10.1.0.0/16")
	recordedServers = netip.MustParsePrefix("10.2.0.0/24")
	recordedSelf    = netip.MustParseAddr("10.2.0.254") // the director, to the servers
)

// mustConversation is what a client sent in the section of NAT: the same is sent in each mode, and not every capture has seen it.
func mustConversation(t *testing.T) (all []layer) {
	t.Helper()
	text, err := os.ReadFile("testdata/transcripts/modes.txt")
	must(t, err)
	_, packets, _ := strings.Cut(string(text), "not ip6):\n")
	packets, _, _ = strings.Cut(packets, "\ndir$ ")
	for _, d := range mustDumps(t, strings.Split(packets, "\n")) {
		if l := d.layers[0]; recordedClients.Contains(l.from.Addr()) {
			all = append(all, l)
		}
	}
	return all
}

// witnessed does what a line says in the recordings that have packets, or all the packets that were counted.
func (r *transcript) witnessed(line string) bool {
	r.t.Helper()
	if where, ok := strings.CutPrefix(line, "packets on "); ok {
		where, _, _ = strings.Cut(where, " ")
		r.captured(where, mustDumps(r.t, r.take("IP (", "    ", "\t", "c0 ", "s0 ")))
		return true
	}
	words := strings.Fields(line)
	switch {
	case recordedServer.MatchString(line):
		m := recordedServer.FindStringSubmatch(line)
		if r.captures {
			r.gets[m[1]] = m[2][0]
		} else {
			r.sequence(line, r.client, 80, m[2], false)
		}
	case recordedSees.MatchString(line):
		r.sees = recordedSees.FindStringSubmatch(line)[1:]
	case words[0] == "answers:":
		for _, want := range words[1:] {
			r.single(want)
		}
	case strings.HasPrefix(line, "connected to"):
		m := recordedQuoted.FindStringSubmatch(strings.Join(r.lines, "\n"))
		port, _ := strconv.Atoi(m[2])
		r.client = m[1]
		r.greet(uint16(port))
	case line == "read 1000000 <nil>":
		totals := recordedTotals.FindAllStringSubmatch(strings.Join(r.lines, "\n"), 2)[1]
		var n [4]uint64
		for i, field := range totals[1:] {
			n[i], _ = strconv.ParseUint(field, 10, 64)
		}
		r.carry(true, lvs.Stats{InPackets: n[0], OutPackets: n[1], InBytes: n[2], OutBytes: n[3]})
	default:
		return line == "client: !refused" || line == "entry after it:" // of which the packets tell
	}
	return true
}

// elsewhere does what a command on another host does to the director, and takes its two lines.
func (r *transcript) elsewhere(command string) {
	r.t.Helper()
	r.lines = r.lines[2:]
	if !strings.Contains(command, "ping") {
		return
	}
	const echo = 8 << 8 // type and code, where others have a port
	w := wire{protocol: protocolICMP, from: netip.AddrPortFrom(netip.MustParseAddr(r.client), echo), to: netip.AddrPortFrom(r.virtual, 0), ttl: 64, payload: 44}
	if r.pass(w); r.verdict != oracle.Pass {
		r.t.Errorf("a ping: %v, want it left to the director", r.verdict)
	}
}

// captured plays the packets of a capture.
func (r *transcript) captured(where string, seen []sighting) {
	r.t.Helper()
	if len(seen) == 0 {
		r.unseen()
	}
	conversation := mustConversation(r.t)
	for i := 0; i < len(seen); i++ {
		d := seen[i]
		if first := &d.layers[0]; first.flags == "+" { // fragments, which the kernel makes
			i++
			rest := seen[i].layers[0]
			first.length, first.flags = rest.offset+rest.length, rest.flags
		}
		outer, client := d.layers[0], strings.HasPrefix(where, "cl/")
		switch from := outer.from.Addr(); {
		case client && recordedClients.Contains(from):
			if outer.protocol != protocolICMP { // which has been seen to leave
				r.toServer(outer.wire())
			}
		case client:
			r.toClient(d)
		case recordedServers.Contains(from) && from != recordedSelf:
			r.pass(outer.wire())
		default:
			r.leaves(d, conversation[i%len(conversation)])
		}
	}
}

// unseen sends what a capture has not seen: with direct routing servers are sent the service's address, and what is refused goes to none.
func (r *transcript) unseen() {
	r.t.Helper()
	if strings.HasPrefix(r.title, "tunnel") {
		r.pass(wire{protocol: lvs.UDP, from: netip.MustParseAddrPort("10.1.0.8:46020"), to: netip.AddrPortFrom(r.virtual, 53), id: 1, ttl: 64,
			payload: 1472, fragment: 0x4000})
		return
	}
	for _, l := range mustConversation(r.t) {
		r.toServer(r.cause(l, l))
	}
}

// leaves plays what leads to a packet for a server, and compares.
func (r *transcript) leaves(d sighting, said layer) {
	r.t.Helper()
	carried := d.layers
	switch {
	case carried[0].protocol == protocolIPIP || carried[0].protocol == protocolGRE:
		carried = carried[1:]
	case carried[0].to.Port() == guePort: // which tcpdump does not look into
		if ends := carried[0].length - 20 - 8 - 4; said.length != ends {
			r.t.Fatalf("%d bytes are carried, where the client sends %d", ends, said.length)
		}
		carried = []layer{said}
	}
	w := r.cause(carried[0], carried[len(carried)-1])
	if w.to.Port() != 0 && r.toServer(w) || w.to.Port() == 0 && r.pass1(w) {
		r.compare(d)
	} else {
		r.t.Errorf("%v does not leave", w)
	}
}

// cause is what a client, or a router in front of it, has sent for this to come to the server.
func (r *transcript) cause(l, last layer) wire {
	w := l.wire()
	w.to, w.ttl = netip.AddrPortFrom(r.virtual, w.to.Port()), 64 // as all hosts send
	if l.protocol != protocolICMP {
		return w
	}
	about := last.wire()
	about.from = netip.AddrPortFrom(r.virtual, about.from.Port())
	w.quotes, w.quoted, w.tells = &about, l.length-28, []byte{3, 3, 0, 0, 0, 0, 0, 0}
	if m := recordedTold.FindStringSubmatch(l.says); m != nil {
		mtu, _ := strconv.Atoi(m[1])
		w.tells = []byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
	}
	return w
}

func (r *transcript) pass1(w wire) bool {
	r.t.Helper()
	_, ok := r.pass(w)
	return ok
}

// toServer passes a client's packet, and looks which server gets it, and what that sees.
func (r *transcript) toServer(w wire) bool {
	r.t.Helper()
	if !r.pass1(w) {
		return false
	}
	name := map[lvs.Protocol]string{lvs.TCP: "tcp", lvs.UDP: "udp"}[w.protocol]
	if want := r.gets[name]; want != 0 && r.digit() != want {
		r.t.Errorf("%v is served by rs%c, want rs%c", w.from, r.digit(), want)
	}
	layers := tell(r.sent[14:])
	inner := layers[len(layers)-1]
	if inner.to.Port() == guePort {
		r.spreads[inner.to.Addr()] = append(r.spreads[inner.to.Addr()], inner.from.Port())
		return true
	}
	if got := []string{inner.to.String(), inner.from.String()}; r.sees != nil && w.protocol == lvs.TCP && !slices.Equal(got, r.sees) {
		r.t.Errorf("the server sees %v, want %v", got, r.sees)
	}
	return true
}

// toClient plays what leads to a packet for the client, and compares.
func (r *transcript) toClient(d sighting) {
	r.t.Helper()
	l := d.layers[0]
	w := l.wire()
	w.ttl = 64
	switch {
	case d.device == "s0": // has not come by the director
	case l.protocol == protocolICMP: // the director's answer to what came before
		if strings.HasPrefix(r.title, "tunnel") {
			d.layers[1].ttl++ // ours quotes the packet as it came
		}
		r.compare(d)
	case strings.HasPrefix(r.title, "VIP, a port without"): // by the director's own TCP
		if r.verdict != oracle.Pass {
			r.t.Errorf("%v, want it left to the director", r.verdict)
		}
	case recordedServers.Contains(l.from.Addr()): // routed as it is
		if r.pass(w); r.verdict != oracle.Pass {
			r.t.Errorf("an answer of one-packet scheduling: %v, want it routed", r.verdict)
		}
	default:
		w.from = netip.AddrPortFrom(netip.MustParseAddr("10.2.0.11"), w.from.Port())
		r.pass(w)
		r.compare(d)
	}
}

// compare compares what has left last with what a capture has seen.
func (r *transcript) compare(want sighting) {
	r.t.Helper()
	if outer := &want.layers[0]; outer.from.Addr() == recordedSelf {
		outer.from = netip.AddrPortFrom(r.sides[serverSide].own4, 0)
	}
	if r.sent == nil {
		r.t.Fatalf("nothing leaves, want\n%s", want.same())
	}
	if got := (sighting{layers: tell(r.sent[14:])}).same(); got != want.same() {
		r.t.Errorf("what leaves is\n%swant\n%s", got, want.same())
	}
}

// single sends a datagram that is scheduled alone: its server answers, past the director or, with NAT, by it and as nobody's.
func (r *transcript) single(want string) {
	r.t.Helper()
	client := netip.AddrPortFrom(netip.MustParseAddr(r.client), 35000)
	to, ok := r.pass(wire{protocol: lvs.UDP, from: client, to: netip.AddrPortFrom(r.virtual, 53), ttl: 64, payload: 1, fragment: 0x4000})
	got := "rs" + string(r.digit())
	if r.forward == "-m" {
		r.pass(wire{protocol: lvs.UDP, from: to, to: client, ttl: 64, payload: 4, fragment: 0x4000})
		got = map[oracle.Verdict]string{oracle.Pass: "!timeout"}[r.verdict] // for the client does not know the server
	}
	if !ok || got != want {
		r.t.Errorf("a datagram: %q, want %q", got, want)
	}
}

// carry lets so many packets of a connection pass, of so many bytes in all: the recording does not tell how these fell to the packets.
func (r *transcript) carry(begins bool, more lvs.Stats) {
	r.t.Helper()
	const port = 81
	client := netip.AddrPortFrom(netip.MustParseAddr(r.client), 45011)
	virtual, server := netip.AddrPortFrom(r.virtual, port), netip.MustParseAddrPort(fmt.Sprintf("10.2.0.11:%d", port))
	if begins {
		r.segment(client, virtual, syn)
		more.InPackets, more.InBytes = more.InPackets-1, more.InBytes-60
		if more.OutPackets != 0 {
			r.segment(server, client, syn|ack)
			more.OutPackets, more.OutBytes = more.OutPackets-1, more.OutBytes-60
		}
	}
	r.stream(client, virtual, more.InPackets, more.InBytes)
	r.stream(server, client, more.OutPackets, more.OutBytes)
}

// stream passes so many packets of so many bytes, as even as can be.
func (r *transcript) stream(from, to netip.AddrPort, packets, bytes uint64) {
	r.t.Helper()
	for larger := range uint64(2) {
		n := packets - bytes%max(packets, 1)
		if larger == 1 {
			n = packets - n
		}
		if n == 0 {
			continue
		}
		w := tcpSegment(from, to, ack, int(bytes/packets+larger)-52)
		side := r.sideOf(w)
		frame := w.frame(r.sides[side].mac, r.sides[side].far)
		for range n {
			if _, ok := r.handle(w, side, frame); !ok {
				r.t.Fatalf("%v to %v does not pass", from, to)
			}
		}
	}
}

// datagrams sends so many in each of the estimator's periods, each from a port of its own. 9, 17 and 4 is a way that leads to the recorded
// rates; how 30 fell in some three seconds was not recorded.
func (r *transcript) datagrams(periods ...int) {
	r.t.Helper()
	tools := mustTools(r.t, r.in)
	for _, n := range periods {
		for range n {
			r.port++
			r.datagram(r.port, 1)
		}
		mustEstimate(r.t, tools.Programs["estimate"], 1<<20)
	}
}

// manyBytes carries what was recorded, in a way that leads to the rates, too: most of it in one of the estimator's periods, and the rest
// in another one.
func (r *transcript) manyBytes() {
	r.t.Helper()
	tools := mustTools(r.t, r.in)
	r.carry(true, lvs.Stats{InPackets: 4124, InBytes: 234_987, OutPackets: 73_962, OutBytes: 110_855_492})
	for range 6 {
		mustEstimate(r.t, tools.Programs["estimate"], 1<<20)
	}
	r.carry(false, lvs.Stats{InPackets: 134, InBytes: 7421, OutPackets: 10_408, OutBytes: 15_586_780})
	mustEstimate(r.t, tools.Programs["estimate"], 1<<20)
}
