// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

var (
	sctp4 = path{lvs.SCTP, tcp4.client, netip.MustParseAddrPort("203.0.113.10:2905"), netip.AddrPortFrom(server4, 2905)}
	sctp6 = path{lvs.SCTP, tcp6.client, netip.MustParseAddrPort("[2001:db8:f::10]:2905"), netip.AddrPortFrom(server6, 29050)} // another port
)

// association gives a packet with chunks, made by hand out of a UDP one, and as it is to leave.
func association(t testing.TB, w *world, p path, answer bool, payload int, chunks ...byte) (in, out []byte) {
	t.Helper()
	body := []byte{0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0} // ports, tag, CRC
	for _, c := range chunks {
		body = append(body, c, 0, 0, 8, 5, 6, 7, 8)
	}
	body = append(body, make([]byte, payload)...)
	udp := p
	udp.protocol = lvs.UDP
	one := udp.in("")
	by := w.servers
	if answer {
		one, by = udp.out(""), w.clients
	}
	one.payload = body[8:] // behind what is UDP's header in its place
	finish := func(frame []byte) []byte {
		at := headers + 20
		if p.virtual.Addr().Is6() {
			at = headers + 40
			frame[headers+6] = byte(lvs.SCTP)
		} else {
			frame[headers+9] = byte(lvs.SCTP)
			binary.BigEndian.PutUint16(frame[headers+10:], 0)
			binary.BigEndian.PutUint16(frame[headers+10:], ^sum16(frame[headers:at]))
		}
		s := frame[at:]
		copy(s[4:], body[4:12])
		binary.LittleEndian.PutUint32(s[8:], crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli)))
		return frame
	}
	return finish(one.frame(t)), finish(one.forwarded(t, by.Attrs().HardwareAddr))
}

// An association of SCTP by NAT: chunks move its state, and with another port the CRC is a new one.
func TestSCTP(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		for _, a := range []path{sctp4, sctp6} {
			w.mustUpdate(addService(a.id(), "rr", a.server))
			if frame, _ := association(t, w, a, false, 0, 0); true {
				if verdict, _ := w.run(p, w.clients, frame); verdict != tcPass && verdict != xdpPass {
					t.Errorf("data without an association: verdict %d", int32(verdict))
				}
			}
			for i, step := range []struct {
				answer  bool
				payload int
				chunks  []byte
				state   string
			}{
				{false, 16, []byte{1}, "INIT1"},
				{true, 100, []byte{2}, "C-SENT"},
				{false, 700, []byte{10}, "C-REPLIED"},
				{true, 0, []byte{11}, "ESTABLISHED"},
				{false, 1200, []byte{0}, "ESTABLISHED"},
				{true, 3, []byte{3, 0}, "ESTABLISHED"},
				{false, 0, []byte{7}, "S-RECEIVED"},
				{true, 0, []byte{8}, "S-ACK-SENT"},
				{false, 0, []byte{14}, "CLOSED"},
				{false, 16, []byte{1}, "INIT1"}, // in place of the one that is over
				{false, 0, []byte{10, 6}, "CLOSED"},
			} {
				frame, want := association(t, w, a, step.answer, step.payload, step.chunks...)
				side := w.clients
				if step.answer {
					side = w.servers
				}
				verdict, out := w.run(p, side, frame)
				if verdict != tcRedirect && verdict != xdpRedirect {
					t.Fatalf("packet %d: verdict %d", i, int32(verdict))
				}
				if !bytes.Equal(out, want) {
					t.Errorf("packet %d is\n%swant\n%s", i, hex.Dump(out), hex.Dump(want))
				}
				if got := w.mustState(a); got != step.state {
					t.Errorf("after packet %d the state is %s, want %s", i, got, step.state)
				}
			}
		}
		frame, _ := association(t, w, sctp4.from(5000), false, 0)
		before := w.mustReasons()[bpfReasonREASON_MALFORMED]
		w.run(w.tc, w.clients, frame)
		if got := w.mustReasons()[bpfReasonREASON_MALFORMED] - before; got != 1 {
			t.Errorf("a packet without a chunk counts %d times as malformed", got)
		}
	})
}

