// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// outcome is what becomes of a packet.
type outcome int

const (
	forwarded  outcome = iota + 1
	passed             // left to the kernel as it came
	translated         // left to the kernel, with new address and port
	dropped
	answered // with an ICMP error; as XDP sees it, passed
)

// The services of the table of packets. The client's port is each row's own.
var (
	tcp4 = path{lvs.TCP, netip.AddrPortFrom(client4, 1), netip.MustParseAddrPort("203.0.113.10:80"), netip.AddrPortFrom(server4, 8080)}
	tcp6 = path{lvs.TCP, netip.AddrPortFrom(client6, 1), netip.MustParseAddrPort("[2001:db8:f::10]:80"), netip.AddrPortFrom(server6, 8080)}
	udp4 = path{lvs.UDP, tcp4.client, netip.MustParseAddrPort("203.0.113.10:53"), netip.AddrPortFrom(server4, 5353)}
	udp6 = path{lvs.UDP, tcp6.client, netip.MustParseAddrPort("[2001:db8:f::10]:53"), netip.AddrPortFrom(server6, 5353)}

	serverless4 = tcp4.service("203.0.113.10:81", "10.0.0.11:8080")
	serverless6 = tcp6.service("[2001:db8:f::10]:81", "[fd00::11]:8080")
	quiesced    = tcp4.service("203.0.113.10:82", "10.0.0.11:8082")
	removed     = tcp4.service("203.0.113.10:83", "10.0.0.12:8083")
	unreachable = tcp4.service("203.0.113.10:84", "172.31.255.1:8084")
	local       = tcp4.service("203.0.113.10:85", "10.0.0.1:8085")
	turns       = tcp4.service("203.0.113.10:86", "10.0.0.11:8086") // the second of two
	callless    = tcp4.service("203.0.113.10:87", "10.0.0.11:8087")
	refusing    = tcp4.service("203.0.113.10:88", "10.0.0.11:8088")
	noService   = tcp4.service("203.0.113.10:99", "10.0.0.11:8099")
	noAddress   = tcp4.service("203.0.113.99:80", "10.0.0.11:8080")
)

func (p path) service(virtual, server string) path {
	p.virtual, p.server = netip.MustParseAddrPort(virtual), netip.MustParseAddrPort(server)
	return p
}

func (w *world) mustServe() {
	w.t.Helper()
	for _, p := range []path{tcp4, tcp6, udp4, udp6, quiesced, removed, unreachable, local} {
		w.mustUpdate(addService(p.id(), "rr", p.server))
	}
	w.mustUpdate(addService(serverless4.id(), "rr"), addService(serverless6.id(), "rr"), addPersistent(callless.id(), callless.server))
	w.mustUpdate(addService(refusing.id(), lvs.NoScheduler, refusing.server))
	w.mustUpdate(addService(turns.id(), "rr", turns.server, netip.AddrPortFrom(other4, 8086)))
	must(w.t, netlink.RouteAdd(&netlink.Route{Dst: mustPrefix(w.t, "172.31.0.0/16"), Type: unix.RTN_UNREACHABLE}))
	// the first packets to an address go by the kernel, so that it verifies its neighbours
	for _, p := range []path{tcp4, tcp6, removed} {
		for range 2 {
			w.run(w.tc, w.clients, p.from(9).in("S").frame(w.t))
			w.run(w.tc, w.servers, p.from(9).out("SA").frame(w.t))
		}
	}
}

func mustPrefix(t testing.TB, s string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(s)
	must(t, err)
	return n
}

// row is a packet and what becomes of it.
type row struct {
	does    string
	held    []packet // seen before: what the table holds
	change  func(*lvs.Table) error
	in      packet
	damage  func(frame []byte) []byte
	becomes outcome
	reason  bpfReason
	kind4   layers.ICMPv4TypeCode // of the answer
	kind6   layers.ICMPv6TypeCode
	mtu     uint32
}

func TestPackets(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		for n, r := range rows {
			w.check(p, r, 1000+uint16(n))
		}
	})
}

// onBothHooks runs a test for each program, in a world of its own with the services of the table.
func onBothHooks(t *testing.T, test func(*testing.T, *world, *ebpf.Program)) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			w := mustWorld(t, small)
			w.mustServe()
			test(t, w, hook(w))
		})
	}
}

var hooks = map[string]func(w *world) *ebpf.Program{
	"tc":  func(w *world) *ebpf.Program { return w.tc },
	"xdp": func(w *world) *ebpf.Program { return w.xdp },
}

// check runs a row with a port of the client.
func (w *world) check(p *ebpf.Program, r row, port uint16) {
	w.t.Helper()
	for _, h := range r.held {
		h.path = h.from(port)
		if got, _ := w.run(p, w.side(h), h.frame(w.t)); got == tcDrop || got == xdpDrop {
			w.t.Errorf("%s: what comes before is dropped", r.does)
		}
	}
	if r.change != nil {
		w.mustUpdate(r.change)
	}
	r.in.path = r.in.from(port)
	frame := r.in.frame(w.t)
	if r.damage != nil {
		frame = r.damage(frame)
	}
	before := w.mustReasons()
	verdict, out := w.run(p, w.side(r.in), frame)
	after := w.mustReasons()
	wantVerdict, want, counted := r.wanted(w, p.Type() == ebpf.XDP, frame)
	if verdict != wantVerdict {
		w.t.Errorf("%s: the verdict is %d, want %d", r.does, int32(verdict), int32(wantVerdict))
	}
	if want != nil && !bytes.Equal(out, want) {
		w.t.Errorf("%s: the packet is\n%s\nwant\n%s", r.does, hex.Dump(out), hex.Dump(want))
	}
	for reason := range after {
		n := uint64(0)
		if counted && r.reason == bpfReason(reason) {
			n = 1
		}
		if got := after[reason] - before[reason]; got != n {
			w.t.Errorf("%s: reason %d counts %d, want %d", r.does, reason, got, n)
		}
	}
}

// side is the interface that a packet comes in by.
func (w *world) side(p packet) netlink.Link {
	if p.answer {
		return w.servers
	}
	return w.clients
}

// wanted gives verdict, frame, and whether the reason is counted. XDP drops and forwards; all else it leaves to tc, which
// counts it then.
func (r *row) wanted(w *world, xdp bool, frame []byte) (verdict uint32, out []byte, counted bool) {
	counted = r.reason != bpfReasonREASON_NONE
	switch {
	case r.becomes == forwarded:
		by := w.servers
		if r.in.answer {
			by = w.clients
		}
		out = r.in.forwarded(w.t, by.Attrs().HardwareAddr)
		if xdp {
			return xdpRedirect, out, counted
		}
		return tcRedirect, out, counted
	case r.becomes == dropped && xdp:
		return xdpDrop, nil, counted
	case r.becomes == dropped:
		return tcDrop, nil, counted
	case xdp:
		return xdpPass, frame, false
	case r.becomes == answered:
		return tcRedirect, icmpError(w.t, frame, r.kind4, r.kind6, r.mtu), counted
	case r.becomes == translated:
		return tcPass, r.in.translated(w.t), counted
	}
	return tcPass, frame, counted
}
