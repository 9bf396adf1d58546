// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"lvs"
	"lvs/oracle"
)

// The verdicts of the hooks (linux/pkt_cls.h, linux/bpf.h).
const (
	tcUnspec, tcOK, tcShot, tcRedirected     = ^uint32(0), 0, 2, 7
	xdpDropped, xdpPassed, xdpSent, xdpForth = 1, 2, 3, 4
)

// mustRunXDP hands a frame to XDP as if it came in by a side.
func (s *stage) mustRunXDP(t rapid.TB, side int, frame []byte) (uint32, []byte) {
	t.Helper()
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512)}
	o.Context = [6]uint32{1: uint32(len(frame)), 3: uint32(s.sides[side].index)} // struct xdp_md: data_end, ingress_ifindex
	verdict, err := s.xdp.Run(o)
	mustDo(t, "run", err)
	return verdict, o.DataOut
}

// mustRunTC does so with tc, for a frame with a mark; it also tells the mark that the frame has then.
func (s *stage) mustRunTC(t rapid.TB, side int, frame []byte, mark uint32) (verdict uint32, out []byte, after uint32) {
	t.Helper()
	var skb [48]uint32
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), ContextOut: &skb}
	o.Context = [48]uint32{2: mark, 10: uint32(s.sides[side].index)} // struct __sk_buff
	verdict, err := s.tc.Run(o)
	mustDo(t, "run", err)
	return verdict, o.DataOut, skb[2]
}

// handedIn says whether a frame is left to the kernel by way of lo.
func handedIn(frame []byte) bool { return [6]byte(frame) == [6]byte{} }

// mustHandle lets a frame go its way through XDP, if that is attached, and tc.
func (s *stage) mustHandle(t rapid.TB, side int, frame []byte, mark uint32) oracle.Result {
	t.Helper()
	if s.withXDP {
		verdict, out := s.mustRunXDP(t, side, frame)
		switch verdict {
		case xdpDropped:
			return oracle.Result{Verdict: oracle.Drop}
		case xdpSent:
			s.fast++
			return oracle.Result{Verdict: oracle.Forward, Packet: oracle.Packet{Interface: side, Frame: out}}
		case xdpForth:
			s.fast++
			return oracle.Result{Verdict: oracle.Forward, Packet: oracle.Packet{Frame: out}}
		case xdpPassed:
			if !bytes.Equal(out, frame) {
				t.Fatalf("XDP has changed what it leaves to tc:\n%s", hex.Dump(out))
			}
		default:
			t.Fatalf("XDP answers %d", verdict)
		}
	}
	seen := mark
	if s.firewall {
		seen = 0
	}
	verdict, out, after := s.mustRunTC(t, side, frame, seen)
	if s.firewall && (verdict == tcUnspec || verdict == tcOK) {
		return s.mustRoute(t, side, out, mark|after)
	}
	switch verdict {
	case tcShot:
		return oracle.Result{Verdict: oracle.Drop}
	case tcRedirected:
		if handedIn(out) {
			copy(out, frame[:6])
			return oracle.Result{Verdict: oracle.Pass, Packet: oracle.Packet{Frame: out}}
		}
		return oracle.Result{Verdict: oracle.Forward, Packet: oracle.Packet{Frame: out}}
	case tcUnspec:
		return oracle.Result{Verdict: oracle.Pass, Packet: oracle.Packet{Frame: out}}
	}
	t.Fatalf("tc answers %d", verdict)
	return oracle.Result{}
}