// AH and ESP follow the connection of the same two addresses' ISAKMP, and begin none.
func TestAHAndESP(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		isakmp := path{lvs.UDP, netip.AddrPortFrom(client4, 500), netip.MustParseAddrPort("203.0.113.10:500"), netip.AddrPortFrom(server4, 500)}
		w.mustUpdate(addService(isakmp.id(), "rr", isakmp.server))
		for _, protocol := range []byte{50, 51} {
			if verdict, _ := w.run(p, w.clients, as(protocol, isakmp.in("").frame(t))); verdict != tcPass && verdict != xdpPass {
				t.Errorf("protocol %d without ISAKMP: verdict %d", protocol, int32(verdict))
			}
		}
		for range 2 {
			w.run(p, w.clients, isakmp.in("").frame(t))
		}
		for _, protocol := range []byte{50, 51} {
			for _, one := range []packet{isakmp.in(""), isakmp.out("")} {
				by := w.servers
				if one.answer {
					by = w.clients
				}
				in := as(protocol, one.frame(t))
				want := as(protocol, one.forwarded(t, by.Attrs().HardwareAddr))
				copy(want[headers+20:], in[headers+20:]) // nothing in it is ours to change
				verdict, out := w.run(p, w.side(one), in)
				if (verdict != tcRedirect && verdict != xdpRedirect) || !bytes.Equal(out, want) {
					t.Errorf("protocol %d: verdict %d\n%swant\n%s", protocol, int32(verdict), hex.Dump(out), hex.Dump(want))
				}
			}
		}
	})
}

// TestRelatedSCTP: errors about an association quote to their receiver what it has sent, the CRC included.
func TestRelatedSCTP(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, a := range []path{sctp4, sctp6} {
		w.mustUpdate(addService(a.id(), "rr", a.server))
		for range 2 { // the kernel verifies its neighbours
			in, _ := association(t, w, a, false, 16, 1)
			w.run(w.tc, w.clients, in)
			in, _ = association(t, w, a, true, 16, 2)
			w.run(w.tc, w.servers, in)
		}
		for _, bytes := range []int{4, 8, 12, 1000} {
			sent, forwarded := association(t, w, a, false, 21, 0)
			in, want := ofServer(t, a.in(""), a.server.Addr(), bytes)
			in.quotes, want.quotes = quote(forwarded, bytes), quote(append(sent[:headers:headers], once(t, sent)...), bytes)
			w.checkRelated(in, want, false)
			sent, forwarded = association(t, w, a, true, 21, 0)
			in, want = ofClient(t, a.out(""), bytes)
			in.quotes, want.quotes = quote(forwarded, bytes), quote(append(sent[:headers:headers], once(t, sent)...), bytes)
			w.checkRelated(in, want, true)
		}
	}
}

// as makes a packet one of another protocol.
func as(protocol byte, frame []byte) []byte {
	if frame[12] == 0x86 {
		frame[headers+6] = protocol
		return frame
	}
	frame[headers+9] = protocol
	binary.BigEndian.PutUint16(frame[headers+10:], 0)
	binary.BigEndian.PutUint16(frame[headers+10:], ^sum16(frame[headers:headers+20]))
	return frame
}

// TestRelatedAHAndESP: errors about these follow the ISAKMP connection.
func TestRelatedAHAndESP(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, p := range []path{
		{lvs.UDP, netip.AddrPortFrom(client4, 500), netip.MustParseAddrPort("203.0.113.10:500"), netip.AddrPortFrom(server4, 500)},
		{lvs.UDP, netip.AddrPortFrom(client6, 500), netip.MustParseAddrPort("[2001:db8:f::10]:500"), netip.AddrPortFrom(server6, 500)},
	} {
		w.mustUpdate(addService(p.id(), "rr", p.server))
		w.run(w.tc, w.clients, p.in("").frame(t))
		w.run(w.tc, w.servers, p.out("").frame(t))
		for _, protocol := range []byte{50, 51} {
			in, want := ofServer(t, p.in(""), p.server.Addr(), 8)
			request := as(protocol, p.in("").frame(t))
			forwarded := as(protocol, p.in("").forwarded(t, routerMAC))
			copy(forwarded[len(forwarded)-15:], request[len(request)-15:])
			in.quotes, want.quotes = quote(forwarded, 8), quote(append(request[:headers:headers], once(t, request)...), 8)
			w.checkRelated(in, want, false)
		}
	}
}

// TestFragmentsOfOthers: fragments of SCTP, AH and ESP are the kernel's, and are counted.
func TestFragmentsOfOthers(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, p := range []path{udp4, udp6} {
		for _, protocol := range []byte{50, 51, 132} {
			packet := p.in("").with(datagram4000)
			in, _ := mustFragments(t, packet, 1)
			for _, f := range in {
				if f[12] == 0x86 {
					f[headers+40] = protocol
				} else {
					as(protocol, f)
				}
				w.follow(packet, f, tcPass, f, bpfReasonREASON_UNSUPPORTED)
			}
		}
	}
}

// mustState gives the state of the only connection of a service.
func (w *world) mustState(p path) (state string) {
	w.t.Helper()
	n := 0
	for c, err := range w.Conns() {
		must(w.t, err)
		if c.Protocol == p.protocol && c.Virtual == p.virtual {
			state = c.StateName()
			n++
		}
	}
	if n != 1 {
		w.t.Fatalf("%v has %d connections, want one", p.id(), n)
	}
	return state
}
