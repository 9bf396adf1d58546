// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

var (
	local4, local6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	fullPaths      = []path{
		tcp4.service("203.0.113.10:93", "10.0.0.11:93"), tcp6.service("[2001:db8:f::10]:93", "[fd00::11]:93"),
		udp4.service("203.0.113.10:94", "10.0.0.11:94"), udp6.service("[2001:db8:f::10]:94", "[fd00::11]:94"),
	}
)

func localOf(p path) netip.Addr {
	if p.server.Addr().Is6() {
		return local6
	}
	return local4
}

// addFull is a change that adds a service with a server that is reached by FULLNAT, from a range of ports.
func addFull(p path, ports lvs.Ports) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		if err := addWay(p.id(), p.server.Addr(), lvs.ServerConfig{Forward: lvs.FullNAT})(t); err != nil {
			return err
		}
		id := p.id()
		return t.AddLocal(&id, lvs.LocalAddr{Addr: localOf(p), Ports: ports})
	}
}

// between gives a frame along a path as it is between director and server, from the local port.
func (p packet) between(t *testing.T, local netip.AddrPort) path {
	along := p.path
	along.client, along.virtual = local, along.server
	return along
}

// conns are the connections by the program's clock.
func (w *world) conns() (all []lvs.Conn) {
	w.t.Helper()
	w.mustLook().conns(w.settings.Now, func(c lvs.Conn, err error) bool {
		if err != nil {
			panic(err) // also where no test may end
		}
		all = append(all, c)
		return true
	})
	return all
}

// localPort finds the local address and port that a connection was given.
func (w *world) localPort(p path) netip.AddrPort {
	w.t.Helper()
	for _, c := range w.conns() {
		if c.Client == p.client && c.Virtual == p.virtual {
			return c.Local
		}
	}
	w.t.Fatalf("no connection of %v", p.client)
	return netip.AddrPort{}
}

// wholeSum says whether the checksums of a frame of TCP without extension headers are right.
func wholeSum(frame []byte) bool {
	ip := frame[headers : headers+ipLength(frame)]
	head, addrs := 40, ip[8:40]
	if ip[0]>>4 == 4 {
		if head, addrs = 20, ip[12:20]; sum16(ip[:20]) != 0xffff {
			return false
		}
	}
	segment := ip[head:]
	all := append(bytes.Clone(addrs), 0, 6, byte(len(segment)>>8), byte(len(segment)))
	return sum16(append(append(all, segment...), 0)) == 0xffff
}

func TestFullNAT(t *testing.T) {
	for _, along := range fullPaths {
		t.Run(fmt.Sprint(along.protocol, along.server.Addr()), func(t *testing.T) {
			onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
				w.mustUpdate(addFull(along, lvs.DefaultLocalPorts))
				_, in, out := w.twice(p, along)
				along := along.from(4001)
				local := w.localPort(along)
				if local.Addr() != localOf(along) || local.Port() < 1024 || local.Port() > 32767 {
					t.Fatalf("the server sees %v", local)
				}
				sent := along.in("S")
				between := sent
				between.path = sent.between(t, local)
				if want := once(t, between.frame(t)); !bytes.Equal(out[14:], want) {
					t.Errorf("the packet is\n%swant\n%s", hex.Dump(out[14:]), hex.Dump(want))
				}
				_ = in
				for range 2 { // the kernel's turn to look for the client
					answer := along.out("SA")
					answer.client = local
					_, out = w.run(p, w.servers, answer.frame(t))
				}
				if want := along.out("SA").forwarded(t, out[6:12]); !bytes.Equal(out[14:], want[14:]) {
					t.Errorf("the answer is\n%swant\n%s", hex.Dump(out[14:]), hex.Dump(want[14:]))
				}
			})
		})
	}
}

// told takes the option out of a packet of TCP: the client that it names, and the packet without it.
func told(t *testing.T, frame []byte) (netip.AddrPort, []byte) {
	t.Helper()
	ip := headers
	tcp := ip + 20
	if frame[12] == 0x86 {
		tcp = ip + 40
	}
	options := frame[tcp+20 : tcp+int(frame[tcp+12]>>4)*4]
	for at := 0; at < len(options); at += max(1, int(options[at+1])) {
		if options[at] == 254 {
			length := int(options[at+1])
			addr, _ := netip.AddrFromSlice(options[at+4 : at+length])
			rest := slices.Delete(bytes.Clone(frame), tcp+20+at, tcp+20+at+length)
			return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(options[at+2:])), rest
		}
		if options[at] <= 1 {
			at--
			options = options[1:]
			at++
		}
	}
	return netip.AddrPort{}, frame
}