// checkPacket lets a packet pass both, and compares what becomes of it.
func (s *stage) checkPacket(t rapid.TB, side int, w wire) {
	t.Helper()
	frame := w.frame(s.sides[side].mac, s.sides[side].far)
	var want oracle.Result
	s.asked = netip.Addr{}
	if !w.foreign { // the oracle knows nothing of MAC addresses
		want = s.judge.Packet(oracle.Packet{Interface: side, Frame: frame, Mark: w.mark})
	}
	if want.Frame == nil && want.Verdict == oracle.Pass {
		want.Frame = frame
	}
	got := s.mustHandle(t, side, frame, w.mark)
	verdict := want.Verdict
	if verdict == oracle.Answer {
		verdict = oracle.Forward // to where it came from
	}
	if s.stray(t, want, got.Verdict, frame, w) {
		return
	}
	if s.firewall {
		if want.Verdict == oracle.Answer {
			asIfRouted(want.Frame)
			asIfRouted(got.Frame)
		}
		if got.Verdict == oracle.Pass && verdict == oracle.Forward && bytes.Equal(want.Frame[30:], frame[30:]) { // direct routing by the kernel
			got.Verdict, got.Frame = verdict, s.routed(frame)
		}
		if want.Reason == oracle.TooBig && verdict == oracle.Pass { // from the device it goes by a redirect, too
			got.Verdict = verdict
		}
	}
	if got.Verdict != verdict || got.Interface != 0 && got.Interface != want.Interface {
		t.Fatalf("%v %q by the oracle, the program: %v to %d of\n%s", want.Verdict, want.Reason, got.Verdict, got.Interface, hex.Dump(frame))
	}
	byKernel := s.byKernel()
	if byKernel && want.Verdict == oracle.Forward { // which writes them later
		copy(want.Frame, frame[:12])
	}
	mustIdentify(t, got.Frame, want.Frame, frame)
	if !bytes.Equal(got.Frame, want.Frame) {
		t.Fatalf("%v %q (by the kernel: %v)\n%swant\n%sof\n%s", want.Verdict, want.Reason, byKernel, hex.Dump(got.Frame), hex.Dump(want.Frame), hex.Dump(frame))
	}
	s.checkReasons(t, want.Reason, frame)
	if want.Back.Frame == nil {
		return
	}
	if got := s.sides[side].tap.mustSegment(t); !bytes.Equal(got, want.Back.Frame) {
		t.Fatalf("the sender hears\n%swant\n%sof\n%s", hex.Dump(got), hex.Dump(want.Back.Frame), hex.Dump(frame))
	}
}

// mustIdentify takes the identification over that the program has drawn for a packet in a tunnel that may be fragmented.
func mustIdentify(t rapid.TB, got, want, frame []byte) {
	t.Helper()
	if f := want; len(f) > 34 && len(got) > 34 && f[12] == 8 && len(f) > len(frame) && f[20]&0x40 == 0 && f[18]|f[19] == 0 {
		copy(f[18:20], got[18:20])
		copy(f[24:26], got[24:26])
		if sum16(f[14:34]) != 0xffff {
			t.Fatalf("the outer header's checksum is wrong:\n%s", hex.Dump(got))
		}
	}
}

// stray says whether the program has dropped a later fragment, and told so, whose address was one of ours until a while ago.
func (s *stage) stray(t rapid.TB, want oracle.Result, got oracle.Verdict, frame []byte, w wire) bool {
	later := w.fragment&0x1fff != 0 || frame[12] == 8 && binary.BigEndian.Uint16(frame[20:])&0x1fff != 0 // be it by damage
	if want.Reason != "" || want.Verdict != oracle.Pass || got != oracle.Drop || !later {
		return false
	}
	was := s.reasons
	was[bpfReasonREASON_FRAGMENT]++
	s.reasons = s.mustReasons(t)
	return s.reasons == was
}

// way is what the program remembers of an address: when it asked the kernel for the way, and when it last had the kernel
// send a packet there itself, for the sake of the neighbour.
type way struct {
	to              netip.Addr
	checked, probed uint32
}

// byKernel says whether the kernel is to send the packet whose way the oracle asked for, if any: the first one of a line is, and one
// every half minute.
func (s *stage) byKernel() bool {
	if !s.asked.IsValid() {
		return false
	}
	line := s.routeLine(s.asked)
	w := s.ways[line]
	same := w.to == s.asked
	if same && s.now-w.checked < s.in.hz {
		return false
	}
	if _, ok := s.route(s.asked); !ok {
		s.ways[line] = way{probed: w.probed}
		return false
	}
	ask := s.now-w.probed >= 30*s.in.hz
	if ask {
		w.probed = s.now
	}
	s.ways[line] = way{s.asked, s.now, w.probed}
	return ask
}

func (s *stage) mustReasons(t rapid.TB) (counted [bpfReasonREASONS]uint64) {
	t.Helper()
	m, err := s.in.m(bpfMapReasons)
	mustDo(t, "reasons", err)
	for r := range counted {
		var n []uint64
		mustDo(t, "reasons", m.Lookup(uint32(r), &n))
		for _, v := range n {
			counted[r] += v
		}
	}
	return counted
}

