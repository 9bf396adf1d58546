// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"lvs"
)

// sticky is a world in which clients come to a service of three servers, in the words of listings.
type sticky struct {
	*world
	p    *ebpf.Program
	id   lvs.ServiceID
	port uint16 // the next client's
}

var stickyServers = []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("10.0.0.12"), netip.MustParseAddr("10.0.0.13")}

func onBothHooksSticky(t *testing.T, id lvs.ServiceID, c lvs.ServiceConfig, serverPort uint16, test func(*testing.T, *sticky)) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			w := mustWorld(t, small)
			s := &sticky{world: w, p: hook(w), id: id, port: 1000}
			mustNeighbour(t, w.servers, stickyServers[2], serverMAC)
			w.mustUpdate(func(t *lvs.Table) error { return t.AddService(id, c) })
			for _, a := range stickyServers {
				w.mustUpdate(func(t *lvs.Table) error {
					return t.AddServer(id, lvs.ServerID{Addr: a, Port: serverPort}, lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
				})
			}
			test(t, s)
		})
	}
}

// pass lets time go by, in steps that the sweep sees.
func (s *sticky) pass(d time.Duration) {
	s.t.Helper()
	for step := min(d, 30*time.Second); d > 0; d -= step {
		s.setClock(s.settings.Now + uint32(min(step, d)/time.Second)*s.mustLook().hz)
		for range 2 { // a template that is over waits for the connections that end with it
			s.world.mustSweep()
		}
	}
}

// come sends a packet from a new port of a client, and answers the number of the server that gets it; 0 is none.
func (s *sticky) come(client string, virtual string, mark uint32) int {
	s.t.Helper()
	s.port++
	from := path{lvs.TCP, netip.AddrPortFrom(netip.MustParseAddr(client), s.port), netip.MustParseAddrPort(virtual), netip.AddrPort{}}
	if s.id.Protocol == lvs.UDP {
		from.protocol = lvs.UDP
	}
	return s.send(from, "S", mark)
}

func (s *sticky) send(p path, flags string, mark uint32) int {
	s.t.Helper()
	return s.sendPacket(p.in(flags), mark)
}

func (s *sticky) sendPacket(p packet, mark uint32) int {
	s.t.Helper()
	frame := p.frame(s.t)
	context := contextOf(s.p, s.clients, frame, 0)
	if skb, ok := context.([48]uint32); ok {
		skb[2] = mark
		context = skb
	}
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Context: context}
	verdict, err := s.p.Run(o)
	must(s.t, err)
	out := o.DataOut
	if s.p == s.xdp && verdict == xdpPass {
		_, out = s.run(s.tc, s.clients, frame)
	}
	to := netip.AddrFrom4([4]byte(out[30:34]))
	return slices.Index(stickyServers, to) + 1
}

// establish takes a connection through its handshake.
func (s *sticky) establish(client, virtual string, server string) {
	s.t.Helper()
	p := tcp4.service(virtual, server)
	p.client = netip.AddrPortFrom(netip.MustParseAddr(client), s.port)
	s.run(s.p, s.servers, p.out("SA").frame(s.t))
	s.run(s.p, s.clients, p.in("A").frame(s.t))
}

// templates gives the templates as a listing shows them, and checks that servers count as many.
func (s *sticky) templates() string {
	s.t.Helper()
	var rows []string
	s.mustLook().conns(s.settings.Now, func(c lvs.Conn, err error) bool {
		must(s.t, err)
		if c.Template {
			rows = append(rows, fmt.Sprintf("%v %v %s %v %v %v", c.Protocol, c.Expires, c.StateName(), c.Client, c.Virtual, c.Server))
		}
		return true
	})
	slices.Sort(rows)
	persistent := 0
	for _, l := range s.mustLook().loads {
		persistent += int(l.Persistent)
	}
	if persistent != len(rows) {
		s.t.Errorf("servers count %d templates, there are %d", persistent, len(rows))
	}
	return strings.Join(rows, "\n")
}

