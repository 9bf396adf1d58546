// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lvs"
)

// TestDifferential tells random stories of an operator, of clients and of servers to the eBPF program and to the oracle, which
// have to agree after each step. With XDP, a frame that this leaves goes on to tc, as on the way through the kernel; and with a firewall,
// one that tc leaves goes on to our device.
func TestDifferential(t *testing.T) {
	for _, name := range []string{"tc", "xdp", "firewall"} {
		t.Run(name, func(t *testing.T) {
			withXDP := name == "xdp"
			s := mustStage(t, withXDP)
			if name == "firewall" {
				s.mustFirewall(t)
			}
			rapid.Check(t, s.tell)
			if withXDP && s.fast == 0 {
				t.Error("XDP has sent nothing by itself")
			}
		})
	}
}

func (s *stage) tell(t *rapid.T) {
	s.mustBegin(t, rapid.SampledFrom([]uint32{1 << 20, 1<<31 - 20_000, 1<<32 - 20_000}).Draw(t, "clock"))
	s.change(t, drawTable(t))
	if rapid.IntRange(0, 3).Draw(t, "strays") == 0 { // which two settings of many seldom let anything be seen of
		s.set(t, "strays", func(all *lvs.Settings) error { all.NATICMPSend, all.ScheduleICMP = 1, 1; return nil })
	}
	t.Repeat(map[string]func(*rapid.T){
		"edit":    func(t *rapid.T) { s.change(t, s.drawEdit(t)) },
		"packet":  func(t *rapid.T) { s.send(t, s.drawPacket(t)) },
		"request": s.request,
		"answer":  s.answer,
		"nobody":  s.nobody,
		"crowd":   s.crowd,
		"time":    s.time,
		"setting": s.setting,
		"disown":  s.disown,
		"":        func(t *rapid.T) { s.checkState(t) },
	})
	s.mustEnd(t)
}

// change puts a change to both, which both make or both refuse alike.
func (s *stage) change(t *rapid.T, change func(*lvs.Table) error) {
	got, want := s.Update(change), s.judge.Update(change)
	if !errors.Is(got, want) || (want == nil) != (got == nil) {
		t.Fatalf("a change answers %v, want %v", got, want)
	}
	s.mustSweep(t) // connections may have ended with their servers
}

// send lets a packet come in on the side where its sender is.
func (s *stage) send(t *rapid.T, w wire) {
	if s.firewall { // else the kernel answers, or drops the packet
		w.ttl, w.damages = max(w.ttl, 2), nil
	}
	t.Logf("%+v", w)
	side := clientSide
	if hop, ok := s.route(w.from.Addr()); ok {
		side = hop.Interface
	}
	s.checkPacket(t, side, w)
}

// answer lets a server of a connection speak.
func (s *stage) answer(t *rapid.T) {
	c := s.drawConn(t)
	if c == nil {
		t.Skip("nobody to answer")
	}
	to := c.Client
	if c.Local.IsValid() {
		to = c.Local
	}
	w := drawBody(t, c.Protocol, c.Server, to)
	w.flags = drawFlags(t, c.Protocol, flagsOfServers)
	s.send(t, w)
}

// request lets the client of a connection go on.
func (s *stage) request(t *rapid.T) {
	c := s.drawConn(t)
	if c == nil {
		t.Skip("nobody to go on")
	}
	w := drawBody(t, c.Protocol, c.Client, c.Virtual)
	w.flags = drawFlags(t, c.Protocol, flagsOfClients)
	s.send(t, w)
}

// nobody lets a server speak whom nobody may have asked, or somebody complain about a connection that may not be there.
func (s *stage) nobody(t *rapid.T) {
	n := s.drawPresent(t)
	protocol, door, mark := s.drawDoor(t, n)
	client := netip.AddrPortFrom(rapid.SampledFrom(castOf(clients, stageServices[n].Family)).Draw(t, "client"), rapid.Uint16Range(20_000, 20_005).Draw(t, "port"))
	if rapid.IntRange(0, 2).Draw(t, "error") == 0 {
		w := drawBody(t, protocol, client, door)
		drawError(t, &w)
		w.mark = mark
		s.send(t, w)
		return
	}
	member := s.drawMember(t, n)
	w := drawBody(t, protocol, netip.AddrPortFrom(member.Addr, member.Port), client)
	s.drawCall(t, n, &w)
	w.flags = drawFlags(t, protocol, flagsOfServers)
	s.send(t, w)
}

