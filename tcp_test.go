// SPDX-License-Identifier: Apache-2.0

package lvs

import "testing"

// What a Linux 6.1 kernel was seen to do, in NAT and, where answers pass by, in direct routing.
func TestTCPStates(t *testing.T) {
	type segment struct {
		d Direction
		e Event
	}
	toServer := func(e Event) segment { return segment{ToServer, e} }
	toClient := func(e Event) segment { return segment{ToClient, e} }
	passing := func(e Event) segment { return segment{ToServerOnly, e} }
	open := []segment{toServer(SYN), toClient(SYN), toServer(ACK)}
	openPassing := []segment{passing(SYN), passing(ACK)}
	then := func(a []segment, b ...segment) []segment { return append(a[:len(a):len(a)], b...) }

	for _, c := range []struct {
		story    string
		segments []segment
		state    State
		seconds  uint32
		active   bool
	}{
		{"a SYN", []segment{toServer(SYN)}, TCPSynRecv, 60, true},
		{"a SYN and its answer", open[:2], TCPSynRecv, 60, true},
		{"an open connection", open, TCPEstablished, 900, true},
		{"the client closes first", then(open, toServer(FIN)), TCPCloseWait, 60, false},
		{"the client closes, then the server", then(open, toServer(FIN), toClient(FIN)), TCPTimeWait, 120, false},
		{"the last ACK after both have closed", then(open, toServer(FIN), toClient(FIN), toServer(ACK)), TCPTimeWait, 120, false},
		{"the server closes first", then(open, toClient(FIN)), TCPFinWait, 120, false},
		{"the server closes, then the client", then(open, toClient(FIN), toServer(ACK), toServer(FIN)), TCPTimeWait, 120, false},
		{"the client resets", then(open, toServer(RST)), TCPClose, 10, false},
		{"the server resets", then(open, toClient(RST)), TCPClose, 10, false},
		{"nobody listens", []segment{toServer(SYN), toClient(RST)}, TCPClose, 10, false},
		{"a segment without a flag", then(open, toServer(NoFlag)), TCPClose, 10, false},
		{"an ACK out of nowhere", []segment{toServer(ACK)}, TCPEstablished, 900, true},
		{"one way only: open", openPassing, TCPEstablished, 900, true},
		{"one way only: the client closes", then(openPassing, passing(FIN)), TCPFinWait, 120, false},
		{"one way only: the client resets", then(openPassing, passing(RST)), TCPClose, 10, false},
	} {
		s := TCPNone
		for _, g := range c.segments {
			s = TCPMachine.Next(s, g.d, g.e)
		}
		if s != c.state {
			t.Errorf("%s: %s, want %s", c.story, StateName(TCP, s), StateName(TCP, c.state))
		}
		if got := (Timeouts{}).Of(TCP, s); got != c.seconds {
			t.Errorf("%s: lives %d s, want %d", c.story, got, c.seconds)
		}
		if got := s.Active(TCP); got != c.active {
			t.Errorf("%s: active %v, want %v", c.story, got, c.active)
		}
	}
}

func TestTCPEventOf(t *testing.T) {
	for _, c := range []struct {
		flags string
		want  Event
	}{{"", NoFlag}, {"A", ACK}, {"FA", FIN}, {"SA", SYN}, {"SF", SYN}, {"RA", RST}, {"SFAR", RST}} {
		var f [128]bool
		for i := range c.flags {
			f[c.flags[i]] = true
		}
		if got := TCPEventOf(f['S'], f['F'], f['A'], f['R']); got != c.want {
			t.Errorf("flags %q: event %d, want %d", c.flags, got, c.want)
		}
	}
}

func TestTimeoutsOf(t *testing.T) {
	set := Timeouts{TCP: 1, TCPFin: 2, UDP: 3}
	if set.Of(TCP, TCPEstablished) != 1 || set.Of(TCP, TCPFinWait) != 2 || set.Of(UDP, 0) != 3 {
		t.Error("a time-out that is set is not the one in force")
	}
	if set.Of(TCP, TCPCloseWait) != 60 || set.Of(TCP, TCPTimeWait) != 120 {
		t.Error("--set changes a time-out that it has no word for")
	}
	if (Timeouts{}).Of(UDP, 0) != 300 {
		t.Error("UDP entries live 300 s unless set")
	}
}
