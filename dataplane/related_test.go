// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/hex"
	"maps"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
)

// complaint is an ICMP error on its way.
type complaint struct {
	from, to netip.Addr
	macs     [2]net.HardwareAddr // source and destination
	ttl      uint8
	kind4    layers.ICMPv4TypeCode
	kind6    layers.ICMPv6TypeCode
	mtu      uint32
	quotes   []byte // from the IP header on
}

var (
	router4, router6     = netip.MustParseAddr("198.51.100.254"), netip.MustParseAddr("2001:db8:c::fe")
	fragNeeded, hopsUsed = icmp4(3, 4), icmp4(11, 0)
	tooBig6, hopsUsed6   = icmp6(2, 0), icmp6(3, 0)
)

func (c complaint) frame(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: c.macs[0], DstMAC: c.macs[1], EthernetType: layers.EthernetTypeIPv4}
	all := []gopacket.SerializableLayer{eth}
	if c.from.Is4() {
		ip := &layers.IPv4{Version: 4, TOS: 0xc0, Id: 99, TTL: c.ttl, Protocol: layers.IPProtocolICMPv4, SrcIP: c.from.AsSlice(), DstIP: c.to.AsSlice()}
		all = append(all, ip, &layers.ICMPv4{TypeCode: c.kind4, Id: uint16(c.mtu >> 16), Seq: uint16(c.mtu)}, gopacket.Payload(c.quotes))
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: c.ttl, NextHeader: layers.IPProtocolICMPv6, SrcIP: c.from.AsSlice(), DstIP: c.to.AsSlice()}
		icmp := &layers.ICMPv6{TypeCode: c.kind6}
		icmp.SetNetworkLayerForChecksum(ip)
		all = append(all, ip, icmp, gopacket.Payload(append([]byte{0, 0, byte(c.mtu >> 8), byte(c.mtu)}, c.quotes...)))
	}
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	return b.Bytes()[:headers+ipLength(b.Bytes())]
}

// quote gives the head of a packet as a router beyond the director quotes it.
func quote(frame []byte, transport int) []byte {
	ip := frame[headers : headers+ipLength(frame)]
	header := 40
	if ip[0]>>4 == 4 {
		header = int(ip[0]&15) * 4
	}
	return bytes.Clone(ip[:min(len(ip), header+transport)])
}

// ofClient is the error of a router beyond the client about what the client was sent, and as the server gets it.
func ofClient(t testing.TB, answer packet, bytes int) (in, want complaint) {
	in = complaint{from: router4, to: answer.virtual.Addr(), macs: [2]net.HardwareAddr{clientMAC, routerMAC}, ttl: 64, kind4: fragNeeded, kind6: tooBig6, mtu: 1300}
	if !in.to.Is4() {
		in.from = router6
	}
	want = in
	want.to, want.macs, want.ttl = answer.server.Addr(), [2]net.HardwareAddr{routerMAC, serverMAC}, 63
	in.quotes = quote(answer.forwarded(t, routerMAC), bytes)
	answer.ttl = answer.hops() - 1
	want.quotes = quote(answer.frame(t), bytes)
	return in, want
}

// ofServer is the error of a server, or a router in front of it, about what the server was sent, and as the client gets it.
func ofServer(t testing.TB, request packet, from netip.Addr, bytes int) (in, want complaint) {
	in = complaint{from: from, to: request.client.Addr(), macs: [2]net.HardwareAddr{serverMAC, routerMAC}, ttl: 64, kind4: icmp4(3, 3), kind6: icmp6(1, 4)}
	want = in
	want.from, want.macs, want.ttl = request.virtual.Addr(), [2]net.HardwareAddr{routerMAC, clientMAC}, 63
	in.quotes = quote(request.forwarded(t, routerMAC), bytes)
	request.ttl = request.hops() - 1
	want.quotes = quote(request.frame(t), bytes)
	return in, want
}

// TestRelatedNAT: an ICMP error about a connection quotes to its receiver what the receiver has sent, to the last bit.
func TestRelatedNAT(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, bytes := range []int{8, 18, 20, 1000} {
		for _, p := range []path{tcp4, tcp6, udp4, udp6} {
			p = p.from(2000 + uint16(bytes))
			w.run(w.tc, w.clients, p.in("S").frame(t))
			w.run(w.tc, w.servers, p.out("SA").frame(t))
			for _, change := range []func(*packet){func(*packet) {}, unchecked, full, odd} {
				if p.protocol == lvs.TCP && !p.in("A").with(change).noChecksum || p.protocol == lvs.UDP {
					in, want := ofClient(t, p.out("A").with(change), bytes)
					w.checkRelated(in, want, true)
					in, want = ofServer(t, p.in("A").with(change), p.server.Addr(), bytes)
					w.checkRelated(in, want, false)
				}
			}
			other := netip.MustParseAddr("10.0.0.77")
			if p.client.Addr().Is6() {
				other = netip.MustParseAddr("fd00::77")
			}
			in, want := ofServer(t, p.in("A"), other, bytes)
			in.kind4, in.kind6, want.kind4, want.kind6 = hopsUsed, hopsUsed6, hopsUsed, hopsUsed6
			w.checkRelated(in, want, false)
		}
	}
}

