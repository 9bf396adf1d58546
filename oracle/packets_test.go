// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"lvs"
)

const (
	client, vip, real    = "10.1.0.1:20000", "10.9.0.1:80", "10.2.0.11:8080"
	client6, vip6, real6 = "[2001:db8:1::1]:20000", "[2001:db8:9::1]:80", "[2001:db8:2::1]:8080"
)

func serviceID(p lvs.Protocol, addr string) lvs.ServiceID {
	a := netip.MustParseAddrPort(addr)
	id := lvs.ServiceID{Family: lvs.IPv4, Protocol: p, Addr: a.Addr(), Port: a.Port()}
	if a.Addr().Is6() {
		id.Family = lvs.IPv6
	}
	return id
}

func serverID(addr string) lvs.ServerID {
	a := netip.MustParseAddrPort(addr)
	return lvs.ServerID{Addr: a.Addr(), Port: a.Port()}
}

func mustUpdate(t rapid.TB, d *Director, changes ...func(*lvs.Table) error) {
	t.Helper()
	for _, change := range changes {
		if err := d.Update(change); err != nil {
			t.Fatal(err)
		}
	}
}

func addService(p lvs.Protocol, addr, scheduler string) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		return t.AddService(serviceID(p, addr), lvs.ServiceConfig{Scheduler: scheduler, Netmask: 128})
	}
}

func nat(weight int32) lvs.ServerConfig { return lvs.ServerConfig{Forward: lvs.Masq, Weight: weight} }

func addServer(p lvs.Protocol, svc, addr string, c lvs.ServerConfig) func(*lvs.Table) error {
	return func(t *lvs.Table) error { return t.AddServer(serviceID(p, svc), serverID(addr), c) }
}

func editServer(p lvs.Protocol, svc, addr string, c lvs.ServerConfig) func(*lvs.Table) error {
	return func(t *lvs.Table) error { return t.EditServer(serviceID(p, svc), serverID(addr), c) }
}

func deleteServer(p lvs.Protocol, svc, addr string) func(*lvs.Table) error {
	return func(t *lvs.Table) error { return t.DeleteServer(serviceID(p, svc), serverID(addr)) }
}

// asKernel gives a director the defaults of kernel IPVS.
func asKernel(t testing.TB, d *Director) *Director {
	t.Helper()
	if err := d.Set(func(s *lvs.Settings) error { return s.SetCompat(lvs.CompatKernel) }); err != nil {
		t.Fatal(err)
	}
	return d
}

// mustDirector has a TCP and a UDP service of each family, with one server each.
func mustDirector(t rapid.TB) *Director {
	d := New(Options{Size: 4, Route: route})
	for _, p := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
		mustUpdate(t, d,
			addService(p, vip, "rr"), addServer(p, vip, real, nat(1)),
			addService(p, vip6, "rr"), addServer(p, vip6, real6, nat(1)))
	}
	return d
}

// cut makes the frame say that it is shorter, by its last bytes.
func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }

func set(at int, v ...byte) func([]byte) []byte {
	return func(b []byte) []byte { copy(b[at:], v); return b }
}

func fragment(offset uint16, flags layers.IPv4Flag) func(l3, l4 gopacket.SerializableLayer) {
	return func(l3, _ gopacket.SerializableLayer) {
		l3.(*layers.IPv4).FragOffset, l3.(*layers.IPv4).Flags = offset, flags
	}
}

// packetRow is a sentence, the packets before, a packet in, the verdict and the packet out.
type packetRow struct {
	sense  string
	before []frame
	in     frame
	want   Verdict
	reason Reason
	out    frame
}