// crowd lets many clients come at once.
func (s *stage) crowd(t *rapid.T) {
	v := s.drawPresent(t)
	client := rapid.SampledFrom(castOf(clients, stageServices[v].Family)).Draw(t, "client")
	first := rapid.IntRange(0, 40).Draw(t, "first")
	protocol, to, mark := s.drawDoor(t, v)
	for n := range rapid.IntRange(1, 20).Draw(t, "crowd") {
		w := wire{
			protocol: protocol, from: netip.AddrPortFrom(client, uint16(20_003+first+n)),
			to: to, flags: 2, ttl: 64, payload: n, mark: mark,
		}
		if protocol == lvs.SCTP {
			w.flags = 1 // INIT
		}
		s.drawCall(t, v, &w)
		s.send(t, w)
	}
	if n := s.entries(); n > stageConns*3/4 {
		s.mustAdvance(t, 1000*s.in.hz)
	}
}

// time moves the clock: by a little, by much, or to about when a connection ends.
func (s *stage) time(t *rapid.T) {
	jiffies := rapid.SampledFrom([]uint32{1, s.in.hz, 2 * s.in.hz, 10 * s.in.hz, 60 * s.in.hz, 301 * s.in.hz, 1000 * s.in.hz}).Draw(t, "jiffies")
	if rapid.Bool().Draw(t, "to an end") {
		if c := s.drawConn(t); c != nil {
			left := s.jiffies(c.Expires)
			jiffies = left - rapid.Uint32Range(0, min(left, 2)).Draw(t, "before")
		}
	}
	s.mustAdvance(t, jiffies)
}

// setting changes one of the settings.
func (s *stage) setting(t *rapid.T) {
	name := rapid.SampledFrom(drawnSettings).Draw(t, "setting")
	values := []int{0, 1, int(min(name.Max, 100)), int(name.Max)}
	if name.Name == "secure_tcp" { // 1 and 2 follow how full the table is
		values = []int{0, 3}
	}
	value := strconv.Itoa(rapid.SampledFrom(values).Draw(t, "value"))
	if name.Words != nil {
		value = rapid.SampledFrom(name.Words).Draw(t, "word")
	}
	change := func(all *lvs.Settings) error { return name.Set(all, value) }
	if rapid.IntRange(0, 9).Draw(t, "compat") == 0 {
		compat := rapid.SampledFrom([]string{lvs.CompatDirector, lvs.CompatKernel}).Draw(t, "compat")
		change = func(all *lvs.Settings) error {
			dropEntry := all.DropEntry // a full table is to be full
			err := all.SetCompat(compat)
			all.DropEntry = dropEntry
			return err
		}
	}
	s.set(t, name.Name, change)
}

func (s *stage) set(t *rapid.T, what string, change func(*lvs.Settings) error) {
	mustDo(t, what, s.Set(change))
	mustDo(t, what, s.judge.Set(change))
}

// disown takes connections away from a server.
func (s *stage) disown(t *rapid.T) {
	n, conns := s.drawPresent(t), rapid.Bool().Draw(t, "conns")
	server := s.drawMember(t, n)
	got, gotErr := s.Disown(stageServices[n], server, conns)
	want, wantErr := s.judge.Disown(stageServices[n], server, conns)
	if got != want || !errors.Is(gotErr, wantErr) || (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("disowned: %d, %v, want %d, %v", got, gotErr, want, wantErr)
	}
	s.mustSweep(t)
}

// entries counts what lies in the connection table.
func (s *stage) entries() (n int) {
	for c := range s.judge.Conns() {
		n++
		if c.Local.IsValid() { // whose answers find another entry
			n++
		}
	}
	return n
}

// drawnConns are the connections, in an order that does not change.
func (s *stage) drawnConns() []lvs.Conn {
	var all []lvs.Conn
	for c := range s.judge.Conns() {
		if !c.Template {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b lvs.Conn) int {
		if n := a.Client.Compare(b.Client); n != 0 {
			return n
		}
		return strings.Compare(a.Virtual.String()+a.Protocol.String(), b.Virtual.String()+b.Protocol.String())
	})
	return all
}

func (s *stage) drawConn(t *rapid.T) *lvs.Conn {
	all := s.drawnConns()
	if len(all) == 0 {
		return nil
	}
	c := rapid.SampledFrom(all).Draw(t, "connection")
	return &c
}

// The cast: services, clients and servers.

type role uint8

const (
	clients role = 1 << iota
	servers
	everybody = clients | servers
)

