// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"strings"

	"lvs"
)

// talk lets segments of a connection pass.
func (r *transcript) talk(port, virtual uint16, segments ...string) {
	r.t.Helper()
	c := tcpClient{netip.AddrPortFrom(netip.MustParseAddr(r.client), port), netip.AddrPortFrom(r.virtual, virtual),
		netip.AddrPortFrom(netip.MustParseAddr("10.2.0.11"), virtual)}
	for _, s := range segments {
		r.say(c, s)
	}
}

// greet connects, and hears a server's "rs1".
func (r *transcript) greet(port uint16) {
	r.t.Helper()
	r.talk(port, 80, "> S", "< SA", "> A", "< PA4", "> A")
}

// datagram asks from a port, has the answer pass if there is one, and tells which server got it.
func (r *transcript) datagram(port uint16, size int) string {
	r.t.Helper()
	w := wire{protocol: lvs.UDP, from: netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), port), to: netip.AddrPortFrom(r.virtual, 53), ttl: 64,
		payload: size, fragment: 0x4000}
	to, ok := r.pass(w)
	if !ok {
		return "!refused"
	}
	if r.forward != "-m" {
		return ""
	}
	r.pass(wire{protocol: lvs.UDP, from: to, to: w.from, ttl: 64, payload: max(size, len("rs1\n")), fragment: 0x4000})
	return fmt.Sprintf("rs%c", digitOf(to))
}

// come makes a connection and sends a datagram from a port.
func (r *transcript) come(port uint16) {
	r.t.Helper()
	r.greet(port)
	r.datagram(port, 1)
}

// phases are what connections do next, by what is said about it.
var phases = []struct {
	says string
	do   func(*transcript)
}{
	// states
	{"-- SYN sent, real server silent", func(r *transcript) { r.talk(31000, 80, "> S") }},
	{"-- connected", func(r *transcript) { r.greet(31001) }},
	{"-- closed by the client first", func(r *transcript) { r.talk(31001, 80, "> FA", "< A", "< FA", "> A") }},
	{"-- server has sent its FIN", func(r *transcript) { r.greet(31002); r.talk(31002, 80, "> PA", "< A", "< FA", "> A") }},
	{"-- client closed too", func(r *transcript) { r.talk(31002, 80, "> FA", "< A") }},
	{"-- client has sent its FIN", func(r *transcript) { r.greet(31003); r.talk(31003, 80, "> FA") }},
	{"-- the server's FIN let through", func(r *transcript) { r.talk(31003, 80, "< FA", "> A") }},
	{"-- client reset", func(r *transcript) { r.greet(31004); r.talk(31004, 80, "> R") }},
	{"-- server reset", func(r *transcript) { r.greet(31005); r.talk(31005, 80, "> PA", "< RA") }},
	{"port without a listener on the real server", func(r *transcript) { r.talk(31006, 99, "> S", "< RA") }},
	{"-- refused by", func(*transcript) {}},
	{"-- port 31001 used again", func(r *transcript) { r.greet(31001) }},
	{"-- after ipvsadm -C", func(r *transcript) { r.talk(31001, 80, "> R"); r.run("-C") }},
	// time-outs
	{"old (47000) and new (47001)", func(r *transcript) { r.come(47001) }},
	{"after traffic on the old ones", func(r *transcript) { r.talk(47000, 80, "> PA", "< A"); r.datagram(47000, 1) }},
	{"47001: the server's FIN seen", func(r *transcript) { r.talk(47001, 80, "> PA", "< A", "< FA", "> A") }},
	{"47001: closed by both", func(r *transcript) { r.talk(47001, 80, "> FA", "< A") }},
	{"6 s later", func(r *transcript) { r.mustAdvance(r.t, 6*r.in.hz) }},
	{"the expired connection is used", func(r *transcript) { r.talk(47010, 80, "> PA") }},
	// counters
	{"at once (may still be old)", func(r *transcript) {
		for i := range uint16(5) {
			r.datagram(45000+i/3, 100)
		}
		r.lines = r.lines[1:] // the kernel's are two seconds late
		r.output()
	}},
	{"-- after -Z", func(*transcript) {}},
	{"forwarding method edited", func(*transcript) {}},
	// what was seen of the packets, which the rest tells of
	{"packets on ", func(r *transcript) {
		r.take("IP ", "    ")
		if strings.HasPrefix(r.title, "mid-stream") {
			r.midstream()
		}
	}},
}

// phase does what a line says of connections that have ports of their own; false if it says nothing of them.
func (r *transcript) phase(line string) bool {
	r.t.Helper()
	for _, p := range phases {
		if strings.HasPrefix(line, p.says) {
			p.do(r)
			return true
		}
	}
	var port uint16
	if _, err := fmt.Sscanf(line, "client port %d: ", &port); err != nil && !strings.HasPrefix(line, "same client port: ") {
		return false
	}
	if port == 0 {
		port = 32000
	}
	if _, want, _ := strings.Cut(line, ": "); r.datagram(port, 1) != want {
		r.t.Errorf("port %d is not served as recorded: %s", port, line)
	}
	return true
}

// midstream sends a segment without a connection: it is not forwarded, or it is and the server knows nothing of it.
func (r *transcript) midstream() {
	r.t.Helper()
	client := netip.MustParseAddrPort("10.1.0.7:33333")
	if to, ok := r.segment(client, netip.AddrPortFrom(r.virtual, 80), ack); ok {
		r.segment(to, client, rst)
	}
}