func packetTable() []packetRow {
	syn := frame{from: client, to: vip, flags: "S"}
	syn6 := frame{from: client6, to: vip6, flags: "S"}
	query := frame{from: client, to: vip, udp: true, payload: "question"}
	out := func(f frame, from, to string) frame {
		f.from, f.to, f.ttl, f.out = from, to, 63, true
		return f
	}
	with := func(f frame, change func(*frame)) frame { change(&f); return f }

	return []packetRow{
		{sense: "a SYN goes to the server", in: syn, want: Forward, out: out(syn, client, real)},
		{sense: "so does one over IPv6", in: syn6, want: Forward, out: out(syn6, client6, real6)},
		{sense: "the answer comes from the service", before: []frame{syn},
			in:   frame{from: real, to: client, flags: "SA"},
			want: Forward, out: frame{from: vip, to: client, flags: "SA", ttl: 63, out: true}},
		{sense: "over IPv6 too", before: []frame{syn6},
			in:   frame{from: real6, to: client6, flags: "SA"},
			want: Forward, out: frame{from: vip6, to: client6, flags: "SA", ttl: 63, out: true}},
		{sense: "data follows the SYN", before: []frame{syn},
			in:   frame{from: client, to: vip, flags: "PA", payload: "hello"},
			want: Forward, out: frame{from: client, to: real, flags: "PA", payload: "hello", ttl: 63, out: true}},
		{sense: "a datagram goes to the server", in: query, want: Forward, out: out(query, client, real)},
		{sense: "over IPv6 too", in: with(query, func(f *frame) { f.from, f.to = client6, vip6 }), want: Forward, out: out(query, client6, real6)},
		{sense: "and is answered", before: []frame{query},
			in:   frame{from: real, to: client, udp: true, payload: "answer!"},
			want: Forward, out: frame{from: vip, to: client, udp: true, payload: "answer!", ttl: 63, out: true}},
		{sense: "a datagram without checksum stays so", in: with(query, func(f *frame) { f.noChecksum = true }), want: Forward,
			out: with(out(query, client, real), func(f *frame) { f.noChecksum = true })},
		{sense: "IPv4 options are carried along", in: with(syn, func(f *frame) { f.options = true }), want: Forward,
			out: with(out(syn, client, real), func(f *frame) { f.options = true })},
		{sense: "so are IPv6 extension headers", in: with(syn6, func(f *frame) { f.options = true }), want: Forward,
			out: with(out(syn6, client6, real6), func(f *frame) { f.options = true })},
		{sense: "padding behind the packet stays", in: with(syn, func(f *frame) { f.bytes = func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6) } }),
			want: Forward, out: with(out(syn, client, real), func(f *frame) { f.bytes = func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6) } })},
		{sense: "a SYN with ACK begins a connection too", in: frame{from: client, to: vip, flags: "SA"}, want: Forward,
			out: frame{from: client, to: real, flags: "SA", ttl: 63, out: true}},

		{sense: "a segment that belongs to nothing goes up", in: frame{from: client, to: vip, flags: "A"}, reason: NoConn},
		{sense: "so does a SYN with RST", in: frame{from: client, to: vip, flags: "SR"}, reason: NoConn},
		{sense: "another port goes up", in: frame{from: client, to: "10.9.0.1:81", flags: "S"}},
		{sense: "another address goes up", in: frame{from: client, to: "10.9.0.2:80", flags: "S"}},
		{sense: "what a server sends by itself goes up", in: frame{from: real, to: client, flags: "S"}},
		{sense: "a client without a way back is let in all the same", in: frame{from: "10.66.0.1:1", to: vip, flags: "S"}, want: Forward,
			out: frame{from: "10.66.0.1:1", to: real, flags: "S", ttl: 63, out: true}},
		{sense: "its answer goes up", before: []frame{{from: "10.66.0.1:1", to: vip, flags: "S"}},
			in: frame{from: real, to: "10.66.0.1:1", flags: "SA"}, reason: NoRoute},
		{sense: "the last hop is used up", in: with(syn, func(f *frame) { f.ttl = 1 }), want: Answer, reason: TTL},
		{sense: "over IPv6 too", in: with(syn6, func(f *frame) { f.ttl = 1 }), want: Answer, reason: TTL},
		{sense: "two hops are enough", in: with(syn, func(f *frame) { f.ttl = 2 }), want: Forward,
			out: with(out(syn, client, real), func(f *frame) { f.ttl = 1 })},
		{sense: "the table is full", want: Drop, reason: TableFull,
			before: []frame{{from: "10.1.0.1:1", to: vip, flags: "S"}, {from: "10.1.0.1:2", to: vip, flags: "S"},
				{from: "10.1.0.1:3", to: vip, flags: "S"}, {from: "10.1.0.1:4", to: vip, flags: "S"}}, in: syn},

		{sense: "a first fragment that ends between eights", in: with(syn, func(f *frame) { f.edit = fragment(0, layers.IPv4MoreFragments) }), reason: Malformed},
		{sense: "a later fragment without its first one", in: with(syn, func(f *frame) { f.edit = fragment(10, 0) }), want: Drop, reason: Fragment},
		{sense: "a fragment for another port counts, since nobody can tell", in: frame{from: client, to: "10.9.0.1:81", flags: "S", edit: fragment(10, 0)}, want: Drop, reason: Fragment},
		{sense: "a fragment for another address does not", in: frame{from: client, to: "10.9.0.2:80", flags: "S", edit: fragment(10, 0)}},
		{sense: "an IPv6 fragment that ends between eights", in: with(syn6, func(f *frame) {
			f.bytes = func(b []byte) []byte {
				b[ethernetHeader+6] = fragmentHeader
				return append(b[:ethernetHeader+40:ethernetHeader+40], append([]byte{6, 0, 0, 1, 0, 0, 0, 9}, b[ethernetHeader+40:ethernetHeader+52]...)...)
			}
		}), reason: Malformed},

		{sense: "a frame with a VLAN tag goes up", in: with(syn, func(f *frame) {
			f.bytes = func(b []byte) []byte { return append(b[:12:12], append([]byte{0x81, 0, 0, 5}, b[12:]...)...) }
		})},
		{sense: "ARP goes up", in: with(syn, func(f *frame) { f.bytes = set(12, 8, 6) })},
		{sense: "a runt goes up", in: with(syn, func(f *frame) { f.bytes = func(b []byte) []byte { return b[:13] } })},
		{sense: "a frame shorter than its packet goes up", in: with(syn, func(f *frame) { f.payload, f.bytes = strings.Repeat("x", 30), cut(1) }), reason: Malformed},
		{sense: "an IPv6 frame shorter than its packet goes up", in: with(syn6, func(f *frame) { f.bytes = cut(1) }), reason: Malformed},
		{sense: "IPv4 that says it is version 5 goes up", in: with(syn, func(f *frame) { f.bytes = set(14, 0x55) }), reason: Malformed},
		{sense: "IPv4 with four words of header goes up", in: with(syn, func(f *frame) { f.bytes = set(14, 0x44) }), reason: Malformed},
		{sense: "IPv4 shorter than its header goes up", in: with(syn, func(f *frame) { f.bytes = set(16, 0, 19) }), reason: Malformed},
		{sense: "TCP cut by the packet's length goes up", in: with(syn, func(f *frame) { f.bytes = set(16, 0, 39) }), reason: Malformed},
		{sense: "TCP with four words of header goes up", in: with(syn, func(f *frame) { f.bytes = set(14+20+12, 0x40) }), reason: Malformed},
		{sense: "TCP with more header than packet goes up", in: with(syn, func(f *frame) { f.bytes = set(14+20+12, 0x60) }), reason: Malformed},
		{sense: "UDP of seven bytes goes up", in: with(query, func(f *frame) { f.bytes = set(14+20+4, 0, 7) }), reason: Malformed},
		{sense: "IPv6 without an end of extension headers goes up", in: with(syn6, func(f *frame) { f.bytes = set(14+6, 0) }), reason: Malformed},
		{sense: "another protocol goes up", in: with(syn, func(f *frame) { f.bytes = set(14+9, 132) })},
	}
}

