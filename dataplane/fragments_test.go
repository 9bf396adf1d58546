// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"lvs"
)

// inFragments gives a packet in fragments with so many bytes each.
func inFragments(frame []byte, id uint32, each int) (fragments [][]byte) {
	v6 := frame[12] == 0x86
	header := headers + 40
	if !v6 {
		header = headers + int(frame[headers]&15)*4
	}
	payload := frame[header : headers+ipLength(frame)]
	for from := 0; from < len(payload); from += each {
		part := payload[from:min(from+each, len(payload))]
		f := bytes.Clone(frame[:header])
		more := from+each < len(payload)
		if v6 {
			f = append(f, f[20], 0, byte(from>>8), byte(from))
			f = binary.BigEndian.AppendUint32(f, id)
			if f[20] = fragmentHeader; more {
				f[header+3] |= 1
			}
			binary.BigEndian.PutUint16(f[18:], uint16(8+len(part)))
		} else {
			binary.BigEndian.PutUint16(f[18:], uint16(id))
			if binary.BigEndian.PutUint16(f[20:], uint16(from/8)); more {
				f[20] |= 0x20
			}
			binary.BigEndian.PutUint16(f[16:], uint16(header-headers+len(part)))
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], ^sum16(f[headers:header]))
		}
		fragments = append(fragments, append(f, part...))
	}
	return fragments
}

func datagram4000(p *packet) {
	p.payload, p.fragmentOK = slices.Repeat([]byte("0123456789"), 400), true
}

// mustFragments gives a large packet in fragments, and what becomes of them.
func mustFragments(t *testing.T, p packet, id uint32) (in, want [][]byte) {
	return inFragments(p.frame(t), id, 1200), inFragments(p.forwarded(t, routerMAC), id, 1200)
}

// follow runs a fragment, and says what must become of it.
func (w *world) follow(p packet, fragment []byte, verdict uint32, want []byte, reason bpfReason) {
	w.t.Helper()
	if xdp, out := w.run(w.xdp, w.side(p), fragment); xdp != xdpPass || !bytes.Equal(out, fragment) {
		w.t.Errorf("XDP's verdict is %d", xdp)
	}
	before := w.mustReasons()
	got, out := w.run(w.tc, w.side(p), fragment)
	if got != verdict || want != nil && !bytes.Equal(out, want) {
		w.t.Errorf("the verdict is %d, want %d; the fragment\n%s\nbecomes\n%s\nwant\n%s", int32(got), int32(verdict), hex.Dump(fragment[:80]), hex.Dump(out[:min(80, len(out))]), hex.Dump(want[:min(80, len(want))]))
	}
	if reason != bpfReasonREASON_NONE {
		before[reason]++
	}
	if after := w.mustReasons(); before != after {
		w.t.Errorf("counted %v, want %v", after, before)
	}
}

// TestFragmentsNAT: a packet in fragments goes to one server, and so does its answer to the client, to the last bit.
func TestFragmentsNAT(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for n, p := range []path{udp4, udp6, tcp4, tcp6} {
		p = p.from(3000)
		w.run(w.tc, w.clients, p.in("S").frame(t))
		w.run(w.tc, w.servers, p.out("SA").frame(t))
		for m, packet := range []packet{p.in("A").with(datagram4000), p.out("A").with(datagram4000), p.in("A").with(datagram4000).with(full)} {
			in, want := mustFragments(t, packet, uint32(100*n+m))
			if len(in) < 4 {
				t.Fatalf("%d fragments", len(in))
			}
			for i := range in {
				w.follow(packet, in[i], tcRedirect, want[i], bpfReasonREASON_NONE)
			}
			w.follow(packet, in[1], tcDrop, nil, bpfReasonREASON_FRAGMENT) // the record has ended with the packet
		}
	}
}

// TestFragmentsBegin: a datagram in fragments begins a connection.
func TestFragmentsBegin(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, p := range []path{udp4, udp6} {
		packet := p.from(3001).in("").with(datagram4000)
		in, want := mustFragments(t, packet, 7)
		for i := range in {
			w.follow(packet, in[i], tcRedirect, want[i], bpfReasonREASON_NONE)
		}
		refused := serverless4.from(3002).in("S").with(datagram4000)
		if p.client.Addr().Is6() {
			refused = serverless6.from(3002).in("S").with(datagram4000)
		}
		in, _ = mustFragments(t, refused, 8)
		w.follow(refused, in[0], tcRedirect, nil, bpfReasonREASON_NO_SERVER)
		w.follow(refused, in[1], tcDrop, nil, bpfReasonREASON_NO_SERVER)
	}
	left := noService.from(3003).in("S").with(datagram4000)
	in, _ := mustFragments(t, left, 9)
	for i := range in {
		w.follow(left, in[i], tcPass, in[i], bpfReasonREASON_NONE)
	}
	left = noAddress.from(3003).in("S").with(datagram4000)
	in, _ = mustFragments(t, left, 9)
	for i := range slices.Backward(in) {
		w.follow(left, in[i], tcPass, in[i], bpfReasonREASON_NONE)
	}
}

