// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"strings"
	"testing"

	"lvs"
)

// callsRecorded are datagrams and the Call-ID that a Linux 6.1 kernel went by; it dropped those without one.
var callsRecorded = []struct{ text, call string }{
	{invite + "Call-ID: one@here\r\n\r\n", "one@here"},
	{invite + "i: one@here\r\n\r\n", "one@here"},
	{invite + "call-id  :   one@here\r\n\r\n", "one@here"},
	{invite + "From: me\r\n\r\n", ""},
	{invite + "Call-ID: at the end", ""},
	{invite + "Call-ID: end@here", ""},
	{"SIP/2.0 200 OK\r\nCall-ID: short@here\r\n\r\n", "short@here"},
	{invite + "Call-ID: @here\r\n\r\n", ""},
	{invite + "Call-ID:\r\n folded@here\r\n\r\n", "folded@here"},
	{invite + "Call-ID: bad@\r\nCall-ID: second@here\r\n\r\n", "second@here"},
	{invite + "Call-ID: " + strings.Repeat("x", 255) + "\r\n\r\n", strings.Repeat("x", 255)},
	{invite + "Call-ID: " + strings.Repeat("x", 256) + "\r\n\r\n", ""},
	{"nothing\r\n\r\n", ""},
}

const invite = "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP pc33.example.org\r\n"

func TestRecordedCalls(t *testing.T) {
	for _, c := range callsRecorded {
		p, _ := parse(frame{from: client, to: vip, udp: true, payload: c.text}.mustPacket(t).Frame)
		if got := p.call(); got != c.call {
			t.Errorf("%q: %q, want %q", c.text, got, c.call)
		}
	}
}

// TestPersistenceByCall is the recorded story of clients of a one-packet service by SIP calls: who calls, and where it goes.
func TestPersistenceByCall(t *testing.T) {
	d := New(Options{Size: 20, Route: route})
	id := serviceID(lvs.UDP, "10.9.0.1:5060")
	mustUpdate(t, d, func(t *lvs.Table) error {
		return t.AddService(id, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 300, PE: "sip", OnePacket: true})
	})
	for n := range 3 {
		mustUpdate(t, d, addServer(lvs.UDP, "10.9.0.1:5060", fmt.Sprintf("10.2.0.%d:5060", 11+n), nat(1)))
	}
	for _, c := range []struct {
		from, call string
		server     byte
	}{
		{"10.1.0.1:5060", "one@here", 13},
		{"10.1.0.1:5060", "two@here", 12},
		{"10.1.0.1:5060", "one@here", 13},
		{"10.1.0.1:5061", "one@here", 13},
		{"10.1.0.2:5060", "one@here", 11},
	} {
		r := mustForward(t, d, frame{from: c.from, to: "10.9.0.1:5060", udp: true, payload: invite + "Call-ID: " + c.call + "\r\n\r\n"})
		if got := r.Frame[ethernetHeader+19]; got != c.server {
			t.Errorf("%s of %s goes to %d, want %d", c.call, c.from, got, c.server)
		}
	}
	var got []string
	for c := range d.Conns() {
		got = append(got, fmt.Sprint(c.Client, " ", c.Server, " ", c.PE, " ", c.PEData))
	}
	if want := 3; len(got) != want {
		t.Errorf("%d templates, want %d: %q", len(got), want, got)
	}
	if r := d.Packet(frame{from: client, to: "10.9.0.1:5060", udp: true}.mustPacket(t)); r.Verdict != Drop || r.Reason != NoCall {
		t.Errorf("without a call: %v %q", r.Verdict, r.Reason)
	}
}