func (s *sticky) mustShow(about string, want ...string) {
	s.t.Helper()
	if got := s.templates(); got != strings.Join(want, "\n") {
		s.t.Errorf("%s: templates are\n%s\nwant\n%s", about, got, strings.Join(want, "\n"))
	}
}

func (s *sticky) mustCome(about, client, virtual string, mark uint32, want int) {
	s.t.Helper()
	if got := s.come(client, virtual, mark); got != want {
		s.t.Errorf("%s: server %d gets it, want %d", about, got, want)
	}
}

func (s *sticky) mustSet(name, value string) {
	s.t.Helper()
	setting, err := lvs.Setting(name)
	must(s.t, err)
	must(s.t, s.Set(func(all *lvs.Settings) error { return setting.Set(all, value) }))
	s.settings, err = s.mustLook().settings()
	must(s.t, err)
}

var (
	web4        = serviceID(lvs.TCP, netip.MustParseAddrPort("203.0.113.20:80"))
	persistent4 = lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 300}
)

func TestPersistencePerPort(t *testing.T) {
	onBothHooksSticky(t, web4, persistent4, 8080, func(t *testing.T, s *sticky) {
		s.mustCome("the first", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustCome("another", "198.51.100.8", "203.0.113.20:80", 0, 2)
		s.mustCome("the first again", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustCome("another port has no service", "198.51.100.7", "203.0.113.20:81", 0, 0)
		s.mustShow("two clients",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:80 10.0.0.13:8080",
			"TCP 5m0s NONE 198.51.100.8:0 203.0.113.20:80 10.0.0.12:8080")
		s.establish("198.51.100.7", "203.0.113.20:80", "10.0.0.13:8080")
		s.port-- // the connection before the one that found no service
		s.port--
		s.mustShow("not assured by strangers",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:80 10.0.0.13:8080",
			"TCP 5m0s NONE 198.51.100.8:0 203.0.113.20:80 10.0.0.12:8080")
		s.port++
		s.establish("198.51.100.7", "203.0.113.20:80", "10.0.0.13:8080")
		s.mustShow("one is assured",
			"TCP 5m0s ASSURED 198.51.100.7:0 203.0.113.20:80 10.0.0.13:8080",
			"TCP 5m0s NONE 198.51.100.8:0 203.0.113.20:80 10.0.0.12:8080")
		s.pass(5 * time.Minute)
		s.mustShow("the other has ended, the first has a connection", "TCP 1m0s ASSURED 198.51.100.7:0 203.0.113.20:80 10.0.0.13:8080")
		s.pass(30 * time.Second)
		s.mustCome("again", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustShow("a minute from now on", "TCP 1m0s ASSURED 198.51.100.7:0 203.0.113.20:80 10.0.0.13:8080")
		s.pass(time.Hour)
		s.mustShow("all is over")
		s.mustCome("a new choice", "198.51.100.7", "203.0.113.20:80", 0, 1)
	})
}

func TestPersistenceNetmask(t *testing.T) {
	c := persistent4
	c.Netmask = 0xffffff00
	onBothHooksSticky(t, web4, c, 8080, func(t *testing.T, s *sticky) {
		s.mustCome("one", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustCome("of the same network", "198.51.100.200", "203.0.113.20:80", 0, 3)
		s.mustCome("of another", "198.51.101.7", "203.0.113.20:80", 0, 2)
		s.mustShow("networks",
			"TCP 5m0s NONE 198.51.100.0:0 203.0.113.20:80 10.0.0.13:8080",
			"TCP 5m0s NONE 198.51.101.0:0 203.0.113.20:80 10.0.0.12:8080")
	})
}

func TestPersistencePerClient(t *testing.T) {
	id := web4
	id.Port = 0
	onBothHooksSticky(t, id, persistent4, 0, func(t *testing.T, s *sticky) {
		for _, virtual := range []string{"203.0.113.20:80", "203.0.113.20:443", "203.0.113.20:22"} {
			s.mustCome(virtual, "198.51.100.7", virtual, 0, 3)
		}
		s.mustCome("another client", "198.51.100.8", "203.0.113.20:443", 0, 2)
		s.mustShow("all ports",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:0 10.0.0.13:0",
			"TCP 5m0s NONE 198.51.100.8:0 203.0.113.20:0 10.0.0.12:0")
		var servers []string
		s.mustLook().conns(s.settings.Now, func(c lvs.Conn, err error) bool {
			if !c.Template && c.Client.Addr().String() == "198.51.100.7" {
				servers = append(servers, c.Server.String())
			}
			return true
		})
		slices.Sort(servers)
		if want := []string{"10.0.0.13:22", "10.0.0.13:443", "10.0.0.13:80"}; !slices.Equal(servers, want) {
			t.Errorf("connections go to %v, want %v", servers, want)
		}
	})
}

func TestPersistenceQuiescent(t *testing.T) {
	onBothHooksSticky(t, web4, persistent4, 8080, func(t *testing.T, s *sticky) {
		weight := func(server int, weight int32) func(*lvs.Table) error {
			return func(t *lvs.Table) error {
				return t.EditServer(web4, lvs.ServerID{Addr: stickyServers[server-1], Port: 8080}, lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
			}
		}
		s.mustCome("first", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustUpdate(weight(3, 0))
		s.mustCome("weight 0 keeps its clients", "198.51.100.7", "203.0.113.20:80", 0, 3)
		s.mustSet("expire_quiescent_template", "1")
		s.mustCome("unless set", "198.51.100.7", "203.0.113.20:80", 0, 2)
		s.mustShow("one is lost, a new one is made",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:65535 10.0.0.13:65535",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:80 10.0.0.12:8080")
		s.mustUpdate(func(t *lvs.Table) error {
			return t.DeleteServer(web4, lvs.ServerID{Addr: stickyServers[1], Port: 8080})
		})
		s.mustCome("its server removed", "198.51.100.7", "203.0.113.20:80", 0, 1)
		s.mustUpdate(weight(1, 0), weight(3, 0))
		s.mustCome("nobody is left", "198.51.100.7", "203.0.113.20:80", 0, 0)
		s.pass(time.Hour)
		s.mustShow("all is over")
	})
}

// Lost templates are listed with port 65535; a service on that port finds neither its own nor those of others.
func TestLostTemplatesAreNotThoseOfTheirPort(t *testing.T) {
	last := web4
	last.Port = 65535
	onBothHooksSticky(t, last, persistent4, 8080, func(t *testing.T, s *sticky) {
		weigh := func(id lvs.ServiceID, server int, weight int32) {
			s.mustUpdate(func(t *lvs.Table) error {
				return t.EditServer(id, lvs.ServerID{Addr: stickyServers[server-1], Port: 8080}, lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
			})
		}
		s.mustSet("expire_quiescent_template", "1")
		s.mustCome("first", "198.51.100.7", "203.0.113.20:65535", 0, 3)
		weigh(last, 3, 0)
		s.mustCome("its own is lost", "198.51.100.7", "203.0.113.20:65535", 0, 2)
		weigh(last, 3, 1)
		s.mustCome("and not found again", "198.51.100.7", "203.0.113.20:65535", 0, 2)
		s.mustUpdate(func(t *lvs.Table) error {
			if err := t.AddService(web4, persistent4); err != nil {
				return err
			}
			return t.AddServer(web4, lvs.ServerID{Addr: stickyServers[0], Port: 8080}, lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
		})
		s.mustCome("another service", "198.51.100.8", "203.0.113.20:80", 0, 1)
		weigh(web4, 1, 0)
		s.mustCome("whose template is lost", "198.51.100.8", "203.0.113.20:80", 0, 0)
		weigh(web4, 1, 1)
		s.mustCome("is none of the last port", "198.51.100.8", "203.0.113.20:65535", 0, 1)
		weigh(last, 1, 0)
		s.mustCome("whose own is then lost", "198.51.100.8", "203.0.113.20:65535", 0, 3)
		s.checkLoads()
		s.pass(time.Hour)
		s.mustShow("all is over")
	})
}

func TestPersistentClientsPassThresholds(t *testing.T) {
	onBothHooksSticky(t, web4, persistent4, 8080, func(t *testing.T, s *sticky) {
		s.mustUpdate(func(t *lvs.Table) error {
			return t.EditServer(web4, lvs.ServerID{Addr: stickyServers[2], Port: 8080}, lvs.ServerConfig{Forward: lvs.Masq, Weight: 1, Upper: 2})
		})
		s.mustCome("its template and its connection fill the server", "198.51.100.7", "203.0.113.20:80", 0, 3)
		for range 4 {
			s.mustCome("a known client", "198.51.100.7", "203.0.113.20:80", 0, 3)
		}
		s.mustCome("a new client", "198.51.100.8", "203.0.113.20:80", 0, 2)
		s.mustCome("a new client", "198.51.100.9", "203.0.113.20:80", 0, 1)
		s.mustCome("a new client", "198.51.100.10", "203.0.113.20:80", 0, 2)
	})
}

func TestFTP(t *testing.T) {
	id := serviceID(lvs.TCP, netip.MustParseAddrPort("203.0.113.20:21"))
	onBothHooksSticky(t, id, persistent4, 21, func(t *testing.T, s *sticky) {
		s.mustCome("control", "198.51.100.7", "203.0.113.20:21", 0, 3)
		s.mustCome("data", "198.51.100.7", "203.0.113.20:40000", 0, 3)
		s.mustCome("a privileged port", "198.51.100.7", "203.0.113.20:80", 0, 0)
		s.mustCome("another client's data first", "198.51.100.8", "203.0.113.20:40000", 0, 2)
		s.mustCome("then control", "198.51.100.8", "203.0.113.20:21", 0, 2)
		s.mustShow("for all ports",
			"TCP 5m0s NONE 198.51.100.7:0 203.0.113.20:0 10.0.0.13:0",
			"TCP 5m0s NONE 198.51.100.8:0 203.0.113.20:0 10.0.0.12:0")
		s.port = 19
		s.mustCome("from the port of FTP's data", "198.51.100.7", "203.0.113.20:21", 0, 0)
	})
	onBothHooksSticky(t, id, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff}, 21, func(t *testing.T, s *sticky) {
		s.mustCome("control", "198.51.100.7", "203.0.113.20:21", 0, 3)
		s.mustCome("data without persistence", "198.51.100.7", "203.0.113.20:40000", 0, 0)
	})
}

func TestOnePacket(t *testing.T) {
	id := serviceID(lvs.UDP, netip.MustParseAddrPort("203.0.113.20:53"))
	onBothHooksSticky(t, id, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, OnePacket: true}, 53, func(t *testing.T, s *sticky) {
		p := path{lvs.UDP, netip.MustParseAddrPort("198.51.100.7:999"), netip.MustParseAddrPort("203.0.113.20:53"), netip.AddrPort{}}
		for n, want := range []int{3, 2, 1, 3, 2, 1} {
			if got := s.send(p, "", 0); got != want {
				t.Errorf("packet %d: server %d gets it, want %d", n, got, want)
			}
		}
		live := s.mustLive()
		table, err := s.Table()
		must(t, err)
		v := table.Service(id)
		if live != 0 || v.Stats.Conns != 6 || v.Stats.InPackets != 6 || v.Servers[0].Load != (lvs.Load{}) {
			t.Errorf("%d entries, %+v, %+v", live, v.Stats, v.Servers[0].Load)
		}
	})
	onBothHooksSticky(t, id, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, OnePacket: true, Persistent: 60}, 53, func(t *testing.T, s *sticky) {
		for range 3 {
			s.mustCome("with persistence", "198.51.100.7", "203.0.113.20:53", 0, 3)
		}
		s.mustShow("a template", "UDP 1m0s NONE 198.51.100.7:0 203.0.113.20:53 10.0.0.13:53")
		s.pass(time.Minute)
		s.mustShow("holds nothing")
	})
}

func TestPersistencePerMark(t *testing.T) {
	w := mustWorld(t, small)
	s := &sticky{world: w, p: w.tc, id: lvs.ServiceID{Family: lvs.IPv4, Mark: 77}, port: 1000}
	mustNeighbour(t, w.servers, stickyServers[2], serverMAC)
	w.mustUpdate(func(t *lvs.Table) error { return t.AddService(s.id, persistent4) })
	w.mustUpdate(addService(serviceID(lvs.TCP, netip.MustParseAddrPort("203.0.113.20:80")), "rr", netip.MustParseAddrPort("10.0.0.12:80")))
	for _, a := range stickyServers {
		w.mustUpdate(func(t *lvs.Table) error {
			return t.AddServer(s.id, lvs.ServerID{Addr: a}, lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
		})
	}
	s.mustCome("the mark wins", "198.51.100.7", "203.0.113.20:80", 77, 3)
	s.mustCome("any port", "198.51.100.7", "203.0.113.20:443", 77, 3)
	s.mustCome("no mark", "198.51.100.7", "203.0.113.20:80", 0, 2)
	s.mustCome("another mark", "198.51.100.7", "203.0.113.20:80", 78, 2)
	s.mustShow("one for all", "IP 5m0s NONE 198.51.100.7:0 0.0.0.77:0 10.0.0.13:0")
}

func TestSloppyTCPAndReuse(t *testing.T) {
	onBothHooksSticky(t, web4, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff}, 8080, func(t *testing.T, s *sticky) {
		p := tcp4.service("203.0.113.20:80", "10.0.0.13:8080").from(77)
		for _, c := range []struct {
			about, flags string
			setting      string
			want         int
		}{
			{"an ACK begins nothing", "A", "sloppy_tcp=0", 0},
			{"unless set", "A", "sloppy_tcp=1", 3},
			{"a RST never does", "R", "sloppy_tcp=1", 3}, // of the connection that there is
			{"closed, and begun anew", "S", "conn_reuse_mode=1", 2},
			{"goes on", "A", "conn_reuse_mode=1", 2},
			{"ends", "R", "conn_reuse_mode=0", 2},
			{"no reuse", "S", "conn_reuse_mode=0", 2},
		} {
			name, value, _ := strings.Cut(c.setting, "=")
			s.mustSet(name, value)
			if got := s.send(p, c.flags, 0); got != c.want {
				t.Errorf("%s: server %d gets it, want %d", c.about, got, c.want)
			}
		}
	})
}

func TestExpireNodestConn(t *testing.T) {
	onBothHooksSticky(t, web4, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff}, 8080, func(t *testing.T, s *sticky) {
		remove := func(server int) {
			s.mustUpdate(func(t *lvs.Table) error {
				return t.DeleteServer(web4, lvs.ServerID{Addr: stickyServers[server-1], Port: 8080})
			})
		}
		s.mustSet("on_dead", "drop")
		p := tcp4.service("203.0.113.20:80", "10.0.0.13:8080").from(77)
		s.send(p, "S", 0)
		remove(3)
		if got := s.send(p, "A", 0); got != 0 {
			t.Errorf("a removed server gets a packet")
		}
		s.mustSet("expire_nodest_conn", "1")
		if got := s.send(p, "S", 0); got != 2 {
			t.Errorf("server %d gets the next SYN, want 2", got)
		}
		s.mustUpdate(func(t *lvs.Table) error {
			return t.EditServer(web4, lvs.ServerID{Addr: stickyServers[1], Port: 8080}, lvs.ServerConfig{Forward: lvs.Masq})
		})
		if got := s.send(p, "A", 0); got != 2 {
			t.Errorf("server %d gets a packet of a connection to weight 0, want 2", got)
		}
		if got := s.send(p, "S", 0); got != 1 {
			t.Errorf("server %d gets a SYN to weight 0, want 1", got)
		}
	})
}