// TestFragmentsAlone: a later fragment goes nowhere without its first one.
func TestFragmentsAlone(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, p := range []path{udp4, udp6} {
		for _, packet := range []packet{p.from(3004).in("").with(datagram4000), p.from(3004).out("").with(datagram4000)} {
			in, want := mustFragments(t, packet, 11)
			other, _ := mustFragments(t, packet, 12)
			w.follow(packet, in[2], tcDrop, nil, bpfReasonREASON_FRAGMENT) // out of order
			w.follow(packet, in[0], tcRedirect, want[0], bpfReasonREASON_NONE)
			w.follow(packet, in[3], tcRedirect, want[3], bpfReasonREASON_NONE)
			w.follow(packet, other[1], tcDrop, nil, bpfReasonREASON_FRAGMENT) // of another packet
			w.follow(packet, in[1], tcRedirect, want[1], bpfReasonREASON_NONE)
			w.setClock(w.settings.Now + 30*w.mustLook().hz)
			w.follow(packet, in[2], tcDrop, nil, bpfReasonREASON_FRAGMENT) // too late
			for _, p := range []path{udp4, udp6} {                         // the kernel verifies its neighbours
				w.run(w.tc, w.clients, p.from(3004).in("").frame(t))
				w.run(w.tc, w.servers, p.from(3004).out("").frame(t))
			}
		}
	}
}

// TestFragmentsOverlap: what was decided by the first fragment, no other one writes over. Impossible ones are nobody's.
func TestFragmentsOverlap(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	packet := udp4.from(3005).in("").with(datagram4000)
	in, want := mustFragments(t, packet, 13)
	w.follow(packet, in[0], tcRedirect, want[0], bpfReasonREASON_NONE)
	w.follow(packet, set16(20, 0x2001)(bytes.Clone(in[1])), tcDrop, nil, bpfReasonREASON_FRAGMENT_OVERLAP)
	w.follow(packet, set16(20, 0x2000|1192/8)(bytes.Clone(in[1])), tcDrop, nil, bpfReasonREASON_FRAGMENT_OVERLAP)
	w.follow(packet, set16(20, 0x1fff)(bytes.Clone(in[1])), tcPass, nil, bpfReasonREASON_MALFORMED) // beyond 64 KiB
	w.follow(packet, set16(16, 20)(bytes.Clone(in[1])), tcPass, nil, bpfReasonREASON_MALFORMED)     // without bytes
	w.follow(packet, set16(16, 33)(bytes.Clone(in[1])), tcPass, nil, bpfReasonREASON_MALFORMED)     // of 13 bytes, and more follow
	w.follow(packet, in[1], tcRedirect, want[1], bpfReasonREASON_NONE)
}

// TestFragmentsOtherWays: fragments go to servers of direct routing and tunnels, one like the other.
func TestFragmentsOtherWays(t *testing.T) {
	for _, c := range []lvs.ServerConfig{
		{Forward: lvs.Route}, {Forward: lvs.Tunnel}, {Forward: lvs.Tunnel, Tunnel: lvs.TunnelConfig{Type: lvs.GUE, Port: 6080}},
	} {
		for _, along := range []path{udp4, udp6} {
			w := mustWorld(t, small)
			along.virtual = netip.AddrPortFrom(along.virtual.Addr(), 93)
			w.mustUpdate(addWay(along.id(), along.server.Addr(), c))
			w.twice(w.tc, along)
			in, _ := mustFragments(t, along.from(4000).in("").with(datagram4000), 14)
			var ports []byte
			for _, f := range in {
				verdict, out := w.run(w.tc, w.clients, f)
				if verdict != tcRedirect || !bytes.Equal(out[:12], append(bytes.Clone(serverMAC), routerMAC...)) {
					t.Fatalf("%v: the verdict is %d", c, int32(verdict))
				}
				if c.Forward == lvs.Tunnel {
					checkTunnel(t, f, out, along.server.Addr(), c.Tunnel)
				} else if want := once(t, f); !bytes.Equal(out[14:], want) {
					t.Errorf("the fragment is\n%x\nwant\n%x", out[14:], want)
				}
				if c.Tunnel.Type == lvs.GUE {
					source := out[len(out)-len(f)+headers-12:][:2]
					if ports != nil && !bytes.Equal(ports, source) {
						t.Errorf("fragments come from ports %x and %x", ports, source)
					}
					ports = source
				}
			}
		}
	}
}