// The server is told who the client is until it has answered.
func TestServersHearOfTheClient(t *testing.T) {
	for _, along := range fullPaths[:2] {
		for _, data := range []string{"", "request", "odd"} {
			t.Run(fmt.Sprintf("%v/%d bytes", along.server.Addr(), len(data)), func(t *testing.T) {
				onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) { testHearing(t, w, p, along, data) })
			})
		}
	}
}

func testHearing(t *testing.T, w *world, p *ebpf.Program, along path, data string) {
	w.mustUpdate(addFull(along, lvs.DefaultLocalPorts))
	w.twice(p, along)
	along = along.from(4001)
	ack := along.in("A")
	ack.payload = []byte(data)
	ack.tail = 3
	answer := along.out("A")
	answer.client = w.localPort(along)
	in := ack.frame(t)
	verdict, out := w.run(p, w.clients, in)
	if verdict != tcRedirect && verdict != xdpRedirect {
		t.Fatalf("the verdict is %d", int32(verdict))
	}
	client, rest := told(t, out)
	if client != along.client {
		t.Errorf("the server hears of %v, want %v", client, along.client)
	}
	size := 8
	if along.client.Addr().Is6() {
		size = 20
	}
	if extra := len(out) - len(in); extra != size && extra != size-3 || !wholeSum(out) {
		t.Errorf("%d bytes more, and the checksum is right: %v\n%s", extra, wholeSum(out), hex.Dump(out))
	}
	if got := rest[len(rest)-len(data)-(len(out)-headers-ipLength(out)):]; !bytes.HasPrefix(got, []byte(data)) {
		t.Errorf("the data is %q", got)
	}
	w.run(w.tc, w.servers, answer.frame(t))
	w.run(w.tc, w.servers, answer.frame(t))
	for name, hook := range hooks {
		_, out = w.run(hook(w), w.clients, in)
		if client, _ := told(t, out); client.IsValid() || !wholeSum(out) {
			t.Errorf("%s: the server still hears of %v", name, client)
		}
	}
}

// Where there is no room for the client's address, packets go on without it, and are counted.
func TestNoRoomForTheClient(t *testing.T) {
	onBothHooks(t, testNoRoom)
}

func testNoRoom(t *testing.T, w *world, p *ebpf.Program) {
	along := fullPaths[0]
	w.mustUpdate(addFull(along, lvs.DefaultLocalPorts))
	w.twice(p, along)
	along = along.from(4001)
	local := w.localPort(along)
	for name, change := range map[string]func(*packet){
		"full to the MTU":    func(p *packet) { p.payload = make([]byte, serverMTU-40) },
		"behind IP options":  func(p *packet) { p.options = 4 },
		"almost full":        func(p *packet) { p.payload = make([]byte, serverMTU-44) },
		"behind two options": func(p *packet) { p.options = 8 },
	} {
		before := w.mustReasons()[bpfReasonREASON_TOA_NO_ROOM]
		in := along.in("A")
		change(&in)
		verdict, out := w.run(p, w.clients, in.frame(t))
		between := in
		between.path = in.between(t, local)
		if want := once(t, between.frame(t)); verdict != tcRedirect && verdict != xdpRedirect || !bytes.Equal(out[14:], want) {
			t.Errorf("%s: verdict %d, the packet is\n%swant\n%s", name, int32(verdict), hex.Dump(out[14:]), hex.Dump(want))
		}
		if n := w.mustReasons()[bpfReasonREASON_TOA_NO_ROOM] - before; n != 1 {
			t.Errorf("%s: counted %d times", name, n)
		}
	}
}

// A port serves each server once. What is over frees its port, and a pool without one refuses.
func TestPortsOfAPool(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		for _, along := range fullPaths {
			const ports = 5
			w.mustUpdate(addFull(along, lvs.Ports{First: 2000, Last: 2000 + ports - 1}))
			seen := map[netip.AddrPort]bool{}
			open := func(i int) {
				one := along.from(uint16(5000 + i)).in("S")
				w.run(p, w.clients, one.frame(t))
				if i < ports {
					seen[w.localPort(one.path)] = true
				}
			}
			for i := range ports {
				open(i)
			}
			if len(seen) != ports {
				t.Fatalf("%v: %d connections have the local ports %v", along.protocol, ports, seen)
			}
			before := w.mustReasons()[bpfReasonREASON_NO_LOCAL_PORT]
			open(ports) // XDP leaves the answer to tc
			if _, out := w.run(w.tc, w.clients, along.from(5100).in("S").frame(t)); out[23] != 1 && out[20] != 58 {
				t.Errorf("%v: the answer is no ICMP error:\n%s", along.protocol, hex.Dump(out))
			}
			if w.mustReasons()[bpfReasonREASON_NO_LOCAL_PORT] == before {
				t.Errorf("%v: not counted", along.protocol)
			}
			w.mustExpire()
			clear(seen)
			for i := range ports {
				open(i)
			}
			if len(seen) != ports {
				t.Errorf("%v: then %v", along.protocol, seen)
			}
			w.mustExpire()
			w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(along.id()) })
		}
	})
}