// TestRelatedCarries: no carry gets lost where the difference of two addresses nearly fills its 32 bits.
func TestRelatedCarries(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	p := path{lvs.UDP, udp4.client, netip.MustParseAddrPort("11.0.0.11:53"), netip.AddrPortFrom(server4, 53)}
	w.mustUpdate(addService(p.id(), "rr", p.server))
	w.run(w.tc, w.clients, p.in("").frame(t))
	w.run(w.tc, w.servers, p.out("").frame(t))
	in, want := ofClient(t, p.out(""), 20)
	w.checkRelated(in, want, true)
}

// checkRelated runs an error, which counts as a packet of the connection and does nothing else to it.
func (w *world) checkRelated(in, want complaint, toServer bool) {
	w.t.Helper()
	frame, from := in.frame(w.t), w.servers
	if toServer {
		from = w.clients
	}
	if verdict, out := w.run(w.xdp, from, frame); verdict != xdpPass || !bytes.Equal(out, frame) {
		w.t.Errorf("XDP's verdict is %d", verdict)
	}
	before, conns := w.mustTotal(), w.mustEntries()
	w.setClock(w.settings.Now + 1)
	verdict, out := w.run(w.tc, from, frame)
	if verdict != tcRedirect || !bytes.Equal(out, want.frame(w.t)) {
		w.t.Errorf("the verdict is %d, the packet\n%s\nbecomes\n%s\nwant\n%s", int32(verdict), hex.Dump(frame), hex.Dump(out), hex.Dump(want.frame(w.t)))
	}
	after := w.mustTotal()
	if toServer {
		before.InPackets, before.InBytes = before.InPackets+1, before.InBytes+uint64(len(frame)-headers)
	} else {
		before.OutPackets, before.OutBytes = before.OutPackets+1, before.OutBytes+uint64(len(frame)-headers)
	}
	if before != after {
		w.t.Errorf("counted: %+v, want %+v", after, before)
	}
	if now := w.mustEntries(); !maps.Equal(now, conns) {
		w.t.Errorf("connections were\n%v\nand are\n%v", conns, now)
	}
}

// mustTotal gives the counters of all services together.
func (w *world) mustTotal() (all lvs.Stats) {
	w.t.Helper()
	table, err := w.Table()
	must(w.t, err)
	for _, s := range table.Services() {
		all.Conns += s.Stats.Conns
		all.InPackets += s.Stats.InPackets
		all.OutPackets += s.Stats.OutPackets
		all.InBytes += s.Stats.InBytes
		all.OutBytes += s.Stats.OutBytes
	}
	return all
}

// mustEntries gives what packets change of each connection: its life, and its time.
func (w *world) mustEntries() map[int][2]uint32 {
	w.t.Helper()
	table, err := w.mustLook().entries()
	must(w.t, err)
	entries := map[int][2]uint32{}
	for at, e := range table.all() {
		entries[int(at)] = [2]uint32{e.Life, e.Expires}
	}
	return entries
}

// TestRelatedElsewhere: errors that are not about a connection, or that cannot be read, and messages that are no errors.
func TestRelatedElsewhere(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, p := range []path{tcp4, tcp6, udp4, udp6} {
		p = p.from(2000)
		w.run(w.tc, w.clients, p.in("S").frame(t))
		w.run(w.tc, w.servers, p.out("SA").frame(t))
		in, want := ofClient(t, p.out("A"), 20)
		frame := in.frame(t)

		unknown, _ := ofClient(t, p.from(2001).out("A"), 20)
		w.checkLeft(unknown.frame(t), "about an unknown connection", bpfReasonREASON_NONE)
		echo := in
		echo.kind4, echo.kind6 = icmp4(8, 0), icmp6(128, 0)
		w.checkLeft(echo.frame(t), "ping", bpfReasonREASON_NONE)
		other := in
		other.to = p.client.Addr()
		w.checkLeft(other.frame(t), "to somebody else than the sender of what it quotes", bpfReasonREASON_NONE)
		again := in
		again.quotes = quote(frame, 40)
		w.checkLeft(again.frame(t), "about an error", bpfReasonREASON_NONE)

		inner := 14 + 20 + 8
		if p.client.Addr().Is6() {
			inner = 14 + 40 + 8
		}
		for _, d := range []struct {
			does  string
			at    int
			value byte
		}{{"quotes another version", inner, 0x75}, {"quotes a header of 4 bytes", inner, frame[inner]&0xf0 | 1}} {
			if d.value>>4 == 6 {
				continue
			}
			w.checkLeft(set(d.at, d.value)(bytes.Clone(frame)), d.does, bpfReasonREASON_MALFORMED)
		}
		if p.client.Addr().Is4() {
			w.checkLeft(set(inner+7, 1)(bytes.Clone(frame)), "quotes a later fragment", bpfReasonREASON_NONE)
			w.checkLeft(set(inner, 0x4f)(bytes.Clone(frame)), "quotes a header longer than the packet", bpfReasonREASON_MALFORMED)
			w.checkLeft(set(20, 0x20)(bytes.Clone(frame)), "a fragment", bpfReasonREASON_NONE)
		}
		for n := range len(in.quotes) {
			in, want := in, want
			in.quotes, want.quotes = in.quotes[:n], want.quotes[:n]
			if ports := len(quote(p.out("A").frame(t), 4)); n < ports {
				w.checkLeft(in.frame(t), "cut before its ports", bpfReasonREASON_MALFORMED)
			} else if n < ports+2 || n >= ports+4 && p.protocol == lvs.UDP {
				w.checkRelated(in, want, true)
			}
		}
	}
}

