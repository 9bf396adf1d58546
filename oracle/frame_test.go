// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"
)

// Where everybody is: clients on interface 1, servers on interface 2, each behind a router of its own.
var (
	clientMAC = [6]byte{2, 0, 0, 0, 1, 1}
	serverMAC = [6]byte{2, 0, 0, 0, 2, 1}
	ourMACs   = [3][6]byte{1: {2, 0, 0, 0, 1, 0xfe}, 2: {2, 0, 0, 0, 2, 0xfe}}
)

func route(a netip.Addr) (Hop, bool) {
	for prefix, hop := range map[string]Hop{
		"10.1.0.0/16":     {1, ourMACs[1], clientMAC, 0, netip.Addr{}},
		"2001:db8:1::/48": {1, ourMACs[1], clientMAC, 0, netip.Addr{}},
		"10.2.0.0/16":     {2, ourMACs[2], serverMAC, 0, netip.Addr{}},
		"2001:db8:2::/48": {2, ourMACs[2], serverMAC, 0, netip.Addr{}},
	} {
		if netip.MustParsePrefix(prefix).Contains(a) {
			return hop, true
		}
	}
	return Hop{}, false
}

// frame describes a frame; the zero values make an ordinary one.
type frame struct {
	from, to   string // address:port
	udp        bool
	flags      string // of TCP: S F A R P
	ttl        uint8  // 64 if it is 0
	payload    string
	noChecksum bool                                    // UDP
	options    bool                                    // IPv4 options, or IPv6 extension headers
	edit       func(l3, l4 gopacket.SerializableLayer) // last touch before the checksums
	bytes      func([]byte) []byte                     // last touch after them
	out        bool                                    // as it leaves the director: the MAC addresses are those of the next hop
}

// on gives the interface that a frame arrives on, or leaves by, judged by its addresses.
func (f frame) on() int {
	addr := netip.MustParseAddrPort(f.from).Addr()
	if f.out {
		addr = netip.MustParseAddrPort(f.to).Addr()
	}
	hop, ok := route(addr)
	if !ok {
		return 1
	}
	return hop.Interface
}

func (f frame) mustPacket(t rapid.TB) Packet {
	t.Helper()
	i := f.on()
	near, far := ourMACs[i], clientMAC
	if i == 2 {
		far = serverMAC
	}
	eth := &layers.Ethernet{SrcMAC: far[:], DstMAC: near[:], EthernetType: layers.EthernetTypeIPv4}
	if f.out {
		eth.SrcMAC, eth.DstMAC = near[:], far[:]
	}
	if f.ttl == 0 {
		f.ttl = 64
	}
	from, to := netip.MustParseAddrPort(f.from), netip.MustParseAddrPort(f.to)
	stack := []gopacket.SerializableLayer{eth}
	var network gopacket.NetworkLayer
	protocol := layers.IPProtocolTCP
	if f.udp {
		protocol = layers.IPProtocolUDP
	}
	if from.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: f.ttl, Id: 7, Flags: layers.IPv4DontFragment, Protocol: protocol,
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		if f.options {
			ip.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
		}
		stack, network = append(stack, ip), ip
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: f.ttl, NextHeader: protocol,
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		stack, network = append(stack, ip), ip
		if f.options {
			ip.NextHeader = layers.IPProtocolIPv6Destination
			padding := &layers.IPv6DestinationOption{OptionType: 1, OptionData: make([]byte, 12)}
			stack = append(stack, &layers.IPv6Destination{Options: []*layers.IPv6DestinationOption{padding}})
			stack[2].(*layers.IPv6Destination).NextHeader = protocol
		}
	}
	var transport gopacket.SerializableLayer
	if f.udp {
		u := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
		u.SetNetworkLayerForChecksum(network)
		transport = u
	} else {
		has := func(flag string) bool { return strings.Contains(f.flags, flag) }
		c := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: 1000, Window: 500,
			SYN: has("S"), FIN: has("F"), ACK: has("A"), RST: has("R"), PSH: has("P")}
		c.SetNetworkLayerForChecksum(network)
		transport = c
	}
	if f.edit != nil {
		f.edit(stack[1], transport)
	}
	stack = append(stack, transport, gopacket.Payload(f.payload))
	return Packet{Interface: i, Frame: f.finish(mustSerialize(t, stack...))}
}

func (f frame) finish(b []byte) []byte {
	if f.noChecksum {
		at := ethernetHeader + 20
		b[at+6], b[at+7] = 0, 0
	}
	if f.bytes != nil {
		b = f.bytes(b)
	}
	return b
}

func mustSerialize(t rapid.TB, stack ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mustChecksums fails unless every checksum of the frame is right.
func mustChecksums(t rapid.TB, b []byte) {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("%v: % x", e.Error(), b)
	}
	for _, l := range p.Layers() {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
	}
	err, wrong := p.VerifyChecksums()
	if err != nil || len(wrong) > 0 {
		t.Fatalf("checksums: %v %v: % x", err, wrong, b)
	}
}