func TestPackets(t *testing.T) {
	for _, c := range packetTable() {
		t.Run(c.sense, c.check)
	}
}

func (c packetRow) check(t *testing.T) {
	d := mustDirector(t)
	for _, b := range c.before {
		if r := d.Packet(b.mustPacket(t)); r.Verdict != Forward {
			t.Fatalf("before: %+v", r)
		}
	}
	in := c.in.mustPacket(t)
	untouched := bytes.Clone(in.Frame)
	r := d.Packet(in)
	if r.Verdict != c.want || r.Reason != c.reason {
		t.Fatalf("%v %q, want %v %q", r.Verdict, r.Reason, c.want, c.reason)
	}
	if !bytes.Equal(in.Frame, untouched) {
		t.Error("the frame that came in was written to")
	}
	if c.reason != "" && d.Reasons()[c.reason] != 1 {
		t.Errorf("reasons %v", d.Reasons())
	}
	switch c.want {
	case Pass, Drop:
		if r.Frame != nil {
			t.Errorf("a frame leaves: % x", r.Frame)
		}
		return
	case Answer:
		mustChecksums(t, r.Frame)
		return
	}
	want := c.out.mustPacket(t)
	if r.Interface != want.Interface || !bytes.Equal(r.Frame, want.Frame) {
		t.Errorf("on %d\n% x, want on %d\n% x", r.Interface, r.Frame, want.Interface, want.Frame)
	}
}