// checkLeft runs an error that is the kernel's to handle.
func (w *world) checkLeft(frame []byte, does string, reason bpfReason) {
	w.t.Helper()
	before := w.mustReasons()
	if verdict, out := w.run(w.tc, w.clients, frame); verdict != tcPass || !bytes.Equal(out, frame) {
		w.t.Errorf("%s: the verdict is %d", does, int32(verdict))
	}
	after := w.mustReasons()
	if reason != bpfReasonREASON_NONE {
		before[reason]++
	}
	if before != after {
		w.t.Errorf("%s: counted %v, want %v", does, after, before)
	}
}

// TestRelatedOtherWays: servers of direct routing and tunnels hear as it is what became of their answers, and a TTL of 1 is
// the end of an error.
func TestRelatedOtherWays(t *testing.T) {
	for _, forward := range []lvs.Forward{lvs.Route, lvs.Tunnel} {
		for _, along := range []path{tcp4, tcp6} {
			w := mustWorld(t, small)
			along.virtual = netip.AddrPortFrom(along.virtual.Addr(), 92)
			w.mustUpdate(addWay(along.id(), along.server.Addr(), lvs.ServerConfig{Forward: forward}))
			w.twice(w.tc, along)
			in, _ := ofClient(t, along.from(4000).out("A"), 20)
			frame := in.frame(t)
			verdict, out := w.run(w.tc, w.clients, frame)
			if verdict != tcRedirect || !bytes.Equal(out[:12], append(bytes.Clone(serverMAC), routerMAC...)) {
				t.Fatalf("%v: the verdict is %d: %x", forward, int32(verdict), out)
			}
			if forward == lvs.Tunnel {
				checkTunnel(t, frame, out, along.server.Addr(), lvs.TunnelConfig{Type: lvs.IPIP})
			} else if want := once(t, frame); !bytes.Equal(out[14:], want) {
				t.Errorf("%v: the packet is\n%x\nwant\n%x", forward, out[14:], want)
			}
			in.ttl = 1
			before := w.mustReasons()
			if verdict, _ := w.run(w.tc, w.clients, in.frame(t)); verdict != tcDrop || w.mustReasons()[bpfReasonREASON_TTL] != before[bpfReasonREASON_TTL]+1 {
				t.Errorf("%v: the verdict about a TTL of 1 is %d", forward, int32(verdict))
			}
		}
	}
}

// TestRelatedFullNAT: with FULLNAT, errors come from whom their receiver knows, on both sides; and fragments follow.
func TestRelatedFullNAT(t *testing.T) {
	for _, along := range fullPaths {
		w := mustWorld(t, small)
		w.mustUpdate(addFull(along, lvs.DefaultLocalPorts))
		w.twice(w.tc, along)
		along := along.from(4001)
		inside := along // as the server sees it
		inside.client = w.localPort(along)
		for range 2 { // the kernel verifies its neighbours
			w.run(w.tc, w.servers, inside.out("SA").frame(t))
		}
		for _, bytes := range []int{8, 20} {
			in, want := ofClient(t, along.out("A"), bytes)
			want.from = inside.client.Addr()
			seen := inside.out("A")
			seen.ttl = 63
			want.quotes = quote(seen.frame(t), bytes)
			w.checkRelated(in, want, true)

			in, want = ofServer(t, along.in("A"), along.server.Addr(), bytes)
			in.to = inside.client.Addr()
			in.quotes = quote(inside.in("A").forwarded(t, routerMAC), bytes)
			w.checkRelated(in, want, false)
		}
		request, answer := along.in("A").with(datagram4000), along.out("A").with(datagram4000)
		sent, asked := request, answer
		sent.path, asked.path = inside, inside
		in, want := inFragments(request.frame(t), 3, 1200), inFragments(sent.forwarded(t, routerMAC), 3, 1200)
		for i := range in {
			w.follow(request, in[i], tcRedirect, want[i], bpfReasonREASON_NONE)
		}
		in, want = inFragments(asked.frame(t), 4, 1200), inFragments(answer.forwarded(t, routerMAC), 4, 1200)
		for i := range in {
			w.follow(answer, in[i], tcRedirect, want[i], bpfReasonREASON_NONE)
		}
	}
}
