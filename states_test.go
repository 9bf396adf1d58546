// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// eventOf reads an event of a recording: a flag of TCP, or the type of an SCTP packet's first chunk, with +6 if an ABORT follows.
func eventOf(t *testing.T, m Machine, word string) Event {
	t.Helper()
	flags := map[string]Event{"syn": SYN, "fin": FIN, "ack": ACK, "rst": RST, "none": NoFlag}
	if e, ok := flags[word]; ok && m != SCTPMachine {
		return e
	}
	first, _, bundled := strings.Cut(word, "+")
	chunk, err := strconv.Atoi(first)
	if err != nil || m != SCTPMachine {
		t.Fatalf("no event is called %s", word)
	}
	if chunk >= len(SCTPChunks) {
		return SCTPData
	}
	e := SCTPChunks[chunk]
	if bundled && (e == SCTPCookieEcho || e == SCTPCookieAck) {
		return SCTPAbort
	}
	return e
}

// Random packets of many connections, and the states and remaining times that Linux 6.1 showed after each: with and without
// secure_tcp, and of SCTP; both ways, and with answers that do not come by.
func TestStatesAsRecorded(t *testing.T) {
	b, err := os.ReadFile("testdata/states.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]struct {
		Protocol
		Machine
	}{"tcp": {TCP, TCPMachine}, "tcp-secure": {TCP, TCPSecure}, "sctp": {SCTP, SCTPMachine}}
	type transition struct {
		Machine
		Direction
		Event
		State
	}
	seen := map[transition]bool{}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if w[0] == "#" {
			continue
		}
		m, s := names[w[0]], State(0)
		for i := 2; i+2 < len(w); i += 3 {
			d := ToServer
			switch {
			case w[i][0] == '<':
				d = ToClient
			case w[1] == "route":
				d = ToServerOnly
			}
			e := eventOf(t, m.Machine, w[i][1:])
			seen[transition{m.Machine, d, e, s}] = true
			s = m.Next(s, d, e)
			if got := StateName(m.Protocol, s); got != w[i+1] {
				t.Fatalf("%s: %s, the kernel has %s", strings.Join(w[:i+1], " "), got, w[i+1])
			}
			left, err := strconv.Atoi(w[i+2])
			if lives := int((Timeouts{}).Of(m.Protocol, s)); err != nil || left > lives || left < lives-2 {
				t.Errorf("%s: %s lives %d s, in the kernel %d are left", strings.Join(w[:i+1], " "), w[i+1], lives, left)
			}
		}
	}
	t.Logf("%d transitions", len(seen))
	if len(seen) < 300 {
		t.Errorf("only %d different transitions are recorded", len(seen))
	}
}