// The pool that is shared serves those who have none of their own; connections outlive the addresses that they use.
func TestPoolsAreSharedOrOwn(t *testing.T) {
	w := mustWorld(t, small)
	one, two := fullPaths[0], fullPaths[2]
	own, shared := lvs.LocalAddr{Addr: local4, Ports: lvs.Ports{First: 2000, Last: 2009}}, lvs.LocalAddr{Addr: local4, Ports: lvs.Ports{First: 3000, Last: 3009}}
	id := one.id()
	w.mustUpdate(
		addWay(one.id(), one.server.Addr(), lvs.ServerConfig{Forward: lvs.FullNAT}), addWay(two.id(), two.server.Addr(), lvs.ServerConfig{Forward: lvs.FullNAT}),
		func(t *lvs.Table) error { return t.AddLocal(&id, own) }, func(t *lvs.Table) error { return t.AddLocal(nil, shared) },
		func(t *lvs.Table) error {
			return t.AddLocal(nil, lvs.LocalAddr{Addr: local6, Ports: lvs.DefaultLocalPorts})
		},
	)
	open := func(p path, port uint16) uint16 {
		p = p.from(port)
		w.run(w.tc, w.clients, p.in("S").frame(t))
		return w.localPort(p).Port() / 1000
	}
	if a, b := open(one, 1), open(two, 1); a != 2 || b != 3 {
		t.Errorf("the service with a pool of its own has ports %d000 on, the other one %d000", a, b)
	}
	table, err := w.Table()
	must(t, err)
	if got := fmt.Sprint(table.Locals, table.Service(id).Locals); got != "[{10.0.0.1 3000-3009} {fd00::1 1024-32767}] [{10.0.0.1 2000-2009}]" {
		t.Errorf("the table has %s", got)
	}
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteLocal(&id, local4) })
	if a := open(one, 2); a != 3 {
		t.Errorf("without its own pool the service has ports %d000 on", a)
	}
	old := one.from(1)
	answer := old.out("SA")
	answer.client = w.localPort(old)
	for range 2 {
		if verdict, _ := w.run(w.tc, w.servers, answer.frame(t)); verdict != tcRedirect {
			t.Errorf("an answer to a local address that was taken away: %d", int32(verdict))
		}
	}
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteLocal(nil, local4) })
	if verdict, out := w.run(w.tc, w.clients, one.from(3).in("S").frame(t)); verdict != tcRedirect || out[23] != 1 {
		t.Errorf("without local addresses the verdict is %d", int32(verdict))
	}
	w.checkConsistent()
}

// Templates count the connections of FULLNAT as they do others.
func TestPersistenceWithFullNAT(t *testing.T) {
	w := mustWorld(t, small)
	along := fullPaths[0]
	w.mustUpdate(addFull(along, lvs.DefaultLocalPorts), func(t *lvs.Table) error {
		return t.EditService(along.id(), lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 100})
	})
	for i := range 10 {
		w.run(w.tc, w.clients, along.from(uint16(1+i)).in("S").frame(t))
	}
	if l := w.mustLoads(along); l[0] != (lvs.Load{Active: 10, Persistent: 1}) {
		t.Errorf("the server carries %+v", l[0])
	}
	table, err := w.mustLook().entries()
	must(t, err)
	for at, e := range table.all() {
		if e.Kind == kindTemplate && table.links[at] != 10 {
			t.Errorf("the template has %d connections", table.links[at])
		}
	}
	w.mustExpire()
}

// From two CPUs at once, towards one server: no port is given twice, and each that is over is free.
func TestPortsAreExact(t *testing.T) {
	const each = 2000
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 4, Servers: 16})
	w.settings.SweepSlice = 0
	w.setClock(w.settings.Now)
	along := fullPaths[0]
	w.mustUpdate(addFull(along, lvs.Ports{First: 1000, Last: 1000 + 2*each + each/2}))
	w.onCPUs(2, func(cpu int) {
		for i := range each {
			w.run(w.tc, w.clients, along.nth(cpu*each+i).in("S").frame(t))
		}
	})
	seen := map[netip.AddrPort]bool{}
	for _, c := range w.conns() {
		if seen[c.Local] || !c.Local.IsValid() {
			t.Fatalf("the local port %v is that of two connections, or of none", c.Local)
		}
		seen[c.Local] = true
	}
	if len(seen) != 2*each {
		t.Errorf("%d connections, want %d", len(seen), 2*each)
	}
	w.checkLoads()
	w.mustExpire()
}