// TestNoServer: who asks a service without servers is told so by the service's address, with what was asked.
func TestNoServer(t *testing.T) {
	for _, c := range []struct {
		sense string
		in    frame
	}{
		{"TCP", frame{from: client, to: vip, flags: "S"}},
		{"UDP", frame{from: client, to: vip, udp: true, payload: "odd"}},
		{"a packet with options", frame{from: client, to: vip, flags: "S", options: true}},
		{"a long packet is quoted in part", frame{from: client, to: vip, udp: true, payload: strings.Repeat("x", 1000)}},
		{"one hop left", frame{from: client, to: vip, flags: "S", ttl: 1}},
		{"IPv6", frame{from: client6, to: vip6, flags: "S"}},
		{"a long packet over IPv6", frame{from: client6, to: vip6, udp: true, payload: strings.Repeat("x", 1000)}},
	} {
		t.Run(c.sense, func(t *testing.T) {
			d := mustDirector(t)
			for _, p := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
				mustUpdate(t, d, editServer(p, vip, real, nat(0)), editServer(p, vip6, real6, nat(0)))
			}
			in := c.in.mustPacket(t)
			r := d.Packet(in)
			if r.Verdict != Answer || r.Reason != NoServer || r.Interface != in.Interface {
				t.Fatalf("%v %q on %d", r.Verdict, r.Reason, r.Interface)
			}
			p, _ := parse(in.Frame)
			quote := in.Frame[p.ip : p.ip+min(p.size(), quoted)]

			from, to := netip.MustParseAddrPort(c.in.to).Addr(), netip.MustParseAddrPort(c.in.from).Addr()
			eth := &layers.Ethernet{SrcMAC: ourMACs[1][:], DstMAC: clientMAC[:], EthernetType: layers.EthernetTypeIPv4}
			var want []byte
			if from.Is4() {
				want = mustSerialize(t, eth,
					&layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: from.AsSlice(), DstIP: to.AsSlice()},
					&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote))
			} else {
				eth.EthernetType = layers.EthernetTypeIPv6
				ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
				icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}
				icmp.SetNetworkLayerForChecksum(ip)
				want = mustSerialize(t, eth, ip, icmp, gopacket.Payload([]byte{0, 0, 0, 0}), gopacket.Payload(quote))
			}
			if !bytes.Equal(r.Frame, want) {
				t.Errorf("got\n% x, want\n% x", r.Frame, want)
			}
		})
	}
}

// TestWrongChecksumsStayWrong: a director carries checksums on, so that damage on the way here is seen at the end.
func TestWrongChecksumsStayWrong(t *testing.T) {
	d := mustDirector(t)
	damaged := frame{from: client, to: vip, flags: "S", payload: "abcd"}
	whole := d.Packet(damaged.mustPacket(t))
	d = mustDirector(t)
	damaged.bytes = func(b []byte) []byte { b[len(b)-1] ^= 0x55; return b }
	r := d.Packet(damaged.mustPacket(t))
	mustChecksums(t, whole.Frame)
	if i := ethernetHeader + 20 + 16; !bytes.Equal(r.Frame[i:i+2], whole.Frame[i:i+2]) {
		t.Error("the checksum was made anew")
	}
}

// TestZeroChecksum: a UDP checksum that comes out as 0 is written as ffff, since 0 means that there is none.
func TestZeroChecksum(t *testing.T) {
	d := mustDirector(t)
	for n := range 1 << 16 {
		in := frame{from: client, to: vip, udp: true, payload: string([]byte{byte(n >> 8), byte(n)})}
		r := d.Packet(in.mustPacket(t))
		if check := r.Frame[ethernetHeader+20+6:]; check[0] == 0 && check[1] == 0 {
			t.Fatalf("payload %04x gets no checksum", n)
		} else if check[0] == 0xff && check[1] == 0xff {
			mustChecksums(t, r.Frame)
			return
		}
	}
	t.Fatal("no payload has that checksum")
}

func TestUpdateFails(t *testing.T) {
	d := mustDirector(t)
	before, _ := d.Table()
	failure := errors.New("no")
	err := d.Update(func(t *lvs.Table) error { t.Clear(); return failure })
	if after, _ := d.Table(); !errors.Is(err, failure) || len(after.Services()) != len(before.Services()) {
		t.Errorf("error %v, and %d services", err, len(after.Services()))
	}
	err = d.Update(func(t *lvs.Table) error {
		t.Clear()
		t.Put(&lvs.Service{ServiceID: serviceID(lvs.TCP, vip), ServiceConfig: lvs.ServiceConfig{Scheduler: "none"}})
		return nil
	})
	if after, _ := d.Table(); !errors.Is(err, lvs.ErrNoScheduler) || len(after.Services()) != len(before.Services()) {
		t.Errorf("error %v, and %d services", err, len(after.Services()))
	}
}