var cast = []struct {
	role
	addr netip.Addr
}{
	{clients, netip.MustParseAddr("10.1.0.1")},
	{clients, netip.MustParseAddr("10.1.0.2")},
	{clients, netip.MustParseAddr("10.66.0.1")}, // no way back
	{clients, netip.MustParseAddr("10.3.0.1")},  // a narrow way back
	{clients, netip.MustParseAddr("2001:db8:1::1")},
	{clients, netip.MustParseAddr("2001:db8:1::2")},
	{clients, netip.MustParseAddr("2001:db8:66::1")},
	{clients, netip.MustParseAddr("2001:db8:3::1")},
	{everybody, netip.MustParseAddr("10.2.0.11")},
	{servers, netip.MustParseAddr("10.2.0.12")},
	{servers, netip.MustParseAddr("10.1.0.21")}, // where the clients are
	{servers, netip.MustParseAddr("10.3.0.11")},
	{servers, netip.MustParseAddr("10.66.0.11")},
	{everybody, netip.MustParseAddr("2001:db8:2::11")},
	{servers, netip.MustParseAddr("2001:db8:2::12")},
	{servers, netip.MustParseAddr("2001:db8:1::21")},
	{servers, netip.MustParseAddr("2001:db8:3::11")},
	{servers, netip.MustParseAddr("2001:db8:66::11")},
}

// castOf gives the addresses of a role, of some families or of all.
func castOf(r role, families ...lvs.Family) (all []netip.Addr) {
	for _, c := range cast {
		family := lvs.IPv4
		if c.addr.Is6() {
			family = lvs.IPv6
		}
		if c.role&r != 0 && (families == nil || slices.Contains(families, family)) {
			all = append(all, c.addr)
		}
	}
	return all
}

var stageServices = []lvs.ServiceID{
	{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.0.1"), Port: 80},
	{Family: lvs.IPv6, Protocol: lvs.TCP, Addr: netip.MustParseAddr("2001:db8:9::1"), Port: 80},
	{Family: lvs.IPv4, Protocol: lvs.UDP, Addr: netip.MustParseAddr("10.9.0.1"), Port: 53},
	{Family: lvs.IPv6, Protocol: lvs.UDP, Addr: netip.MustParseAddr("2001:db8:9::1"), Port: 53},
	{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.0.2"), Port: 80},
	{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.0.3"), Port: 80}, // its servers are not always of NAT
	{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.0.1")},
	{Family: lvs.IPv6, Protocol: lvs.UDP, Addr: netip.MustParseAddr("2001:db8:9::1")},
	{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.0.1"), Port: 21},
	{Family: lvs.IPv4, Mark: 7},
	{Family: lvs.IPv6, Mark: 7},
	{Family: lvs.IPv4, Protocol: lvs.SCTP, Addr: netip.MustParseAddr("10.9.0.1"), Port: 2905},
	{Family: lvs.IPv6, Protocol: lvs.SCTP, Addr: netip.MustParseAddr("2001:db8:9::1"), Port: 2905},
}

const oddService = 5

// drawDoor is an address at which a service is reached, with the mark that this takes. Those without a port are reached at
// any; those of a mark at whatever address is a service's.
func (s *stage) drawDoor(t *rapid.T, service int) (lvs.Protocol, netip.AddrPort, uint32) {
	id := stageServices[service]
	if id.Mark != 0 {
		for n, other := range stageServices {
			if other.Mark == 0 && other.Family == id.Family && s.there(n) && rapid.IntRange(0, 3).Draw(t, "at") != 0 {
				protocol, to, _ := s.drawDoor(t, n)
				return protocol, to, id.Mark * s.marks
			}
		}
		id = stageServices[0]
	}
	port := id.Port
	if port == 0 || port == 21 && rapid.Bool().Draw(t, "data") {
		port = rapid.SampledFrom([]uint16{80, 53, 20, 1023, 1024, 2000}).Draw(t, "port")
	}
	return id.Protocol, netip.AddrPortFrom(id.Addr, port), 0
}

// there says whether a service exists.
func (s *stage) there(service int) bool {
	table, _ := s.judge.Table()
	return table.Service(stageServices[service]) != nil
}

// drawnSettings are those that stories change: all but for the defences that depend on how full the table is, and on chance.
var drawnSettings = slices.DeleteFunc(slices.Clone(lvs.SettingNames), func(n lvs.SettingName) bool {
	return slices.Contains([]string{"am_droprate", "amemthresh", "drop_entry", "drop_packet"}, n.Name)
})