// checkReasons compares what was counted for one packet. An address that had a service may still count as one of ours.
func (s *stage) checkReasons(t rapid.TB, want oracle.Reason, frame []byte) {
	t.Helper()
	was := s.reasons
	s.reasons = s.mustReasons(t)
	for r, n := range s.reasons {
		name := oracle.Reason(s.names[bpfReason(r)])
		once, most := n-was[r], uint64(1)
		if s.firewall && (name == oracle.NoConn || name == oracle.Malformed || name == oracle.Unsupported) { // at ingress, and on its way out
			most = 2
		}
		if once != 0 != (name == want) || once > most {
			if want == "" && (name == oracle.Fragment || name == oracle.Malformed || name == oracle.Unsupported) {
				continue
			}
			t.Fatalf("reason %q counts %d, want %q for\n%s", name, once, want, hex.Dump(frame))
		}
	}
}

// checkState compares tables and connections.
func (s *stage) checkState(t rapid.TB) {
	t.Helper()
	got, err := s.in.table()
	mustDo(t, "table", err)
	want, err := s.judge.Table()
	mustDo(t, "table", err)
	if got.Timeouts.OrDefault() != want.Timeouts.OrDefault() {
		t.Fatalf("time-outs %+v, want %+v", got.Timeouts, want.Timeouts)
	}
	if g, w := listed(got), listed(want); g != w {
		t.Fatalf("the table is\n%swant\n%s", g, w)
	}
	var conns []string
	s.in.conns(s.now, func(c lvs.Conn, err error) bool {
		mustDo(t, "connections", err)
		conns = append(conns, fmt.Sprintf("%+v", c))
		return true
	})
	var wantConns []string
	for c := range s.judge.Conns() {
		wantConns = append(wantConns, fmt.Sprintf("%+v", c))
	}
	slices.Sort(conns)
	slices.Sort(wantConns)
	if !slices.Equal(conns, wantConns) {
		t.Fatalf("connections\n%s\nwant\n%s", strings.Join(conns, "\n"), strings.Join(wantConns, "\n"))
	}
}

func listed(t *lvs.Table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", t.Locals)
	for _, s := range t.Services() {
		fmt.Fprintf(&b, "%v %+v %v %+v\n", s.ServiceID, s.ServiceConfig, s.Locals, s.Stats)
		for _, d := range s.Servers {
			fmt.Fprintf(&b, "  %v %+v %+v %+v\n", d.ServerID, d.ServerConfig, d.Load, d.Stats)
		}
	}
	return b.String()
}

// checkNothingLeft looks into the maps after everything was removed and its time is over.
func (s *stage) checkNothingLeft(t rapid.TB) {
	t.Helper()
	all, err := s.in.entries()
	mustDo(t, "entries", err)
	for i := range all.lines {
		if e := &all.lines[i]; e.Hop != 0 || e.Overflow != 0 || e.Own&3 != 0 {
			t.Fatalf("line %d of the connection table: %+v", i, e)
		}
	}
	m, err := s.in.m(bpfMapGuards)
	mustDo(t, "guards", err)
	var g bpfGuard
	mustDo(t, "guard", m.Lookup(uint32(0), &g))
	if g.Taken != [4]uint64{} {
		t.Fatalf("lines are taken: %x", g.Taken)
	}
	for i := range s.in.services {
		if v := &s.in.services[i]; v.Use != bpfSlotUseSLOT_FREE {
			t.Fatalf("service in slot %d: %+v", i, v)
		}
	}
	for i := range s.in.servers {
		if d := &s.in.servers[i]; bpfSlotUse(d.Use) != bpfSlotUseSLOT_FREE || s.in.loads[i] != (bpfLoad{}) {
			t.Fatalf("server in slot %d: %+v, load %+v", i, d, s.in.loads[i])
		}
	}
	ours, err := mapped[addressKinds](s.in, bpfMapOurs)
	mustDo(t, "addresses", err)
	for _, four := range ours[0].Four {
		if four&^(uint32(oursLocal)*0x01010101) != 0 { // these are kept for connections that outlive a local address
			t.Fatal("addresses are still ours")
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.place.Path, journalPin)); left != nil {
		t.Fatal("a journal is left")
	}
}
