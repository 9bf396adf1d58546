// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
)

// path is what a connection goes along: a service, a server of it, and its client.
type path struct {
	protocol                lvs.Protocol
	client, virtual, server netip.AddrPort
}

func (p path) id() lvs.ServiceID { return serviceID(p.protocol, p.virtual) }

// from gives the path of another port of the client.
func (p path) from(port uint16) path {
	p.client = netip.AddrPortFrom(p.client.Addr(), port)
	return p
}

// packet is a packet along a path, with what is particular about it.
type packet struct {
	path
	answer     bool   // from the server
	flags      string // of TCP: letters of SFRAP
	ttl        uint8  // 0 is 64
	tos        uint8  // 0 is 0x10 for IPv4
	payload    []byte
	options    int    // bytes of IPv4 options
	extensions []byte // kinds of IPv6 extension headers, of 8 bytes each
	fragmentOK bool   // no IPv4 DF
	noChecksum bool   // UDP's may be left out
	tail       int    // bytes of padding after the packet
}

func (p path) in(flags string) packet {
	return packet{path: p, flags: flags, payload: []byte("request")}
}
func (p path) out(flags string) packet {
	return packet{path: p, flags: flags, payload: []byte("answer"), answer: true}
}

// routerMAC is the address of the director's interfaces.
var routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

// frame gives the packet as it comes in: from the client to the service, or from the server to the client.
func (p packet) frame(t testing.TB) []byte {
	eth := layers.Ethernet{SrcMAC: clientMAC, DstMAC: routerMAC}
	if p.answer {
		eth.SrcMAC = serverMAC
		return p.build(t, eth, p.server, p.client)
	}
	return p.build(t, eth, p.client, p.virtual)
}

// forwarded gives the packet as it is to leave by an interface: from the client to the server, or from the service to
// the client.
func (p packet) forwarded(t testing.TB, by net.HardwareAddr) []byte {
	p.ttl = p.hops() - 1
	if p.answer {
		return p.build(t, layers.Ethernet{SrcMAC: by, DstMAC: clientMAC}, p.virtual, p.client)
	}
	return p.build(t, layers.Ethernet{SrcMAC: by, DstMAC: serverMAC}, p.client, p.server)
}

// translated gives the packet as it is handed to the kernel: rewritten like a forwarded one, in its old frame.
func (p packet) translated(t testing.TB) []byte {
	out := p.forwarded(t, serverMAC)
	copy(out, p.frame(t)[:12])
	return out
}

func (p packet) hops() uint8 {
	if p.ttl == 0 {
		return 64
	}
	return p.ttl
}

func (p packet) build(t testing.TB, eth layers.Ethernet, from, to netip.AddrPort) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	all := []gopacket.SerializableLayer{&eth}
	if from.Addr().Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		ip := &layers.IPv4{
			Version: 4, TOS: cmp.Or(p.tos, 0x10), Id: 4711, TTL: p.hops(), Protocol: layers.IPProtocol(p.protocol), Flags: layers.IPv4DontFragment,
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(),
		}
		if p.fragmentOK {
			ip.Flags = 0
		}
		for range p.options {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
		}
		network, all = ip, append(all, ip)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{
			Version: 6, TrafficClass: p.tos, FlowLabel: 0xabcde, HopLimit: p.hops(), NextHeader: layers.IPProtocol(p.protocol),
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(),
		}
		var chain []byte
		for i, kind := range p.extensions {
			if i == 0 {
				ip.NextHeader = layers.IPProtocol(kind)
			}
			next := byte(p.protocol)
			if i+1 < len(p.extensions) {
				next = p.extensions[i+1]
			}
			chain = append(chain, next, 0, 1, 4, 0, 0, 0, 0) // filled up with PadN
		}
		network, all = ip, append(all, ip, gopacket.Payload(chain))
	}
	all = append(all, p.transport(network, from.Port(), to.Port()), gopacket.Payload(p.payload))
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	out := b.Bytes()
	out = out[:headers+ipLength(out)] // gopacket fills frames up to 60 bytes
	if p.noChecksum {
		at := len(out) - len(p.payload) - 2
		out[at], out[at+1] = 0, 0
	}
	return append(out, make([]byte, p.tail)...)
}

const headers = 14 // of Ethernet

// ipLength is how long the packet in a frame says that it is.
func ipLength(frame []byte) int {
	if frame[12] == 8 {
		return int(binary.BigEndian.Uint16(frame[16:]))
	}
	return 40 + int(binary.BigEndian.Uint16(frame[18:]))
}

func (p packet) transport(network gopacket.NetworkLayer, from, to uint16) gopacket.SerializableLayer {
	if p.protocol == lvs.UDP {
		u := &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
		u.SetNetworkLayerForChecksum(network)
		return u
	}
	s := &layers.TCP{
		SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), Seq: 1000, Ack: 2000, Window: 4096,
		SYN: strings.Contains(p.flags, "S"), ACK: strings.Contains(p.flags, "A"), RST: strings.Contains(p.flags, "R"),
		FIN: strings.Contains(p.flags, "F"), PSH: strings.Contains(p.flags, "P"),
	}
	if s.SYN {
		s.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
	}
	s.SetNetworkLayerForChecksum(network)
	return s
}

// icmpError gives the answer to a frame: an ICMP error from the address that it was sent to, quoting up to 548 bytes.
func icmpError(t testing.TB, frame []byte, kind4 layers.ICMPv4TypeCode, kind6 layers.ICMPv6TypeCode, mtu uint32) []byte {
	t.Helper()
	return errorQuoting(t, frame[:headers+min(548, ipLength(frame))], kind4, kind6, mtu)
}

// errorQuoting gives such an error, which quotes all that there is of the frame.
func errorQuoting(t testing.TB, frame []byte, kind4 layers.ICMPv4TypeCode, kind6 layers.ICMPv6TypeCode, mtu uint32) []byte {
	t.Helper()
	eth := layers.Ethernet{DstMAC: frame[6:12], SrcMAC: frame[:6], EthernetType: layers.EthernetType(binary.BigEndian.Uint16(frame[12:]))}
	quoted := gopacket.Payload(frame[headers:])
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if eth.EthernetType == layers.EthernetTypeIPv4 {
		ip := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: frame[30:34], DstIP: frame[26:30]}
		icmp := &layers.ICMPv4{TypeCode: kind4, Id: uint16(mtu >> 16), Seq: uint16(mtu)}
		must(t, gopacket.SerializeLayers(b, options, &eth, ip, icmp, quoted))
		return b.Bytes()
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: frame[38:54], DstIP: frame[22:38]}
	icmp := &layers.ICMPv6{TypeCode: kind6}
	icmp.SetNetworkLayerForChecksum(ip)
	must(t, gopacket.SerializeLayers(b, options, &eth, ip, icmp, gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, mtu), quoted...))))
	return b.Bytes()
}
